// The gradients of pooling: a thread owns one input pixel x VEC channels, and gathers from the windows that hold it.
//
// Nothing is scattered and nothing is added atomically, so that two runs give the same bits. Only windows that hold the pixel are
// visited: of 3x3 with stride 2 at most four. Memory bandwidth is the bound.
#include "winners.cuh"

struct PoolGradParams {
    const void *g, *winners;
    void *dx;
    i64 N, C, H, W, P, Q, R, S;
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 g_n, g_c, g_h, g_w, w_n, w_c, w_h, w_w, dx_n, dx_c, dx_h, dx_w;
    i64 count_include_pad, divisor;  // divisor 0: count the pixels
    i64 channels_last;               // neighbouring threads take neighbouring channels, else pixels
    i64 by_h, by_w, by_d, by_e;      // reciprocals of strides and dilations
};

constexpr int MAX = 0, AVERAGE = 1, ADAPTIVE = 2, ADAPTIVE_MAX = 3;

// The windows along one axis that may hold pixel h: first .. last. Of windows of a given size, h is at tap (h + pad - p * step) /
// dilation of window p, where that is whole.
struct Span {
    int first, last;
};
__device__ __forceinline__ Span span(int h, int pad, int taps, int step, int dilation, i64 by_step, int count) {
    const int reach = max(h + pad - (taps - 1) * dilation, 0) + step - 1;
    return {quotient(reach, by_step), min(quotient(h + pad, by_step), count - 1)};
}
// Of windows of which number p is floor(p * size / count) to ceil((p + 1) * size / count) - 1.
__device__ __forceinline__ Span adaptive_span(int h, i64 size, i64 count) {
    return {int(quotient64(h * count, size)), int(quotient64((h + 1) * count - 1, size))};
}
__device__ __forceinline__ int adaptive_size(i64 p, i64 size, i64 count) {
    return int(quotient64((p + 1) * size + count - 1, count) - quotient64(p * size, count));
}

// A window's divisor in average pooling, as pool.cu has it.
__device__ __forceinline__ float divisor_of(const PoolGradParams &p, int h0, int w0) {
    if (p.divisor) return float(p.divisor);
    const int R = int(p.R), S = int(p.S), H = int(p.H), W = int(p.W);
    if (p.count_include_pad) return float((min(h0 + R, H + int(p.top)) - h0) * (min(w0 + S, W + int(p.left)) - w0));
    return float((min(h0 + R, H) - max(h0, 0)) * (min(w0 + S, W) - max(w0, 0)));
}

// dx = the sum over the windows that hold the pixel of g / divisor, or of g where the pixel won.
template <typename T, int VEC, int KIND, int WINNERS> __global__ void __launch_bounds__(256) pool_grad(const PoolGradParams p) {
    begin();
    const Place at = place<VEC>(p.N, p.C, p.H, p.W, p.channels_last);
    if (!at.valid) return;
    constexpr bool FIXED = KIND == MAX || KIND == AVERAGE;
    using Index = typename Winner<WINNERS>::Index;
    using Stored = typename Winner<WINNERS>::Stored;
    const Span rows = FIXED ? span(at.p, int(p.top), int(p.R), int(p.stride_h), int(p.dilation_h), p.by_h, int(p.P))
                            : adaptive_span(at.p, p.H, p.P);
    const Span columns = FIXED ? span(at.q, int(p.left), int(p.S), int(p.stride_w), int(p.dilation_w), p.by_w, int(p.Q))
                               : adaptive_span(at.q, p.W, p.Q);
    const T *g = static_cast<const T *>(p.g) + at.n * p.g_n + at.c * p.g_c;
    const Stored *winners = static_cast<const Stored *>(p.winners) + at.n * p.w_n + at.c * p.w_c;
    float sum[VEC];
    fill(sum, 0.0f);
#pragma unroll 1
    for (int ph = rows.first; ph <= rows.last; ++ph) {
        const int h0 = ph * int(p.stride_h) - int(p.top), r = at.p - h0;
        if (FIXED && quotient(r, p.by_d) * int(p.dilation_h) != r) continue;
#pragma unroll(FIXED ? 2 : 1)
        for (int q = columns.first; q <= columns.last; ++q) {
            const int w0 = q * int(p.stride_w) - int(p.left), s = at.q - w0;
            if (FIXED && quotient(s, p.by_e) * int(p.dilation_w) != s) continue;
            float value[VEC];
            load(value, g + ph * p.g_h + q * p.g_w);
            if constexpr (WINNERS != NO_WINNERS) {
                Index won[VEC];
                load_winners(won, winners + ph * p.w_h + q * p.w_w);
                // A byte counts taps: r / dilation rows of S, and s / dilation.
                const Index own = WINNERS == TAPS ? Index(quotient(r, p.by_d) * int(p.S) + quotient(s, p.by_e)) : Index(at.p * p.W + at.q);
#pragma unroll
                for (int e = 0; e < VEC; ++e) sum[e] += won[e] == own ? value[e] : 0.0f;
            } else {
                const float divisor = KIND == AVERAGE ? divisor_of(p, h0, w0)
                                                      : float(adaptive_size(ph, p.H, p.P) * adaptive_size(q, p.W, p.Q));
#pragma unroll
                for (int e = 0; e < VEC; ++e) sum[e] += value[e] / divisor;
            }
        }
    }
    store(static_cast<T *>(p.dx) + at.n * p.dx_n + at.p * p.dx_h + at.q * p.dx_w + at.c * p.dx_c, sum);
}
