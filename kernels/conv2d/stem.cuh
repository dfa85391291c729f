// What the kernels of an image's few channels (C <= 4) share: filters and a patch of the image in shared memory, and their products.
//
// With 3 channels no 16-byte chunk of a window is aligned, so the implicit GEMM would gather it element by element, each element R S
// times. Here a block keeps the filters in shared memory for all of its tiles, and of each tile of output pixels the patch of
// the image below it, every pixel padded to 4 channels: 8 bytes. GEMM K counts taps x 4, so that one MMA step takes 4 taps, and a lane's
// register of an A fragment is one aligned word of a pixel: tap 4 step + t / 2 (+ 2), channels 0 and 1 or 2 and 3 for t % 2.
//
//     filters [BN][steps x 16 + 8]   offsets [steps x 4]   bias [BN]   patch [rows][columns] of 8 bytes   stash of a warp [32][BN + 8]
//
// The padding of 8 halves puts 8 neighbouring rows on different banks. A warp owns 2 rows of 16 pixels x BN filters.
#pragma once
#include "../common/cuda/mma.cuh"

struct StemParams {
    const void *x, *w, *bias;
    void *y;
    i64 H, W, P, Q, K, R, S;
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 x_n, x_c, x_h, x_w, w_k, w_c, w_r, w_s, y_n, y_h, y_w;
    i64 activation;
    i64 tiles, tiles_h, tiles_w, steps, patch_h, patch_w;  // tiles of all images; MMA steps; pixels of a patch
    i64 pooled_h, pooled_w, pool_top, pool_left;           // of the pooling behind (stem_pool.cu); 0 without
    i64 by_tiles_h, by_tiles_w, by_taps, by_S, by_patch_w;
};

constexpr int TILE_W = 16;  // pixels of a tile's row

// *at, or zero: the load has no branch, so that many are in flight; `any` can be read wherever `at` points.
template <typename T> __device__ __forceinline__ unsigned bits_or_zero(const T *at, const T *any, bool present) {
    const unsigned bits = (present ? at : any)->bits;
    return present ? bits : 0u;
}

template <typename T, int C, int BN, int THREADS> struct Stem {
    static constexpr int NJ = BN / 8, PITCH = BN + 8;

    const StemParams &p;
    int steps, first, row;  // row: bytes of a filter
    char *filters;
    int *offsets;
    float *bias;
    uint2 *patch;

    __device__ __forceinline__ Stem(const StemParams &params)
        : p(params), steps(int(p.steps)), first(int(blockIdx.y) * BN), row((steps * 16 + 8) * 2), filters(shared_memory()),
          offsets(reinterpret_cast<int *>(filters + BN * row)), bias(reinterpret_cast<float *>(offsets + steps * 4)),
          patch(reinterpret_cast<uint2 *>(bias + BN)) {}

    __device__ __forceinline__ T *stash() const {  // of the block, 32 pixels a warp
        return reinterpret_cast<T *>(patch + (p.patch_h * p.patch_w + 1) / 2 * 2);
    }

    template <int UNROLL> __device__ __forceinline__ void load_filters() const {
        const int tid = threadIdx.x;
        const T *w = static_cast<const T *>(p.w);
#pragma unroll UNROLL
        for (int i = tid; i < BN * steps * 4; i += THREADS) {
            const int n = quotient(i, p.by_taps), tap = i - n * steps * 4, r = quotient(tap, p.by_S), s = tap - r * int(p.S);
            const bool present = first + n < int(p.K) && r < int(p.R);
            const T *from = w + (first + n) * p.w_k + r * p.w_r + s * p.w_s;
            unsigned c[4] = {};
#pragma unroll
            for (int j = 0; j < C; ++j) c[j] = bits_or_zero(from + j * p.w_c, w, present);
            *reinterpret_cast<uint2 *>(filters + n * row + tap * 8) = {c[0] | c[1] << 16, c[2] | c[3] << 16};
        }
        for (int tap = tid; tap < steps * 4; tap += THREADS) {  // of a tap in the patch, in pixels; negative beyond the window
            const int r = quotient(tap, p.by_S), s = tap - r * int(p.S);
            offsets[tap] = r < int(p.R) ? r * int(p.dilation_h * p.patch_w) + s * int(p.dilation_w) : -1;
        }
        for (int n = tid; n < BN; n += THREADS)
            bias[n] = p.bias && first + n < int(p.K) ? to_float(static_cast<const T *>(p.bias)[first + n]) : 0.0f;
    }

    // The products of a warp's two rows, the first of which is row `line` of the tile. Fragment registers of the MMA tile i: pixel
    // lane / 4 (+ 8) of tile row line + i.
    __device__ __forceinline__ void multiply_patch(float (&acc)[2][NJ][4], int line) const {
        const int lane = threadIdx.x % 32, t = lane % 4, across = int(p.stride_w), down = int(p.stride_h * p.patch_w);
        const char *pixel = reinterpret_cast<const char *>(patch + line * down + lane / 4 * across) + t % 2 * 4;
        const char *rows_b = filters + (lane % 8 + lane / 16 * 8) * row + lane / 8 % 2 * 16;
#pragma unroll 2
        for (int step = 0; step < steps; ++step) {
            unsigned a[2][4], b[NJ][2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int offset = offsets[step * 4 + half * 2 + t / 2];
#pragma unroll
                for (int i = 0; i < 2; ++i)
#pragma unroll
                    for (int j = 0; j < 2; ++j)
                        a[i][half * 2 + j] =
                            offset < 0 ? 0u : *reinterpret_cast<const unsigned *>(pixel + (offset + i * down + j * 8 * across) * 8);
            }
#pragma unroll
            for (int j = 0; j < NJ; j += 2) {
                unsigned both[4];
                load_matrices(both, rows_b + j * 8 * row + step * 32);
                b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
            }
            multiply<T>(acc, a, b);
        }
    }

    // The outputs of a warp's 32 pixels to `to`, BN + 8 halves a pixel; -infinity where `inside(row, column)` says that there is none.
    template <typename Inside> __device__ __forceinline__ void put(T *to, const float (&acc)[2][NJ][4], Inside &&inside) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int column = half * 8 + lane / 4;
                const bool real = inside(i, column);
#pragma unroll
                for (int j = 0; j < NJ; ++j) {
                    const int n = j * 8 + lane % 4 * 2;
                    const T lower = from_float<T>(activate(acc[i][j][half * 2] + bias[n], p.activation));
                    const T upper = from_float<T>(activate(acc[i][j][half * 2 + 1] + bias[n + 1], p.activation));
                    *reinterpret_cast<unsigned *>(to + (i * TILE_W + column) * PITCH + n) =
                        real ? lower.bits | unsigned(upper.bits) << 16 : lowest<T>();
                }
            }
    }
};
