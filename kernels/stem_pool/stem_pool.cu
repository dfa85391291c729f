// A network's first convolution (C <= 4) and the max pooling behind it, 3x3 of stride 2, as one kernel, for halves:
//
//     t = activation(conv(x; w) + b),  y[p, q] = max over 3x3 of t[2 p - top + r, 2 q - left + s]
//
// t is rounded to the storage type and stays in shared memory. A block owns 7 x 7 outputs of BN filters and computes the 15 x 15
// pixels of t below them, as 16 x 16: eight warps, each two rows of 16 pixels (stem.cuh), whose stashes beside one another are the
// tile of t. Neighbouring tiles share a row or column of t, which both compute: 256 pixels where 196 are new, 1.31 of the least.
// What is outside of t is -infinity, as the pooling's padding is. The next tile's pixels of x are on their way while one is computed.
#include "../conv2d/stem.cuh"

constexpr int POOL_THREADS = 256, POOLED = 7;  // 16 = 2 x 7 + 2: the window's third row begins the next window
constexpr int AHEAD = 6;                       // pixels of a patch that a thread holds

template <typename T, int C, int BN> __global__ void __launch_bounds__(POOL_THREADS, 2) stem_pool(const StemParams p) {
    begin();
    using Stem = Stem<T, C, BN, POOL_THREADS>;
    constexpr int NJ = Stem::NJ, PITCH = Stem::PITCH;
    const Stem stem(p);
    const int tid = threadIdx.x, warp = tid / 32, pixels = int(p.patch_h * p.patch_w);
    T *map = stem.stash();
    const T *x = static_cast<const T *>(p.x);

    struct Place {
        int image, p0, q0;  // of the first output
    };
    const auto place = [&](int tile) {
        const int line = quotient(tile, p.by_tiles_w), image = quotient(line, p.by_tiles_h);
        return Place{image, (line - image * int(p.tiles_h)) * POOLED, (tile - line * int(p.tiles_w)) * POOLED};
    };
    // This thread's pixels of a tile's patch: their bits as they lie in memory, and which of them are in the image.
    unsigned bits[AHEAD][C], present = 0;
    const auto fetch = [&](const Place &at) {
        const int h0 = (2 * at.p0 - int(p.pool_top)) * int(p.stride_h) - int(p.top);
        const int w0 = (2 * at.q0 - int(p.pool_left)) * int(p.stride_w) - int(p.left);
        const T *from = x + at.image * p.x_n;
        present = 0;
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int i = tid + k * POOL_THREADS, r = quotient(i, p.by_patch_w), h = h0 + r, w = w0 + i - r * int(p.patch_w);
            const bool in = i < pixels && unsigned(h) < unsigned(p.H) && unsigned(w) < unsigned(p.W);
            const T *pixel = from + (h * int(p.x_h) + w * int(p.x_w));
            present |= unsigned(in) << k;
#pragma unroll
            for (int j = 0; j < C; ++j) bits[k][j] = (in ? pixel + j * p.x_c : x)->bits;
        }
    };

    Place at = place(blockIdx.x);
    fetch(at);
    stem.template load_filters<8>();
#pragma unroll 1
    for (int tile = blockIdx.x; tile < int(p.tiles); tile += gridDim.x) {
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            unsigned c[4] = {};
#pragma unroll
            for (int j = 0; j < C; ++j) c[j] = present >> k & 1 ? bits[k][j] : 0u;
            if (tid + k * POOL_THREADS < pixels) stem.patch[tid + k * POOL_THREADS] = {c[0] | c[1] << 16, c[2] | c[3] << 16};
        }
        __syncthreads();  // the patch is there, and all are done with the last tile of t
        const Place now = at;
        if (tile + int(gridDim.x) < int(p.tiles)) fetch(at = place(tile + gridDim.x));

        float acc[2][NJ][4] = {};
        stem.multiply_patch(acc, 2 * warp);
        const int row = 2 * now.p0 - int(p.pool_top) + 2 * warp, column = 2 * now.q0 - int(p.pool_left);
        stem.put(map + warp * 32 * PITCH, acc, [&](int i, int j) {
            return unsigned(row + i) < unsigned(p.P) && unsigned(column + j) < unsigned(p.Q);
        });
        __syncthreads();  // t is there, and all are done with the patch

        T *y = static_cast<T *>(p.y) + now.image * p.y_n + stem.first;
#pragma unroll 1
        for (int i = tid; i < POOLED * POOLED * NJ; i += POOL_THREADS) {
            const int pixel = i / NJ, n = i % NJ * 8, r = pixel / POOLED, s = pixel % POOLED;
            if (now.p0 + r >= int(p.pooled_h) || now.q0 + s >= int(p.pooled_w) || stem.first + n >= int(p.K)) continue;
            const T *from = map + (2 * r * TILE_W + 2 * s) * PITCH + n;
            uint4 best = load_words(from);
#pragma unroll
            for (int k = 1; k < 9; ++k) {
                const uint4 more = load_words(from + (k / 3 * TILE_W + k % 3) * PITCH);
                best = {max_nan_words<T>(best.x, more.x), max_nan_words<T>(best.y, more.y), max_nan_words<T>(best.z, more.z),
                        max_nan_words<T>(best.w, more.w)};
            }
            store_words(y + (now.p0 + r) * int(p.y_h) + (now.q0 + s) * int(p.y_w) + n, best);
        }
    }
}
