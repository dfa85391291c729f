// A basic block of ResNet as one kernel, 64 channels, stride 1:
//
//     t = relu(conv3x3(x; w1) + b1),  y = relu(conv3x3(t; w2) + b2 + x)
//
// t is rounded to the storage type and stays in shared memory, and so does x: (TH + 4) x 18 pixels with the halo of both windows, from
// which the shortcut is taken too. A block owns TH x 14 outputs (chain.cuh) and computes (TH + 2) x 16 pixels of t. The weights pass
// through a ring of STAGES steps, the taps (0..2, s) of 32 channels each: 6 steps a convolution.
#include "chain.cuh"

struct BasicBlockParams {
    const void *x, *w1, *b1, *w2, *b2;
    void *y;
    i64 H, W;
    i64 x_n, x_h, x_w, y_n, y_h, y_w;
};

template <typename T, int TH, int WARPS, int WC1, int STAGES> struct BasicBlock : Tile<T, TH> {
    using Tile<T, TH>::p0, Tile<T, TH>::q0, Tile<T, TH>::inside, Tile<T, TH>::own;
    static constexpr int THREADS = WARPS * 32, C = 64, BYTES = C * 2, COLUMNS = PIXELS + 2, STEPS = 2 * 3 * C / 32;
    static constexpr int ROWS = TH + 2, MI1 = ROWS * WC1 / WARPS, NJ1 = C / 8 / WC1;
    static constexpr int NJ = 2, WC = C / (8 * NJ), MI = TH * WC / WARPS;
    static constexpr int X = (TH + 4) * COLUMNS * BYTES, MAP = ROWS * PIXELS * BYTES, STAGE = 3 * C * LINE;
    static_assert(ROWS * WC1 % WARPS == 0 && TH * WC % WARPS == 0 && NJ1 % 2 == 0, "every warp has whole rows, and pairs of tiles");

    const BasicBlockParams &p;
    Map<BYTES, COLUMNS> x;
    Map<BYTES, PIXELS> map;
    Ring<STAGES, STAGE> ring;

    __device__ __forceinline__ BasicBlock(const BasicBlockParams &params)
        : Tile<T, TH>(params.H, params.W), p(params), x{shared_memory()}, map{shared_memory() + X}, ring{shared_memory() + X + MAP} {}

    // The tile and its halo. Outside the image are zeros.
    __device__ __forceinline__ void copy_x() const {
        const T *from = static_cast<const T *>(p.x) + blockIdx.z * p.x_n;
        const int chunk = threadIdx.x % 8;
#pragma unroll 1
        for (int pixel = threadIdx.x / 8; pixel < (TH + 4) * COLUMNS; pixel += THREADS / 8) {
            const int row = pixel / COLUMNS, column = pixel % COLUMNS, h = p0 - 2 + row, w = q0 - 2 + column;
            copy_async(x.chunk(row, column, chunk), from + h * int(p.x_h) + w * int(p.x_w) + chunk * 8, inside(h, w));
        }
    }
    __device__ __forceinline__ void load(int step, char *to) const {
        const bool second = step >= STEPS / 2;
        const int i = second ? step - STEPS / 2 : step, s = i / (C / 32), c = i % (C / 32) * 32;
        const T *from = static_cast<const T *>(second ? p.w2 : p.w1) + s * C + c;
#pragma unroll
        for (int r = 0; r < 3; ++r) {
            if (second)
                copy_filters<T, C, NJ, THREADS>(to + r * C * LINE, from + 3 * r * C, 9 * C);
            else
                copy_filters<T, C, NJ1, THREADS>(to + r * C * LINE, from + 3 * r * C, 9 * C);
        }
    }
    template <typename Image, int M, int N>
    __device__ __forceinline__ void window(float (&acc)[M][N][4], const Image &image, int last, int row, int column) {
#pragma unroll 1
        for (int s = 0; s < 3; ++s)
#pragma unroll 1
            for (int k = 0; k < C / 32; ++k) {
                const char *step = ring.next(STEPS, [&](int next, char *to) { load(next, to); });
                image.template multiply_window<T, C>(acc, row, s, last, k, step, column);
            }
    }
    __device__ __forceinline__ void operator()() {
        copy_x();  // with the first step
        ring.start(STEPS, [&](int step, char *to) { load(step, to); });
        {
            const Share<WC1, NJ1> place;
            float acc[MI1][NJ1][4];
            place.template start<T>(acc, p.b1, place.mine());
            window(acc, x, COLUMNS - 1, place.row * MI1, place.column);
            this->template to_map<true>(map, acc, place);
        }
        const Share<WC, NJ> place;
        float acc[MI][NJ][4];
        place.template start<T>(acc, p.b2, place.mine());
        window(acc, map, PIXELS - 1, place.row * MI, place.column);
        T *y = static_cast<T *>(p.y) + blockIdx.z * p.y_n;
        const int n = place.mine();
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = place.row * MI + i, column = place.pixel(half);
                if (!own(p0 + row, q0 + column)) continue;
                float v[4], shortcut[4];
                place.run(v, acc, i, half);
                load_halves(shortcut, reinterpret_cast<const T *>(x.chunk(row + 2, column + 2, n / 8) + n % 8 * 2));
#pragma unroll
                for (int c = 0; c < 4; ++c) v[c] += shortcut[c];
                store_global(y + (p0 + row) * int(p.y_h) + (q0 + column) * int(p.y_w) + n, relu_halves<T>(v));
            }
    }
};

template <typename T, int TH, int WARPS, int WC1, int STAGES, int BLOCKS>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS) basic_block(const BasicBlockParams p) {
    begin();
    BasicBlock<T, TH, WARPS, WC1, STAGES> block(p);
    block();
}
