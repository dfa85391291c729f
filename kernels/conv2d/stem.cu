// A convolution of an image's few channels (C <= 4) with tensor cores, for halves: y[m, k] = activation(sum over taps, c of x w + bias).
//
// With 3 channels no 16-byte chunk of a window is aligned, so the implicit GEMM would gather it element by element, each element R S
// times. Here a block keeps the filters in shared memory for all of its tiles, and of each tile of 8 x 16 output pixels the patch of
// the image below it, every pixel padded to 4 channels: 8 bytes. GEMM K counts taps x 4, so that one MMA step takes 4 taps, and a lane's
// register of an A fragment is one aligned word of a pixel: tap 4 step + t / 2 (+ 2), channels 0 and 1 or 2 and 3 for t % 2.
//
//     filters [BN][steps x 16 + 8]   offsets [steps x 4]   bias [BN]   patch [rows][columns] of 8 bytes   stash of a warp [32][BN + 8]
//
// The padding of 8 halves puts 8 neighbouring rows on different banks. A warp owns 2 rows of 16 pixels x BN filters.
#include "../common/cuda/mma.cuh"

struct StemParams {
    const void *x, *w, *bias;
    void *y;
    i64 H, W, P, Q, K, R, S;
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 x_n, x_c, x_h, x_w, w_k, w_c, w_r, w_s, y_n, y_h, y_w;
    i64 activation;
    i64 tiles, tiles_h, tiles_w, steps, patch_h, patch_w;  // tiles of all images; MMA steps; pixels of a patch
    i64 by_tiles_h, by_tiles_w, by_taps, by_S, by_patch_w;
};

constexpr int STEM_THREADS = 128, TILE_H = 8, TILE_W = 16;

// *at, or zero: the load has no branch, so that many are in flight; `any` can be read wherever `at` points.
template <typename T> __device__ __forceinline__ unsigned bits_or_zero(const T *at, const T *any, bool present) {
    const unsigned bits = (present ? at : any)->bits;
    return present ? bits : 0u;
}

template <typename T, int C, int BN> __global__ void __launch_bounds__(STEM_THREADS, 4) conv2d_stem(const StemParams p) {
    constexpr int NJ = BN / 8, PITCH = BN + 8;
    const int steps = int(p.steps), first = int(blockIdx.y) * BN, tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int row = (steps * 16 + 8) * 2;  // bytes of a filter
    char *filters = shared_memory();
    int *offsets = reinterpret_cast<int *>(filters + BN * row);
    float *bias = reinterpret_cast<float *>(offsets + steps * 4);
    uint2 *patch = reinterpret_cast<uint2 *>(bias + BN);
    T *stash = reinterpret_cast<T *>(patch + (p.patch_h * p.patch_w + 1) / 2 * 2) + warp * 32 * PITCH;
    const T *x = static_cast<const T *>(p.x), *w = static_cast<const T *>(p.w);

#pragma unroll 4
    for (int i = tid; i < BN * steps * 4; i += STEM_THREADS) {
        const int n = quotient(i, p.by_taps), tap = i - n * steps * 4, r = quotient(tap, p.by_S), s = tap - r * int(p.S);
        const bool present = first + n < int(p.K) && r < int(p.R);
        const T *from = w + (first + n) * p.w_k + r * p.w_r + s * p.w_s;
        unsigned c[4] = {};
#pragma unroll
        for (int j = 0; j < C; ++j) c[j] = bits_or_zero(from + j * p.w_c, w, present);
        *reinterpret_cast<uint2 *>(filters + n * row + tap * 8) = {c[0] | c[1] << 16, c[2] | c[3] << 16};
    }
    for (int tap = tid; tap < steps * 4; tap += STEM_THREADS) {  // of a tap in the patch, in pixels; negative beyond the window
        const int r = quotient(tap, p.by_S), s = tap - r * int(p.S);
        offsets[tap] = r < int(p.R) ? r * int(p.dilation_h * p.patch_w) + s * int(p.dilation_w) : -1;
    }
    for (int n = tid; n < BN; n += STEM_THREADS)
        bias[n] = p.bias && first + n < int(p.K) ? to_float(static_cast<const T *>(p.bias)[first + n]) : 0.0f;

    for (int tile = blockIdx.x; tile < int(p.tiles); tile += gridDim.x) {
        const int line = quotient(tile, p.by_tiles_w), image = quotient(line, p.by_tiles_h);
        const int p0 = (line - image * int(p.tiles_h)) * TILE_H, q0 = (tile - line * int(p.tiles_w)) * TILE_W;
        const int h0 = p0 * int(p.stride_h) - int(p.top), w0 = q0 * int(p.stride_w) - int(p.left);
        const T *from = x + image * p.x_n;
        __syncthreads();  // all warps are done with the last patch
#pragma unroll 4
        for (int i = tid; i < int(p.patch_h * p.patch_w); i += STEM_THREADS) {
            const int r = quotient(i, p.by_patch_w), at_h = h0 + r, at_w = w0 + i - r * int(p.patch_w);
            const bool present = unsigned(at_h) < unsigned(p.H) && unsigned(at_w) < unsigned(p.W);
            const T *at = from + (at_h * int(p.x_h) + at_w * int(p.x_w));
            unsigned c[4] = {};
#pragma unroll
            for (int j = 0; j < C; ++j) c[j] = bits_or_zero(at + j * p.x_c, x, present);
            patch[i] = {c[0] | c[1] << 16, c[2] | c[3] << 16};
        }
        __syncthreads();

        // Fragment registers of the MMA tile i: pixel lane / 4 (+ 8) of tile row 2 warp + i.
        float acc[2][NJ][4] = {};
        const int t = lane % 4, across = int(p.stride_w), down = int(p.stride_h * p.patch_w);
        const char *pixel = reinterpret_cast<const char *>(patch + 2 * warp * down + lane / 4 * across) + t % 2 * 4;
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

        __syncwarp();  // all lanes are done with the last tile's stash
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < NJ; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int n = j * 8 + t * 2;
                    const T lower = from_float<T>(activate(acc[i][j][half * 2] + bias[n], p.activation));
                    const T upper = from_float<T>(activate(acc[i][j][half * 2 + 1] + bias[n + 1], p.activation));
                    T *at = stash + (i * 16 + half * 8 + lane / 4) * PITCH + n;
                    *reinterpret_cast<unsigned *>(at) = lower.bits | unsigned(upper.bits) << 16;
                }
        __syncwarp();
        T *y = static_cast<T *>(p.y) + image * p.y_n + first;
#pragma unroll 2
        for (int i = lane; i < 32 * NJ; i += 32) {
            const int m = i / NJ, n = i % NJ * 8, ph = p0 + 2 * warp + m / 16, q = q0 + m % 16;
            if (ph < p.P && q < p.Q && first + n < p.K) store_words(y + ph * p.y_h + q * p.y_w + n, load_words(stash + m * PITCH + n));
        }
    }
}
