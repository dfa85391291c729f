// What kernels of several convolutions in a row share: maps in shared memory, a window over them, and the way of sums from one
// convolution to the next.
//
// A block owns TH x 14 output pixels of one image. 14, because with the halo of a 3x3 window a row is 16 pixels, the rows of one MMA:
// a row of pixels of a map is one tile of A, and none of it is for nothing but 2 columns of 16 where a window has been taken.
//
//     map before the window:   h 0 1 2 .. 13 h     16 pixels
//     map after it:            0 1 2 .. 13 - -     14 pixels; what the last two columns hold is never stored
//
// ldmatrix takes an address a row, so a tap's shift costs nothing. With s fixed, the 16 pixels of map row y meet tap (r, s) for the
// output row y - r: a warp of MI output rows reads MI + 2 rows once and multiplies them with three taps.
#pragma once
#include "../common/cuda/mma.cuh"

constexpr int PIXELS = 16, TW = 14;   // of a map's row, and of an output's
constexpr int LINE = 64;              // bytes of a row of a step: 32 halves

// Chunk c of row r of a step. Two rows share the 32 banks, hence r / 2: 8 rows' chunk c fall on 8 different groups of 4 banks.
__device__ __forceinline__ int in_step(int row, int chunk) { return row * LINE + ((chunk ^ (row >> 1 & 3)) << 4); }

// v, which the compiler takes for a new value: it would compute addresses of all rows before a loop, and keep them in local memory.
__device__ __forceinline__ int opaque(int v) {
#if ON_GPU
    asm volatile("" : "+r"(v));
#endif
    return v;
}

// relu of two sums as a word of storage: one instruction, which keeps a NaN.
template <typename T> __device__ __forceinline__ unsigned relu_pair(float low, float high) {
#if ON_GPU
    unsigned r;
    if constexpr (T::BFLOAT)
        asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    else
        asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#else
    return from_float<T>(max_nan(low, 0.0f)).bits | unsigned(from_float<T>(max_nan(high, 0.0f)).bits) << 16;
#endif
}
// N neighbouring halves (4 or 8) from or to memory, 8 bytes an instruction.
template <typename T, int N> __device__ __forceinline__ void load_halves(float (&v)[N], const T *p) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const uint2 words = *reinterpret_cast<const uint2 *>(p + i);
        const unsigned word[2] = {words.x, words.y};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            T item;
            item.bits = (unsigned short)(word[e / 2] >> (e % 2 * 16));
            v[i + e] = to_float(item);
        }
    }
}
// Four sums through relu, as 8 bytes of storage.
template <typename T> __device__ __forceinline__ uint2 relu_halves(const float *v) {
    return {relu_pair<T>(v[0], v[1]), relu_pair<T>(v[2], v[3])};
}
template <typename T> __device__ __forceinline__ void store_global(T *p, const uint2 &words) {
#if ON_GPU
    // Spelt out, as device.cuh's store_words: an assignment became two stores.
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(words.x), "r"(words.y) : "memory");
#else
    *reinterpret_cast<uint2 *>(p) = words;
#endif
}

// Where filter n of a group of 8 NJ lies among the rows of a step. An MMA gives a lane two neighbouring columns; with this order the
// columns of a lane's NJ tiles are neighbours: 2 NJ halves are one run of memory.
template <int NJ> __device__ __forceinline__ int position(int n) {
    const int group = n / (8 * NJ), c = n % (8 * NJ);
    return group * 8 * NJ + c % (2 * NJ) / 2 * 8 + c / (2 * NJ) * 2 + c % 2;
}

// The place of a warp, WC of them side by side, and of a lane in its sums acc[MI][NJ][4] of MI rows of pixels and 8 NJ columns.
template <int WC, int NJ> struct Share {
    static constexpr int COLUMNS = 2 * NJ;  // of a lane, one run
    int lane, row, column;                  // of the warp: its first row in units of MI, its first column
    __device__ __forceinline__ Share() : lane(threadIdx.x % 32), row(threadIdx.x / 32 / WC), column(threadIdx.x / 32 % WC * 8 * NJ) {}
    __device__ __forceinline__ int mine() const { return column + lane % 4 * COLUMNS; }    // the lane's first column
    __device__ __forceinline__ int pixel(int half) const { return lane / 4 + half * 8; }   // of a row
    // Sums that start as the biases of the lane's columns from n on, or as zeros.
    template <typename T, int MI> __device__ __forceinline__ static void start(float (&acc)[MI][NJ][4], const void *bias, int n) {
        float v[COLUMNS];
        fill(v, 0.0f);
        if (bias) load_halves(v, static_cast<const T *>(bias) + n);
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int j = 0; j < NJ; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) acc[i][j][e] = v[2 * j + e % 2];
    }
    template <int MI> __device__ __forceinline__ static void run(float (&v)[COLUMNS], const float (&acc)[MI][NJ][4], int i, int half) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) v[c] = acc[i][c / 2][half * 2 + c % 2];
    }
};

// Fragments of B of one MMA step: filters [column, column + 8 NJ) of a step's rows, chunks 2 k and 2 k + 1.
template <int NJ> __device__ __forceinline__ void load_filters(unsigned (&b)[NJ][2], const char *rows, int column, int k) {
    const int lane = threadIdx.x % 32, row = column + lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int j = 0; j < NJ; j += 2) {
        unsigned both[4];
        load_matrices(both, rows + in_step(row + j * 8, 2 * k + lane / 8 % 2));
        b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
    }
}

// A map of BYTES a pixel and PITCH pixels a row. Chunk c of a pixel in column x lies at c ^ (x % 8): eight pixels side by side fall
// on different banks, whichever the first.
template <int BYTES, int PITCH> struct Map {
    char *at;
    __device__ __forceinline__ char *chunk(int y, int x, int c) const { return at + (y * PITCH + x) * BYTES + ((c ^ (x & 7)) << 4); }

    // A fragments of 16 pixels of row y from column x on, channels [16 k, 16 k + 16); beyond column `last` that pixel once more.
    __device__ __forceinline__ void load(unsigned (&a)[4], int y, int x, int last, int k) const {
        const int lane = threadIdx.x % 32;
        load_matrices(a, chunk(y, min(x + lane % 16, last), 2 * k + lane / 16));
    }

    // acc += taps (0..2, s) of the rows' channels [32 k, 32 k + 32); the filters of tap r are the r-th FILTERS rows of the step.
    template <typename T, int FILTERS, int MI, int NJ>
    __device__ __forceinline__ void multiply_window(float (&acc)[MI][NJ][4], int y, int s, int last, int k, const char *step, int column) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned a[MI + 2][4];
#pragma unroll
            for (int i = 0; i < MI + 2; ++i) load(a[i], y + i, s, last, 2 * k + half);
#pragma unroll
            for (int r = 0; r < 3; ++r) {
                unsigned b[NJ][2];
                load_filters(b, step + r * FILTERS * LINE, column, half);
                multiply<T>(acc, reinterpret_cast<unsigned(&)[MI][4]>(a[r]), b);
            }
        }
    }
};

// Rows of filters of a step: FILTERS of them, 32 halves each, `from` the first one's first half and `pitch` halves apart.
template <typename T, int FILTERS, int NJ, int THREADS> __device__ __forceinline__ void copy_filters(char *to, const T *from, int pitch) {
    static_assert(FILTERS * 4 % THREADS == 0, "every thread copies whole chunks");
    const int chunk = threadIdx.x % 4;
#pragma unroll
    for (int n = threadIdx.x / 4; n < FILTERS; n += THREADS / 4)
        copy_async(to + in_step(position<NJ>(n), chunk), from + n * pitch + chunk * 8, true);
}

// STAGES steps in shared memory, STAGES - 1 of them on their way while one is multiplied.
template <int STAGES, int STAGE> struct Ring {
    char *at;
    int step = 0, from = 0, into = 0;

    template <typename Load> __device__ __forceinline__ void start(int steps, Load &&load) {
#pragma unroll 1
        for (into = 0; into < STAGES - 1; ++into) {
            if (into < steps) load(into, at + into * STAGE);
            commit_copies();  // an empty group too, so that the count of groups tells the step
        }
    }
    // The next step, arrived for all threads; the one behind those on their way is started in the stage that all are done with.
    template <typename Load> __device__ __forceinline__ const char *next(int steps, Load &&load) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1, at + into * STAGE);
        commit_copies();
        const char *stage = at + from * STAGE;
        ++step, from = from == STAGES - 1 ? 0 : from + 1, into = into == STAGES - 1 ? 0 : into + 1;
        return stage;
    }
};

// The outputs of a block: TH x 14 pixels of image blockIdx.z, from (p0, q0) on.
template <typename T, int TH> struct Tile {
    int H, W, p0, q0;
    __device__ __forceinline__ Tile(i64 H_, i64 W_) : H(int(H_)), W(int(W_)), p0(blockIdx.y * TH), q0(blockIdx.x * TW) {}
    __device__ __forceinline__ bool inside(int h, int w) const { return unsigned(h) < unsigned(H) && unsigned(w) < unsigned(W); }
    // Whether (h, w), beyond the tile's corner, is an output of this block.
    __device__ __forceinline__ bool own(int h, int w) const { return h < H && w < min(q0 + TW, W); }

    // The sums through relu to the map. Before the window (HALO) what is outside the image is the window's padding: zeros.
    template <bool HALO, int M, int N, typename Map, typename Place>
    __device__ __forceinline__ void to_map(const Map &map, const float (&acc)[M][N][4], const Place &place) const {
        const int n = place.mine();
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int y = place.row * M + i, column = place.pixel(half);
                const bool outside = HALO && !inside(p0 - 1 + y, q0 - 1 + column);
                float v[Place::COLUMNS];
                Place::run(v, acc, i, half);
                uint2 words[Place::COLUMNS / 4];
#pragma unroll
                for (int c = 0; c < Place::COLUMNS; c += 4) words[c / 4] = outside ? uint2{0, 0} : relu_halves<T>(v + c);
                char *to = map.chunk(y, column, n / 8) + n % 8 * 2;
                if constexpr (Place::COLUMNS == 8)
                    *reinterpret_cast<uint4 *>(to) = {words[0].x, words[0].y, words[1].x, words[1].y};
                else
                    *reinterpret_cast<uint2 *>(to) = words[0];
            }
    }
};
