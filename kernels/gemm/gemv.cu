// A linear layer of a few rows: y[m, k] = activation(sum over c of x[m, c] w[k, c] + bias[k]), m < ROWS <= 8.
//
// 2 M FLOPs a weight: memory bandwidth is the bound, and the weights are nearly all that moves. A warp owns one filter k for all rows:
// its lanes stream the weights, 16 bytes each and each once, x comes from L1, and a tree of shuffles sums the lanes.
#include "../common/cuda/device.cuh"

struct GemvParams {
    const void *x, *w, *bias;
    void *y;
    i64 M, C, K;
    i64 x_m, x_c, y_m, y_k;
    i64 activation;
};

constexpr int GEMV_WARPS = 8;  // of a block: enough in flight, and K / 8 blocks still cover the SMs for K = 1000

template <typename T, int VEC, int ROWS> __global__ void __launch_bounds__(GEMV_WARPS * 32, 2) gemv(const GemvParams p) {
    begin();
    const int lane = threadIdx.x % 32;
    const i64 k = i64(blockIdx.x) * GEMV_WARPS + threadIdx.x / 32;
    if (k >= p.K) return;  // the whole warp
    const T *x = static_cast<const T *>(p.x), *w = static_cast<const T *>(p.w) + k * p.C;
    float sum[ROWS] = {};
#pragma unroll 4
    for (i64 c = lane * VEC; c < p.C; c += 32 * VEC) {
        float weight[VEC], value[VEC];
        load(weight, w + c);
#pragma unroll
        for (int m = 0; m < ROWS; ++m) {
            if (m >= p.M) break;
            load(value, x + m * p.x_m + c * p.x_c);
#pragma unroll
            for (int e = 0; e < VEC; ++e) sum[m] = fmaf(value[e], weight[e], sum[m]);
        }
    }
#pragma unroll
    for (int m = 0; m < ROWS; ++m) {
        if (m >= p.M) break;
#pragma unroll
        for (int lanes = 16; lanes; lanes /= 2) sum[m] += __shfl_xor_sync(0xFFFFFFFFu, sum[m], lanes);
    }
    if (lane == 0) {
        const float bias = p.bias ? to_float(static_cast<const T *>(p.bias)[k]) : 0.0f;
#pragma unroll
        for (int m = 0; m < ROWS; ++m)
            if (m < p.M) static_cast<T *>(p.y)[m * p.y_m + k * p.y_k] = from_float<T>(activate(sum[m] + bias, p.activation));
    }
}
