// Batch norm while training (Ioffe, Szegedy 2015, algorithm 1): a channel's statistics, the sums of its backward pass, the gradient of
// its input.
//
// One or two operations for each element read: memory bandwidth is the bound. Statistics and sums are reductions over the N*H*W pixels
// in two steps: a block owns `lanes` vectors of channels and a part of the pixels, which its other threads share; what they found meets
// in shared memory by a tree, and norm_*_join adds the parts. All orders are fixed, so that two runs give the same bits.
#include "../common/cuda/device.cuh"

struct NormReduceParams {
    const void *g, *x, *output;  // output: where it tells the derivative of an activation that came behind the norm, else null
    const float *mean, *var;
    void *masked;                // gets g behind that derivative, where somebody wants it
    float *part, *y;             // [2, split, C] and [2, C]
    i64 C, H, W, M;              // M = N*H*W
    i64 g_n, g_c, g_h, g_w, x_n, x_c, x_h, x_w, o_n, o_c, o_h, o_w, m_n, m_c, m_h, m_w;
    i64 lanes, size, split;      // vectors of channels a block; pixels of a part; parts
    i64 by_H, by_W, activation;
    double eps;
};

constexpr int THREADS = 256, LOADS = 4;

// The mean of `count` numbers, and the sum of their squares about it.
struct Moments {
    float mean, squares, count;
};
// Of two sets together (Chan, Golub, LeVeque 1979).
__device__ __forceinline__ Moments join(const Moments &a, const Moments &b) {
    if (b.count == 0.0f) return a;
    const float count = a.count + b.count, off = b.mean - a.mean, share = b.count / count;
    return {a.mean + off * share, a.squares + b.squares + off * off * (a.count * share), count};
}
struct Sums {
    float plain, scaled;
};
__device__ __forceinline__ Sums join(const Sums &a, const Sums &b) { return {a.plain + b.plain, a.scaled + b.scaled}; }

// What the block's shares found, [share][channel], joined by a tree; afterwards the first `width` are the channels'.
template <typename V, int VEC> __device__ __forceinline__ V *meet(const V (&own)[VEC], int lanes, int lane, int share) {
    V *all = reinterpret_cast<V *>(shared_memory());
    const int width = lanes * VEC;
#pragma unroll
    for (int e = 0; e < VEC; ++e) all[share * width + lane * VEC + e] = own[e];
    __syncthreads();
    for (int half = THREADS / lanes / 2; half; half /= 2) {
        for (int i = threadIdx.x; i < half * width; i += THREADS) all[i] = join(all[i], all[i + half * width]);
        __syncthreads();
    }
    return all;
}

// A thread's vector of channels and its share of the block's pixels.
template <int VEC> struct Range {
    int lane, share, shares, first, c, stop, from;
    __device__ __forceinline__ Range(const NormReduceParams &p) {
        lane = int(threadIdx.x) % int(p.lanes), share = int(threadIdx.x) / int(p.lanes), shares = THREADS / int(p.lanes);
        first = int(blockIdx.x) * int(p.lanes) * VEC, c = first + lane * VEC;
        from = int(blockIdx.y * p.size) + share, stop = int(min(i64(blockIdx.y + 1) * p.size, p.M));
    }
    template <typename V> __device__ __forceinline__ void leave(const NormReduceParams &p, const V *found) const {
        const int i = threadIdx.x, width = int(p.lanes) * VEC;
        if (i >= width || first + i >= p.C) return;
        float *part = p.part + blockIdx.y * p.C + first + i;
        const float *value = reinterpret_cast<const float *>(found + i);
        part[0] = value[0], part[p.split * p.C] = value[1];
    }
};

struct Pixel {
    i64 n, h, w;
    __device__ __forceinline__ Pixel(const NormReduceParams &p, int m) {
        const int row = quotient(m, p.by_W);
        n = quotient(row, p.by_H), w = m - row * int(p.W), h = row - n * p.H;
    }
};

// Each thread keeps a running mean and sum of squares (Welford 1962): no large numbers are subtracted, whatever the mean is.
template <typename T, int VEC> __global__ void __launch_bounds__(THREADS) norm_stats(const NormReduceParams p) {
    begin();
    const Range<VEC> at(p);
    float mean[VEC] = {}, squares[VEC] = {}, count = 0.0f;
    if (at.c < p.C)
        for (int m = at.from; m < at.stop; m += LOADS * at.shares) {
            float value[LOADS][VEC];
#pragma unroll
            for (int j = 0; j < LOADS; ++j) {
                const Pixel pixel(p, min(m + j * at.shares, at.stop - 1));
                load(value[j], static_cast<const T *>(p.x) + pixel.n * p.x_n + pixel.h * p.x_h + pixel.w * p.x_w + at.c * p.x_c);
            }
#pragma unroll
            for (int j = 0; j < LOADS; ++j) {
                if (m + j * at.shares >= at.stop) break;
                const float share = 1.0f / (count += 1.0f);
#pragma unroll
                for (int e = 0; e < VEC; ++e) {
                    const float off = value[j][e] - mean[e];
                    mean[e] += off * share, squares[e] += off * (value[j][e] - mean[e]);
                }
            }
        }
    Moments own[VEC];
#pragma unroll
    for (int e = 0; e < VEC; ++e) own[e] = {mean[e], squares[e], count};
    at.leave(p, meet(own, int(p.lanes), at.lane, at.share));
}

// The gradient before the activation, in the place of that behind it, where the output tells its derivative.
template <typename T, int VEC, typename P>
__device__ __forceinline__ void before_activation(float (&g)[VEC], const P &p, i64 n, i64 h, i64 w, i64 c) {
    if (!p.output) return;
    float told[VEC];
    load(told, static_cast<const T *>(p.output) + n * p.o_n + h * p.o_h + w * p.o_w + c * p.o_c);
#pragma unroll
    for (int e = 0; e < VEC; ++e) g[e] = gradient(g[e], told[e], p.activation);
}

// 1 / sqrt(var + eps) of a vector of channels.
template <int VEC, typename P> __device__ __forceinline__ void load_inverse(float (&inverse)[VEC], const P &p, i64 c) {
    load(inverse, p.var + c);
#pragma unroll
    for (int e = 0; e < VEC; ++e) inverse[e] = 1.0f / sqrtf(inverse[e] + float(p.eps));
}

// The sums of g and of g * (x - mean) / sqrt(var + eps), g the gradient before the activation.
template <typename T, int VEC> __global__ void __launch_bounds__(THREADS) norm_sums(const NormReduceParams p) {
    begin();
    const Range<VEC> at(p);
    Sums own[VEC] = {};
    if (at.c < p.C) {
        float mean[VEC], inverse[VEC];
        load(mean, p.mean + at.c);
        load_inverse(inverse, p, at.c);
#pragma unroll 2
        for (int m = at.from; m < at.stop; m += at.shares) {
            const Pixel pixel(p, m);
            float g[VEC], x[VEC];
            load(g, static_cast<const T *>(p.g) + pixel.n * p.g_n + pixel.h * p.g_h + pixel.w * p.g_w + at.c * p.g_c);
            load(x, static_cast<const T *>(p.x) + pixel.n * p.x_n + pixel.h * p.x_h + pixel.w * p.x_w + at.c * p.x_c);
            before_activation<T>(g, p, pixel.n, pixel.h, pixel.w, at.c);
            if (p.masked) store(static_cast<T *>(p.masked) + pixel.n * p.m_n + pixel.h * p.m_h + pixel.w * p.m_w + at.c * p.m_c, g);
#pragma unroll
            for (int e = 0; e < VEC; ++e) own[e] = {own[e].plain + g[e], fmaf(g[e], (x[e] - mean[e]) * inverse[e], own[e].scaled)};
        }
    }
    at.leave(p, meet(own, int(p.lanes), at.lane, at.share));
}

// The second step: a block owns `lanes` channels, and its other threads share the parts.
template <bool STATS> __global__ void __launch_bounds__(THREADS) norm_join(const NormReduceParams p) {
    begin();
    const int lane = int(threadIdx.x) % int(p.lanes), share = int(threadIdx.x) / int(p.lanes), shares = THREADS / int(p.lanes);
    const int c = int(blockIdx.x) * int(p.lanes) + lane;
    const float *part = p.part + c;
    if constexpr (STATS) {
        Moments own[1] = {};
        if (c < p.C)
#pragma unroll 4
            for (int i = share; i < p.split; i += shares) {
                const float count = float(min((i + 1) * p.size, p.M) - i * p.size);
                own[0] = join(own[0], Moments{part[i * p.C], part[(p.split + i) * p.C], count});
            }
        const Moments *found = meet(own, int(p.lanes), lane, share);
        if (share == 0 && c < p.C) p.y[c] = found[lane].mean, p.y[p.C + c] = found[lane].squares / fmaxf(float(p.M), 1.0f);
    } else {
        Sums own[1] = {};
        if (c < p.C)
#pragma unroll 4
            for (int i = share; i < p.split; i += shares) own[0] = join(own[0], Sums{part[i * p.C], part[(p.split + i) * p.C]});
        const Sums *found = meet(own, int(p.lanes), lane, share);
        if (share == 0 && c < p.C) p.y[c] = found[lane].plain, p.y[p.C + c] = found[lane].scaled;
    }
}

struct NormGradParams {
    const void *g, *x, *output;
    const float *mean, *var, *weight, *sums;
    void *dx;
    i64 N, C, H, W;
    i64 g_n, g_c, g_h, g_w, x_n, x_c, x_h, x_w, o_n, o_c, o_h, o_w, dx_n, dx_c, dx_h, dx_w;
    i64 channels_last;  // neighbouring threads take neighbouring channels, else pixels
    i64 activation;
    double eps;
};

// dx = weight / sqrt(var + eps) * (g - (sums[0] + x' * sums[1]) / M), x' the normalised input; without sums, of g alone.
template <typename T, int VEC> __global__ void __launch_bounds__(256) norm_input_grad(const NormGradParams p) {
    begin();
    const Place at = place<VEC>(p.N, p.C, p.H, p.W, p.channels_last);
    if (!at.valid) return;
    float g[VEC], inverse[VEC];
    load(g, static_cast<const T *>(p.g) + at.n * p.g_n + at.p * p.g_h + at.q * p.g_w + at.c * p.g_c);
    before_activation<T>(g, p, at.n, at.p, at.q, at.c);
    load_inverse(inverse, p, at.c);
    if (p.sums) {
        float x[VEC], number[VEC];
        const float each = 1.0f / float(p.N * p.H * p.W);
        load(x, static_cast<const T *>(p.x) + at.n * p.x_n + at.p * p.x_h + at.q * p.x_w + at.c * p.x_c);
        load(number, p.mean + at.c);
#pragma unroll
        for (int e = 0; e < VEC; ++e) x[e] = (x[e] - number[e]) * inverse[e];
        load(number, p.sums + p.C + at.c);
#pragma unroll
        for (int e = 0; e < VEC; ++e) x[e] *= number[e];
        load(number, p.sums + at.c);
#pragma unroll
        for (int e = 0; e < VEC; ++e) g[e] -= (number[e] + x[e]) * each;
    }
    if (p.weight) {
        float number[VEC];
        load(number, p.weight + at.c);
#pragma unroll
        for (int e = 0; e < VEC; ++e) inverse[e] *= number[e];
    }
#pragma unroll
    for (int e = 0; e < VEC; ++e) g[e] *= inverse[e];
    store(static_cast<T *>(p.dx) + at.n * p.dx_n + at.p * p.dx_h + at.q * p.dx_w + at.c * p.dx_c, g);
}
