// A ladder: the depthwise 3x3 convolution in three steps. Run it: python docs/ladders/run.py depthwise
//
// y[n, p, q, c] = sum over r, s of x[n, p + r - 1, q + s - 1, c] w[c, r, s], NHWC halves, stride 1, padding 1. It moves 4 bytes
// (one half in, one out) for 18 FLOPs: memory bandwidth is the bound, and a step is better when it asks the memory system for less.
#include "../../kernels/common/cuda/device.cuh"

struct DepthwiseLadder {
    const void *x, *w;
    void *y;
    i64 N, H, W, C;
};

// Step 1, naive: a thread owns one output. It reads 9 inputs and 9 taps, 2 bytes at a time: 18 loads an output, and a warp's load
// instruction moves 64 bytes where it could move 512. The caches hide that DRAM sees each input once; the load units do not.
template <int C8> __global__ void __launch_bounds__(256) depthwise_1_naive(const DepthwiseLadder p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= p.N * p.H * p.W * p.C) return;
    const half_t *x = static_cast<const half_t *>(p.x), *w = static_cast<const half_t *>(p.w);
    const int c = int(i % p.C), q = int(i / p.C % p.W), h = int(i / p.C / p.W % p.H);
    const i64 n = i / p.C / p.W / p.H;
    float sum = 0.0f;
    for (int r = 0; r < 3; ++r)
        for (int s = 0; s < 3; ++s) {
            const int at_h = h + r - 1, at_w = q + s - 1;
            if (unsigned(at_h) < unsigned(p.H) && unsigned(at_w) < unsigned(p.W))
                sum = fmaf(to_float(x[((n * p.H + at_h) * p.W + at_w) * p.C + c]), to_float(w[c * 9 + r * 3 + s]), sum);
        }
    static_cast<half_t *>(p.y)[i] = from_float<half_t>(sum);
}

// Step 2, vectors: a thread owns 8 neighbouring channels of one pixel. Inputs come and outputs go 16 bytes at a time: 9 vector loads
// for 8 outputs, 1.1 an output. The taps still come one by one, 9 an output.
template <int C8> __global__ void __launch_bounds__(256) depthwise_2_vectors(const DepthwiseLadder p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x, chunks = p.C / 8;
    if (i >= p.N * p.H * p.W * chunks) return;
    const half_t *x = static_cast<const half_t *>(p.x), *w = static_cast<const half_t *>(p.w);
    const int c = int(i % chunks) * 8, q = int(i / chunks % p.W), h = int(i / chunks / p.W % p.H);
    const i64 n = i / chunks / p.W / p.H;
    float sum[8] = {}, value[8];
    for (int r = 0; r < 3; ++r)
        for (int s = 0; s < 3; ++s) {
            const int at_h = h + r - 1, at_w = q + s - 1;
            if (unsigned(at_h) >= unsigned(p.H) || unsigned(at_w) >= unsigned(p.W)) continue;
            load(value, x + ((n * p.H + at_h) * p.W + at_w) * p.C + c);
#pragma unroll
            for (int e = 0; e < 8; ++e) sum[e] = fmaf(value[e], to_float(w[(c + e) * 9 + r * 3 + s]), sum[e]);
        }
    store(static_cast<half_t *>(p.y) + i * 8, sum);
}

// Step 3, a strip: a thread owns 4 pixels in a row. It slides over 6 input columns of each window row, and a vector that it has read
// feeds up to 3 outputs from registers: 18 vector loads for 32 outputs, 0.6 an output. The block's taps are read once, in one run, and
// wait in shared memory as [tap][channel]. This is the product's kernel (kernels/depthwise/depthwise.cu), which adds strides, other
// windows, and the epilogue.
template <int C8> __global__ void __launch_bounds__(256) depthwise_3_strip(const DepthwiseLadder p) {
    float *taps = reinterpret_cast<float *>(shared_memory());
    const int width = C8 * 8, first = int(blockIdx.y) * width;
    for (int i = threadIdx.x; i < width * 9; i += 256)
        taps[i % 9 * width + i / 9] = first + i / 9 < p.C ? to_float(static_cast<const half_t *>(p.w)[first * 9 + i]) : 0.0f;
    __syncthreads();
    const int strips = int((p.W + 3) / 4), lane = threadIdx.x % C8, c = first + lane * 8;
    const i64 strip = i64(blockIdx.x) * (256 / C8) + threadIdx.x / C8;
    if (c >= p.C || strip >= p.N * p.H * strips) return;
    const int q = int(strip % strips) * 4, h = int(strip / strips % p.H);
    const i64 n = strip / strips / p.H;
    const half_t *x = static_cast<const half_t *>(p.x) + n * p.H * p.W * p.C + c;
    float sum[4][8] = {};
#pragma unroll 1
    for (int r = 0; r < 3; ++r) {
        const bool row = unsigned(h + r - 1) < unsigned(p.H);
        float tap[3][8], value[8];
#pragma unroll
        for (int s = 0; s < 3; ++s) load<float>(tap[s], taps + (r * 3 + s) * width + lane * 8);
#pragma unroll
        for (int column = 0; column < 6; ++column) {
            fill(value, 0.0f);
            if (row && unsigned(q + column - 1) < unsigned(p.W)) load(value, x + ((h + r - 1) * p.W + q + column - 1) * p.C);
#pragma unroll
            for (int s = 0; s < 3; ++s)
                if (column >= s && column - s < 4)
#pragma unroll
                    for (int e = 0; e < 8; ++e) sum[column - s][e] = fmaf(value[e], tap[s][e], sum[column - s][e]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (q + i < p.W) store(static_cast<half_t *>(p.y) + ((n * p.H + h) * p.W + q + i) * p.C + c, sum[i]);
}
