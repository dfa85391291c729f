// Depthwise convolution: y[n, k, p, q] = activation(sum over r, s of x[n, k / multiplier, .., ..] w[k, r, s] + bias[k] + residual).
//
// 2 R S FLOPs for each element moved: memory bandwidth is the bound. What is left to do is to move every element once, in 16-byte
// vectors of neighbouring channels, and to keep it in registers while it is needed.
#include "../common/cuda/tile.cuh"

struct DepthwiseParams {
    const void *x, *w, *bias, *residual;
    void *y;
    i64 N, C, K, H, W, P, Q, R, S;
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 x_n, x_c, x_h, x_w, w_k, w_r, w_s, y_n, y_c, y_h, y_w, res_n, res_c, res_h, res_w;
    i64 activation;
    i64 lanes, groups;   // tile kernel: vectors of channels that a block takes, and such groups in K
    i64 by_lanes, by_groups;
    i64 channels_last;  // any kernel: neighbouring threads take neighbouring channels, else pixels
};

template <typename T, int VEC>
__device__ __forceinline__ void finish(const DepthwiseParams &p, float (&sum)[VEC], i64 n, int ph, int q, int k) {
    if (p.bias) add(sum, static_cast<const T *>(p.bias) + k);
    if (p.residual) add(sum, static_cast<const T *>(p.residual) + n * p.res_n + ph * p.res_h + q * p.res_w + k * p.res_c);
    activate(sum, p.activation);
    store(static_cast<T *>(p.y) + n * p.y_n + ph * p.y_h + q * p.y_w + k * p.y_c, sum);
}

// A tile of the image in shared memory (tile.cuh), and the filters of its channels beside it as float32 [tap][channel]. A thread slides
// over the columns of its strip's window, reads every vector once a row, and adds it to all outputs of the strip that it reaches.
// At most 128 registers (168 for 7x7), so that 512 threads and their tiles share an SM: while some wait for their tile, others
// multiply.
template <typename T, int VEC, int R, int U, int TH>
__global__ void __launch_bounds__(16 * TH, (R == 7 ? 24 : 32) / TH) depthwise_tile(const DepthwiseParams p) {
    begin();
    using Window = Tile<T, R, U, TH>;
    const int lanes = int(p.lanes), width = lanes * VEC, threads = blockDim.x;
    const int tile_q = quotient(blockIdx.x, p.by_groups), first = (int(blockIdx.x) - tile_q * int(p.groups)) * width;
    float *taps = reinterpret_cast<float *>(shared_memory());
    const Window tile(shared_memory() + R * R * width * 4, lanes, p.by_lanes, tile_q, blockIdx.y);
    const int k = first + tile.lane * VEC;
    const bool owner = tile.item < Window::ITEMS && k < p.K;
    const i64 n = blockIdx.z;
    if (owner) {
        const int h = int(blockIdx.y) * TH * U - int(p.top), w = tile_q * TW * U - int(p.left);
        tile.template load<false>(static_cast<const T *>(p.x) + n * p.x_n + k, h, w, int(p.H), int(p.W), int(p.x_h), int(p.x_w));
    }
    commit_copies();

    // Neighbouring threads read neighbouring elements of w, whether it lies as R, S, K or as K, R, S.
    const T *w = static_cast<const T *>(p.w);
    if (p.w_k == 1) {
        for (int c = threadIdx.x; c < width; c += threads)
#pragma unroll(R == 3 ? 9 : 7)
            for (int tap = 0; tap < R * R; ++tap)
                taps[tap * width + c] = to_float(w[min(first + c, int(p.K) - 1) + tap / R * int(p.w_r) + tap % R * int(p.w_s)]);
    } else {
#pragma unroll 6
        for (int i = threadIdx.x; i < width * R * R; i += threads) {
            const int c = i / (R * R), tap = i % (R * R);
            taps[tap * width + c] = to_float(w[min(first + c, int(p.K) - 1) * int(p.w_k) + tap / R * int(p.w_r) + tap % R * int(p.w_s)]);
        }
    }
    float bias[VEC];
    fill(bias, 0.0f);
    if (p.bias && owner) load(bias, static_cast<const T *>(p.bias) + k);
    wait_copies<0>();
    __syncthreads();
    if (!owner || tile.p >= p.P) return;

    float sum[STRIP][VEC] = {};
#pragma unroll 1  // one row of taps at a time: R VEC registers, not R R VEC
    for (int r = 0; r < R; ++r) {
        float tap[R][VEC];
#pragma unroll
        for (int s = 0; s < R; ++s) load<float>(tap[s], taps + (r * R + s) * width + tile.lane * VEC);
#pragma unroll
        for (int column = 0; column < Window::COLUMNS; ++column) {
            float value[VEC];
            load(value, tile.window(r, column));
#pragma unroll
            for (int s = 0; s < R; ++s)
                if ((column - s) % U == 0 && column >= s && (column - s) / U < STRIP)
#pragma unroll
                    for (int e = 0; e < VEC; ++e) sum[(column - s) / U][e] = fmaf(value[e], tap[s][e], sum[(column - s) / U][e]);
        }
    }
    T *y = static_cast<T *>(p.y) + n * p.y_n + tile.p * p.y_h + tile.q * p.y_w + k;
    const T *residual = static_cast<const T *>(p.residual) + n * p.res_n + tile.p * p.res_h + tile.q * p.res_w + k;
#pragma unroll
    for (int i = 0; i < STRIP; ++i) {
        if (tile.q + i >= p.Q) break;
#pragma unroll
        for (int e = 0; e < VEC; ++e) sum[i][e] += bias[e];
        if (p.residual) add(sum[i], residual + i * p.res_w);
        activate(sum[i], p.activation);
        store(y + i * p.y_w, sum[i]);
    }
}

// Every other shape and layout: a thread owns one pixel and VEC channels, and reads its window from L1.
template <typename T, int VEC> __global__ void __launch_bounds__(256) depthwise_any(const DepthwiseParams p) {
    begin();
    const auto [n, ph, q, k, valid] = place<VEC>(p.N, p.K, p.P, p.Q, p.channels_last);
    if (!valid) return;
    const int h0 = ph * int(p.stride_h) - int(p.top), w0 = q * int(p.stride_w) - int(p.left);
    const int multiplier = int(p.K / p.C);  // 1 where VEC > 1
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + k / multiplier * p.x_c;
    const T *w = static_cast<const T *>(p.w) + k * p.w_k;
    float sum[VEC] = {};
    for (int r = 0; r < p.R; ++r) {
        for (int s = 0; s < p.S; ++s) {
            const int at_h = h0 + r * int(p.dilation_h), at_w = w0 + s * int(p.dilation_w);
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
