// A bottleneck of ResNet as one kernel (stride 1):
//
//     t1 = relu(conv1x1(x; w1) + b1),  t2 = relu(conv3x3(t1; w2) + b2),  y = relu(conv1x1(t2; w3) + b3 + shortcut)
//
// shortcut = x, or in a stage's first block conv1x1(x; wd) + bd, where x has MID channels. t1 and t2 are rounded to the storage type, as if they had been
// written, and stay in shared memory. A block owns TH x 14 outputs (chain.cuh) and computes t1 with its halo, (TH + 2) x 16 pixels:
//
//     steps, 32 channels of a row each:   C / 32          x with halo (64 bytes a pixel), w1
//                                         3 * MID / 32    w2: the taps (0..2, s) of 32 channels
//                                         K / MID times   w3: MID filters, 64 channels a step; then, with wd, x again and wd
//
// All of them pass through one ring of STAGES steps, so that the next convolution's weights arrive while one is multiplied.
#include "chain.cuh"

struct BottleneckParams {
    const void *x, *w1, *b1, *w2, *b2, *w3, *b3, *wd, *bd;
    void *y;
    i64 H, W, C, K;
    i64 x_n, x_h, x_w, y_n, y_h, y_w;
};

// WC1: warps side by side over the columns of the first convolution.
template <typename T, int MID, int TH, int WARPS, int WC1, int STAGES, bool DOWNSAMPLE> struct Bottleneck : Tile<T, TH> {
    using Tile<T, TH>::p0, Tile<T, TH>::q0, Tile<T, TH>::inside, Tile<T, TH>::own;
    static constexpr int THREADS = WARPS * 32, ROWS = TH + 2, WR1 = WARPS / WC1, MI1 = ROWS / WR1, NJ1 = MID / 8 / WC1;
    static constexpr int NJ = 2, WC = MID / (8 * NJ), WR = WARPS / WC, MI = TH / WR;
    static constexpr int EARLY = MI < 4 ? MI : 0;  // rows of the shortcut that a thread has registers for beside fragments
    static constexpr int STEPS = MID / 64 + (DOWNSAMPLE ? MID / 32 : 0);  // of MID filters of the last convolution
    static constexpr int PASS = THREADS / (4 * PIXELS);  // rows of pixels of which all threads copy 64 bytes at once
    static constexpr int X = ROWS * PIXELS * LINE, FILTERS = MID * LINE;  // bytes in a step
    static constexpr int STAGE = X + FILTERS > 3 * FILTERS ? X + FILTERS : 3 * FILTERS, MAP = ROWS * PIXELS * MID * 2;
    static_assert(ROWS % WR1 == 0 && TH % WR == 0 && NJ1 % 2 == 0, "every warp has whole rows, and pairs of tiles");

    const BottleneckParams &p;
    Map<MID * 2, PIXELS> map;
    Ring<STAGES, STAGE> ring;
    const T *x;
    int first, second, steps;  // steps of conv1, of conv2, of all

    __device__ __forceinline__ Bottleneck(const BottleneckParams &params)
        : Tile<T, TH>(params.H, params.W), p(params), map{shared_memory()}, ring{shared_memory() + MAP},
          x(static_cast<const T *>(p.x) + blockIdx.z * p.x_n), first(int(p.C) / 32), second(3 * MID / 32),
          steps(first + second + int(p.K) / MID * STEPS) {}

    // Channels [c, c + 32) of the tile and its halo: a thread has one chunk of one column, every fourth row. Outside are zeros.
    __device__ __forceinline__ void copy_x(char *to, int c) const {
        const int chunk = threadIdx.x % 4, column = threadIdx.x / 4 % PIXELS, w = q0 - 1 + column;
        int row = opaque(threadIdx.x / (4 * PIXELS));
        const T *from = x + (p0 - 1 + row) * int(p.x_h) + w * int(p.x_w) + (c + chunk * 8);
#pragma unroll
        for (int i = 0; i < ROWS; i += PASS, row += PASS, from += PASS * int(p.x_h))
            if (ROWS % PASS == 0 || row < ROWS) copy_async(to + in_step(row * PIXELS + column, chunk), from, inside(p0 - 1 + row, w));
    }
    __device__ __forceinline__ void load(int step, char *to) const {
        if (step < first) {
            copy_x(to, step * 32);
            copy_filters<T, MID, NJ1, THREADS>(to + X, static_cast<const T *>(p.w1) + step * 32, int(p.C));
        } else if (step < first + second) {
            const int i = step - first, s = i / (MID / 32), c = i % (MID / 32) * 32;
#pragma unroll
            for (int r = 0; r < 3; ++r)
                copy_filters<T, MID, NJ, THREADS>(to + r * FILTERS, static_cast<const T *>(p.w2) + (3 * r + s) * MID + c, 9 * MID);
        } else {
            const int i = step - first - second, chunk = i / STEPS, k = i % STEPS;
            if (!DOWNSAMPLE || k < MID / 64) {
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    copy_filters<T, MID, NJ, THREADS>(to + half * FILTERS, static_cast<const T *>(p.w3) + chunk * MID * MID + k * 64 + half * 32, MID);
            } else {
                const int c = (k - MID / 64) * 32;
                copy_x(to, c);
                copy_filters<T, MID, NJ, THREADS>(to + X, static_cast<const T *>(p.wd) + chunk * MID * MID + c, MID);
            }
        }
    }
    __device__ __forceinline__ const char *next() {
        return ring.next(steps, [&](int step, char *to) { load(step, to); });
    }

    // acc += the pixels of x in a step, rows from `row` on and columns from `column` on, times its filters.
    template <int M, int N>
    __device__ __forceinline__ void multiply_x(float (&acc)[M][N][4], const char *step, int row, int column, int filter) const {
        const int lane = threadIdx.x % 32, pixel = min(column + lane % 16, PIXELS - 1);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            unsigned a[M][4], b[N][2];
#pragma unroll
            for (int i = 0; i < M; ++i) load_matrices(a[i], step + in_step((row + i) * PIXELS + pixel, 2 * k + lane / 16));
            load_filters(b, step + X, filter, k);
            multiply<T>(acc, a, b);
        }
    }

    __device__ __forceinline__ void reduce() {
        const Share<WC1, NJ1> place;
        float acc[MI1][NJ1][4];
        place.template start<T>(acc, p.b1, place.mine());
#pragma unroll 1
        for (int i = 0; i < first; ++i) multiply_x(acc, next(), place.row * MI1, 0, place.column);
        this->template to_map<true>(map, acc, place);
    }
    __device__ __forceinline__ void window() {
        const Share<WC, NJ> place;
        float acc[MI][NJ][4];
        place.template start<T>(acc, p.b2, place.mine());
#pragma unroll 1
        for (int s = 0; s < 3; ++s)
#pragma unroll 1
            for (int k = 0; k < MID / 32; ++k)
                map.template multiply_window<T, MID>(acc, place.row * MI, s, PIXELS - 1, k, next(), place.column);
        __syncthreads();  // t2 takes t1's place
        this->template to_map<false>(map, acc, place);
    }
    // The shortcut of output rows [FIRST, LAST) of a warp. Outside the image the nearest pixel inside: a load without a branch.
    template <int FIRST, int LAST>
    __device__ __forceinline__ void shortcut_rows(uint2 (&more)[MI][2], int first_h, int first_w, int n) const {
#pragma unroll
        for (int i = FIRST; i < LAST; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int h = min(first_h + i, int(p.H) - 1), w = min(first_w + half * 8, int(p.W) - 1);
                more[i][half] = *reinterpret_cast<const uint2 *>(x + h * int(p.x_h) + w * int(p.x_w) + n);
            }
    }
    __device__ __forceinline__ void expand() {
        const Share<WC, NJ> place;
        T *y = static_cast<T *>(p.y) + blockIdx.z * p.y_n;
#pragma unroll 1
        for (int chunk = 0; chunk < int(p.K) / MID; ++chunk) {
            const int n = chunk * MID + place.mine(), h0 = opaque(p0 + place.row * MI), w0 = opaque(q0 + place.pixel(0));
            float acc[MI][NJ][4];
            place.template start<T>(acc, p.b3, n);
            uint2 more[MI][2];
#pragma unroll 1
            for (int k = 0; k < MID / 64; ++k) {
                const char *step = next();
                if (!DOWNSAMPLE && k == 0) shortcut_rows<0, EARLY>(more, h0, w0, n);  // on their way while the products are summed
#pragma unroll
                for (int half = 0; half < 4; ++half) {
                    unsigned a[MI][4], b[NJ][2];
#pragma unroll
                    for (int i = 0; i < MI; ++i) map.load(a[i], place.row * MI + i, 0, PIXELS - 1, 4 * k + half);
                    load_filters(b, step + half / 2 * FILTERS, place.column, half % 2);
                    multiply<T>(acc, a, b);
                }
            }
            if constexpr (DOWNSAMPLE)
#pragma unroll 1
                for (int k = 0; k < MID / 32; ++k) multiply_x(acc, next(), place.row * MI + 1, 1, place.column);
            if (!DOWNSAMPLE) shortcut_rows<EARLY, MI>(more, h0, w0, n);
            float add[4];
            fill(add, 0.0f);
            if (DOWNSAMPLE && p.bd) load_halves(add, static_cast<const T *>(p.bd) + n);
#pragma unroll
            for (int i = 0; i < MI; ++i)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int h = h0 + i, w = w0 + half * 8;
                    float v[4];
                    place.run(v, acc, i, half);
                    if (!DOWNSAMPLE) load_halves(add, reinterpret_cast<const T *>(&more[i][half]));
#pragma unroll
                    for (int c = 0; c < 4; ++c) v[c] += add[c];
                    if (own(h, w)) store_global(y + h * int(p.y_h) + w * int(p.y_w) + n, relu_halves<T>(v));
                }
        }
    }
    __device__ __forceinline__ void operator()() {
        ring.start(steps, [&](int step, char *to) { load(step, to); });
        reduce();
        window();
        expand();
    }
};

template <typename T, int MID, int TH, int WARPS, int WC1, int STAGES, bool DOWNSAMPLE, int BLOCKS>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS) bottleneck(const BottleneckParams p) {
    begin();
    Bottleneck<T, MID, TH, WARPS, WC1, STAGES, DOWNSAMPLE> block(p);
    block();
}
