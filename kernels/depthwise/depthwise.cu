// Depthwise convolution: y[n, k, p, q] = activation(sum over r, s of x[n, k / multiplier, .., ..] w[k, r, s] + bias[k] + residual).
//
// 2 R S FLOPs for each element moved: memory bandwidth is the bound. What is left to do is to move every element once, in 16-byte
// vectors of neighbouring channels, and to keep it in registers while it is needed.
#include "../cuda/device.cuh"

struct DepthwiseParams {
    const void *x, *w, *bias, *residual;
    void *y;
    i64 N, C, K, H, W, P, Q, R, S;
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 x_n, x_c, x_h, x_w, w_k, w_r, w_s, y_n, y_c, y_h, y_w, res_n, res_c, res_h, res_w;
    i64 activation;
    i64 lanes;           // strip kernel: neighbouring threads that take neighbouring vectors of channels
    i64 channels_first;  // any kernel: neighbouring threads take neighbouring channels, else pixels
};

template <typename T, int VEC>
__device__ __forceinline__ void finish(const DepthwiseParams &p, float (&sum)[VEC], i64 n, int ph, int q, int k) {
    if (p.bias) {
        float bias[VEC];
        load(bias, static_cast<const T *>(p.bias) + k);
#pragma unroll
        for (int e = 0; e < VEC; ++e) sum[e] += bias[e];
    }
    if (p.residual) {
        float more[VEC];
        load(more, static_cast<const T *>(p.residual) + n * p.res_n + ph * p.res_h + q * p.res_w + k * p.res_c);
#pragma unroll
        for (int e = 0; e < VEC; ++e) sum[e] += more[e];
    }
    activate(sum, int(p.activation));
    store(static_cast<T *>(p.y) + n * p.y_n + ph * p.y_h + q * p.y_w + k * p.y_c, sum);
}

// A thread owns a strip of STRIP outputs along a row, for one vector of channels. It slides over the (STRIP - 1) U + S input columns
// of each window row, reads every vector once, and adds it to all outputs of the strip that it reaches. The filters of a block lie in
// shared memory as [tap][channel]. "256, 1" leaves registers to the strip: ptxas, aiming at more blocks an SM, spilled 16 bytes to
// get there. Neighbouring threads read neighbouring elements of w, whether it lies as K, R, S or as R, S, K.
template <typename T, int VEC, int R, int S, int U, int STRIP>
__global__ void __launch_bounds__(256, 1) depthwise_strip(const DepthwiseParams p) {
    const int lanes = int(p.lanes), width = lanes * VEC, first = int(blockIdx.y) * width;
    float *taps = reinterpret_cast<float *>(shared_memory());
    for (int i = threadIdx.x; i < width * R * S; i += 256) {
        const int c = p.w_k == 1 ? i % width : i / (R * S), tap = p.w_k == 1 ? i / width : i % (R * S);
        const int at = (first + c) * int(p.w_k) + tap / S * int(p.w_r) + tap % S * int(p.w_s);
        taps[tap * width + c] = first + c < p.K ? to_float(static_cast<const T *>(p.w)[at]) : 0.0f;
    }
    __syncthreads();

    const int strips = int((p.Q + STRIP - 1) / STRIP);
    const int lane = threadIdx.x % lanes, k = first + lane * VEC;
    const i64 strip = i64(blockIdx.x) * (256 / lanes) + threadIdx.x / lanes;
    if (k >= p.K || strip >= p.N * p.P * strips) return;
    const int q = int(strip % strips) * STRIP;
    const int ph = int(strip / strips % p.P);
    const i64 n = strip / strips / p.P;
    const int h = ph * int(p.stride_h) - int(p.top), v = q * U - int(p.left);
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + k;

    float sum[STRIP][VEC] = {};
#pragma unroll 1  // one row of taps at a time: S VEC registers, not R S VEC
    for (int r = 0; r < R; ++r) {
        float tap[S][VEC];
#pragma unroll
        for (int s = 0; s < S; ++s) load<float>(tap[s], taps + (r * S + s) * width + lane * VEC);
        const bool row = unsigned(h + r) < unsigned(p.H);
        const T *line = x + (h + r) * p.x_h;
#pragma unroll
        for (int column = 0; column < (STRIP - 1) * U + S; ++column) {
            float value[VEC];
            if (row && unsigned(v + column) < unsigned(p.W))
                load(value, line + (v + column) * p.x_w);
            else
                fill(value, 0.0f);
#pragma unroll
            for (int s = 0; s < S; ++s)
                if ((column - s) % U == 0 && column >= s && (column - s) / U < STRIP)
#pragma unroll
                    for (int e = 0; e < VEC; ++e) sum[(column - s) / U][e] = fmaf(value[e], tap[s][e], sum[(column - s) / U][e]);
        }
    }
#pragma unroll
    for (int i = 0; i < STRIP; ++i)
        if (q + i < p.Q) finish<T>(p, sum[i], n, ph, q + i, k);
}

// Every other shape and layout: a thread owns one pixel and VEC channels, and reads its window from L1.
template <typename T, int VEC> __global__ void __launch_bounds__(256) depthwise_any(const DepthwiseParams p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x, chunks = p.K / VEC, pixels = p.N * p.P * p.Q;
    if (i >= chunks * pixels) return;
    const i64 pixel = p.channels_first ? i / chunks : i % pixels;
    const int k = int(p.channels_first ? i % chunks : i / pixels) * VEC;
    const int q = int(pixel % p.Q), ph = int(pixel / p.Q % p.P);
    const i64 n = pixel / p.Q / p.P;
    const int h = ph * int(p.stride_h) - int(p.top), v = q * int(p.stride_w) - int(p.left);
    const int multiplier = int(p.K / p.C);  // 1 where VEC > 1
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + k / multiplier * p.x_c;
    const T *w = static_cast<const T *>(p.w) + k * p.w_k;
    float sum[VEC] = {};
    for (int r = 0; r < p.R; ++r) {
        for (int s = 0; s < p.S; ++s) {
            const int at_h = h + r * int(p.dilation_h), at_w = v + s * int(p.dilation_w);
            float value[VEC];
            if (unsigned(at_h) < unsigned(p.H) && unsigned(at_w) < unsigned(p.W))
                load(value, x + at_h * p.x_h + at_w * p.x_w);
            else
                fill(value, 0.0f);
#pragma unroll
            for (int e = 0; e < VEC; ++e) sum[e] = fmaf(value[e], to_float(w[e * p.w_k + r * p.w_r + s * p.w_s]), sum[e]);
        }
    }
    finish<T>(p, sum, n, ph, q, k);
}
