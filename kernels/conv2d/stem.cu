// A convolution of an image's few channels (C <= 4) with tensor cores, for halves: y[m, k] = activation(sum over taps, c of x w + bias).
#include "stem.cuh"

constexpr int STEM_THREADS = 128, TILE_H = 8;

template <typename T, int C, int BN> __global__ void __launch_bounds__(STEM_THREADS, 4) conv2d_stem(const StemParams p) {
    begin();
    using Stem = Stem<T, C, BN, STEM_THREADS>;
    constexpr int NJ = Stem::NJ, PITCH = Stem::PITCH;
    const Stem stem(p);
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    T *stash = stem.stash() + warp * 32 * PITCH;
    const T *x = static_cast<const T *>(p.x);
    stem.template load_filters<4>();

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
            stem.patch[i] = {c[0] | c[1] << 16, c[2] | c[3] << 16};
        }
        __syncthreads();

        float acc[2][NJ][4] = {};
        stem.multiply_patch(acc, 2 * warp);
        __syncwarp();  // all lanes are done with the last tile's stash
        stem.put(stash, acc, [](int, int) { return true; });
        __syncwarp();
        T *y = static_cast<T *>(p.y) + image * p.y_n + stem.first;
#pragma unroll 2
        for (int i = lane; i < 32 * NJ; i += 32) {
            const int m = i / NJ, n = i % NJ * 8, ph = p0 + 2 * warp + m / 16, q = q0 + m % 16;
            if (ph < p.P && q < p.Q && stem.first + n < p.K) store_words(y + ph * p.y_h + q * p.y_w + n, load_words(stash + m * PITCH + n));
        }
    }
}
