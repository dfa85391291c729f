// y = exp(x - max) / sum(exp(x - max)) along one dimension, and its gradient dx = y * (g - sum(g * y)); and
// cross-entropy with it, loss = lse - (1 - e) x[target] - e * mean(x), lse = log(sum(exp(x))), whose gradient needs no sum again.
//
// A block owns one row, its elements `inner` apart, and reads it three times: for the maximum, the sum and the quotients. The second
// and third time it comes from L1 or L2. Threads combine by shuffles in a warp, then through shared memory.
#include "../common/cuda/device.cuh"

struct SoftmaxParams {
    const void *x;
    void *y;
    i64 length, inner;
};

constexpr int SOFTMAX_THREADS = 128;

// The maximum or the sum over a block, the same in all threads.
template <bool MAXIMUM> __device__ __forceinline__ float combine(float v, float *warps) {
#pragma unroll
    for (int lanes = 16; lanes; lanes /= 2) {
        const float other = __shfl_xor_sync(0xFFFFFFFFu, v, lanes);
        v = MAXIMUM ? max_nan(v, other) : v + other;
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    v = warps[0];
#pragma unroll
    for (int w = 1; w < SOFTMAX_THREADS / 32; ++w) v = MAXIMUM ? max_nan(v, warps[w]) : v + warps[w];
    return v;
}

template <typename T> __global__ void __launch_bounds__(SOFTMAX_THREADS) softmax(const SoftmaxParams p) {
    begin();
    float *shared = reinterpret_cast<float *>(shared_memory());  // a number a warp, for the maximum and for the sum
    const i64 row = blockIdx.x, start = row / p.inner * p.length * p.inner + row % p.inner;
    const T *x = static_cast<const T *>(p.x) + start;
    T *y = static_cast<T *>(p.y) + start;
    float top = -INFINITY, sum = 0.0f;
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS) top = max_nan(top, to_float(x[i * p.inner]));
    top = combine<true>(top, shared);
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS) sum += expf(to_float(x[i * p.inner]) - top);
    sum = combine<false>(sum, shared + SOFTMAX_THREADS / 32);
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS)
        y[i * p.inner] = from_float<T>(expf(to_float(x[i * p.inner]) - top) / sum);
}

struct SoftmaxGradParams {
    const void *g, *y;
    void *dx;
    i64 length, inner;
};

// A block owns a row, and reads it twice: for the sum, and from L1 or L2 for the result.
template <typename T> __global__ void __launch_bounds__(SOFTMAX_THREADS) softmax_grad(const SoftmaxGradParams p) {
    begin();
    const i64 row = blockIdx.x, start = row / p.inner * p.length * p.inner + row % p.inner;
    const T *g = static_cast<const T *>(p.g) + start, *y = static_cast<const T *>(p.y) + start;
    T *dx = static_cast<T *>(p.dx) + start;
    float sum = 0.0f;
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS) sum += to_float(g[i * p.inner]) * to_float(y[i * p.inner]);
    sum = combine<false>(sum, reinterpret_cast<float *>(shared_memory()));
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS)
        dx[i * p.inner] = from_float<T>((to_float(g[i * p.inner]) - sum) * to_float(y[i * p.inner]));
}

struct LossParams {
    const void *x;
    const i64 *target;
    float *lse, *g;  // g: the losses, or the gradients by them
    void *dx;
    i64 length, ignored;
    double smoothing;
};

// A block owns a row of scores. A row whose target is `ignored` has loss 0, one whose target is no class NaN.
template <typename T> __global__ void __launch_bounds__(SOFTMAX_THREADS) cross_entropy(const LossParams p) {
    begin();
    float *shared = reinterpret_cast<float *>(shared_memory());
    const T *x = static_cast<const T *>(p.x) + blockIdx.x * p.length;
    const i64 t = p.target[blockIdx.x];
    const bool known = t >= 0 && t < p.length;
    const float smoothing = float(p.smoothing);
    float top = -INFINITY, sum = 0.0f, plain = 0.0f;
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS) top = max_nan(top, to_float(x[i]));
    top = combine<true>(top, shared);
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS) {
        const float value = to_float(x[i]);
        sum += expf(value - top), plain += value;
    }
    sum = combine<false>(sum, shared + SOFTMAX_THREADS / 32);
    plain = combine<false>(plain, shared + 2 * (SOFTMAX_THREADS / 32));
    if (threadIdx.x) return;
    const float lse = top + logf(sum), own = known ? to_float(x[t]) : bits_to_float(0x7FC00000u);
    float loss = lse - (1.0f - smoothing) * own;
    if (smoothing != 0.0f) loss -= smoothing * (plain / float(p.length));
    p.lse[blockIdx.x] = lse, p.g[blockIdx.x] = t == p.ignored ? 0.0f : loss;
}

template <typename T> __global__ void __launch_bounds__(SOFTMAX_THREADS) cross_entropy_grad(const LossParams p) {
    begin();
    const T *x = static_cast<const T *>(p.x) + blockIdx.x * p.length;
    T *dx = static_cast<T *>(p.dx) + blockIdx.x * p.length;
    const i64 t = p.target[blockIdx.x];
    const float g = t >= 0 && t < p.length ? p.g[blockIdx.x] : bits_to_float(0x7FC00000u), lse = p.lse[blockIdx.x];
    const float smoothing = float(p.smoothing), each = smoothing / float(p.length);
    for (i64 i = threadIdx.x; i < p.length; i += SOFTMAX_THREADS) {
        const float value = expf(to_float(x[i]) - lse) - each - (i == t ? 1.0f - smoothing : 0.0f);
        dx[i] = from_float<T>(t == p.ignored ? 0.0f : g * value);
    }
}
