// Batch normalisation at inference (Ioffe, Szegedy 2015) and local response normalisation (Krizhevsky et al. 2012, section 3.3).
#include "../common/cuda/device.cuh"

struct NormParams {
    const void *x, *mean, *var, *weight, *bias, *residual;
    void *y;
    i64 N, C, H, W;
    i64 x_n, x_c, x_h, x_w, r_n, r_c, r_h, r_w, y_n, y_c, y_h, y_w;
    i64 before, after, activation;  // channels of the window before and after its own
    i64 channels_last;  // neighbouring threads take neighbouring channels, else pixels
    double eps, scale, beta, k;  // scale = alpha / size
};

// y = activation((x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c] + residual): one pass, the channel's numbers from L1.
// U is the type of those numbers, float beside halves under autocast.
template <typename T, int VEC, typename U> __global__ void __launch_bounds__(256) batch_norm(const NormParams p) {
    begin();
    const Place at = place<VEC>(p.N, p.C, p.H, p.W, p.channels_last);
    if (!at.valid) return;
    float value[VEC], number[VEC], scale[VEC];
    load(value, static_cast<const T *>(p.x) + at.n * p.x_n + at.p * p.x_h + at.q * p.x_w + at.c * p.x_c);
    load(number, static_cast<const U *>(p.mean) + at.c);
    load(scale, static_cast<const U *>(p.var) + at.c);
#pragma unroll
    for (int e = 0; e < VEC; ++e) value[e] -= number[e], scale[e] = 1.0f / sqrtf(scale[e] + float(p.eps));
    if (p.weight) {
        load(number, static_cast<const U *>(p.weight) + at.c);
#pragma unroll
        for (int e = 0; e < VEC; ++e) scale[e] *= number[e];
    }
    fill(number, 0.0f);
    if (p.bias) load(number, static_cast<const U *>(p.bias) + at.c);
#pragma unroll
    for (int e = 0; e < VEC; ++e) value[e] = fmaf(value[e], scale[e], number[e]);
    if (p.residual) add(value, static_cast<const T *>(p.residual) + at.n * p.r_n + at.p * p.r_h + at.q * p.r_w + at.c * p.r_c);
    activate(value, p.activation);
    store(static_cast<T *>(p.y) + at.n * p.y_n + at.p * p.y_h + at.q * p.y_w + at.c * p.y_c, value);
}

// base^-beta as pow has it for a base that is negative or not finite.
__device__ __forceinline__ float inverse_power(float base, float beta) {
    if (beta == 0.0f) return 1.0f;
    const float factor = exp2f(-beta * log2f(fabsf(base)));
    if (!(base < 0.0f)) return factor;
    if (beta != floorf(beta)) return base == -INFINITY ? factor : bits_to_float(0x7FC00000u);
    return beta != 2.0f * floorf(0.5f * beta) ? -factor : factor;
}

// y[c] = x[c] / (k + alpha / size * sum of x[j]^2)^beta over the channels c - before to c + after: a thread owns one element, and
// reads its window from L1.
template <typename T> __global__ void __launch_bounds__(256) local_response_norm(const NormParams p) {
    begin();
    const Place at = place<1>(p.N, p.C, p.H, p.W, p.channels_last);
    if (!at.valid) return;
    const T *x = static_cast<const T *>(p.x) + at.n * p.x_n + at.p * p.x_h + at.q * p.x_w;
    float squares = 0.0f;
    for (int c = max(at.c - int(p.before), 0); c <= min(at.c + int(p.after), int(p.C) - 1); ++c) {
        const float value = to_float(x[c * p.x_c]);
        squares = fmaf(value, value, squares);
    }
    const float factor = inverse_power(float(p.k) + float(p.scale) * squares, float(p.beta));
    const float value = to_float(x[at.c * p.x_c]) * factor;
    static_cast<T *>(p.y)[at.n * p.y_n + at.p * p.y_h + at.q * p.y_w + at.c * p.y_c] = from_float<T>(value);
}

struct ResponseGradParams {
    const void *g, *x;
    void *dx;
    i64 N, C, H, W;
    i64 g_n, g_c, g_h, g_w, x_n, x_c, x_h, x_w, dx_n, dx_c, dx_h, dx_w;
    i64 before, after, channels_last;
    double scale, beta, k;
};

// dx[j] = g[j] b[j]^-beta - 2 beta scale x[j] * sum of g[i] x[i] b[i]^(-beta-1) over the channels i from j - after to j + before, with
// b[i] = k + scale * the sum of squares over i's window, computed anew for each i from what L1 holds.
template <typename T> __global__ void __launch_bounds__(256) response_norm_grad(const ResponseGradParams p) {
    begin();
    const Place at = place<1>(p.N, p.C, p.H, p.W, p.channels_last);
    if (!at.valid) return;
    const T *x = static_cast<const T *>(p.x) + at.n * p.x_n + at.p * p.x_h + at.q * p.x_w;
    const T *g = static_cast<const T *>(p.g) + at.n * p.g_n + at.p * p.g_h + at.q * p.g_w;
    const int before = int(p.before), after = int(p.after), last = int(p.C) - 1;
    const float beta = float(p.beta);
    float back = 0.0f, own = 0.0f;
    for (int i = max(at.c - after, 0); i <= min(at.c + before, last); ++i) {
        float squares = 0.0f;
        for (int c = max(i - before, 0); c <= min(i + after, last); ++c) {
            const float value = to_float(x[c * p.x_c]);
            squares = fmaf(value, value, squares);
        }
        const float base = float(p.k) + float(p.scale) * squares, power = to_float(g[i * p.g_c]) * inverse_power(base, beta);
        back += to_float(x[i * p.x_c]) * power / base;
        if (i == at.c) own = power;
    }
    const float value = own - 2.0f * beta * float(p.scale) * to_float(x[at.c * p.x_c]) * back;
    static_cast<T *>(p.dx)[at.n * p.dx_n + at.p * p.dx_h + at.q * p.dx_w + at.c * p.dx_c] = from_float<T>(value);
}
