// A tile of an NHWC image in shared memory: what the kernels with sliding windows, depthwise and pooling, read their windows from.
//
// A block owns TH x TW output pixels of one image for `lanes` neighbouring 16-byte vectors of channels. It copies the window of the
// whole tile, ((TH - 1) U + R) x ((TW - 1) U + R) input pixels, by cp.async: every copy of the block is in flight at once and holds no
// register, and a row that two windows share is read from L2 once. Thread item * lanes + lane then owns a strip of STRIP outputs of a
// tile's row, for one vector.
//
//     TH = 4, TW = 8: items  0 4      items that follow one another own rows that do
//                            1 5
//                            2 6
//                            3 7
#pragma once
#include "mma.cuh"

constexpr int STRIP = 4, TW = 8;

template <typename T, int R, int U, int TH> struct Tile {
    static constexpr int ITEMS = TH * TW / STRIP;
    static constexpr int HEIGHT = (TH - 1) * U + R, WIDTH = (TW - 1) * U + R;
    static constexpr int PITCH = WIDTH | 1;  // pixels of a row: odd, so that rows of 64 bytes start on different banks
    static constexpr int COLUMNS = (STRIP - 1) * U + R;  // of a strip's window

    char *shared;
    int lanes, item, lane;
    int q, p;    // the strip's first output, in the image
    int at;      // its window's first pixel, in the tile

    __device__ __forceinline__ Tile(char *shared_, int lanes_, i64 by_lanes, int tile_q, int tile_p)
        : shared(shared_), lanes(lanes_), item(quotient(threadIdx.x, by_lanes)), lane(int(threadIdx.x) - item * lanes_) {
        const int row = item % TH, column = item / TH * STRIP;
        q = tile_q * TW + column, p = tile_p * TH + row;
        at = row * U * PITCH + column * U;
    }

    // Starts the copies of this thread; x is this lane's vector of the image's first pixel, `first_h` and `first_w` the tile's
    // corner, which can lie outside. A pixel outside is zeros, or with CLAMP the nearest one inside, which a maximum does not notice:
    // a window that reaches over an edge holds it already.
    template <bool CLAMP>
    __device__ __forceinline__ void load(const T *x, int first_h, int first_w, int H, int W, int x_h, int x_w) const {
#pragma unroll
        for (int j = 0; j < (HEIGHT * WIDTH + ITEMS - 1) / ITEMS; ++j) {
            const int pixel = item + j * ITEMS, row = pixel / WIDTH, column = pixel % WIDTH;
            if (HEIGHT * WIDTH % ITEMS && pixel >= HEIGHT * WIDTH) break;
            int h = first_h + row, w = first_w + column;
            if (CLAMP) h = min(max(h, 0), H - 1), w = min(max(w, 0), W - 1);
            const bool present = CLAMP || (unsigned(h) < unsigned(H) && unsigned(w) < unsigned(W));
            copy_async(shared + ((row * PITCH + column) * lanes + lane) * 16, x + (present ? h * x_h + w * x_w : 0), present);
        }
    }

    // The vector in row r, column `column` of the strip's window.
    __device__ __forceinline__ const T *window(int r, int column) const {
        return reinterpret_cast<const T *>(shared + ((at + r * PITCH + column) * lanes + lane) * 16);
    }
};
