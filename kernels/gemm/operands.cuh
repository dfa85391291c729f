// The operands of the implicit GEMM (implicit_gemm.cu): its parameters, and how a step of them comes to shared memory.
//
// Chunk c of row r lies at chunk c ^ (r % 8): the 8 rows that one ldmatrix phase, or 8 neighbouring lanes, read fall on different
// banks (the XOR swizzle). A thread loads chunk tid % 8 of every STRIDE-th row; all of them have the same swizzle.
#pragma once
#include "../common/cuda/mma.cuh"

struct GemmParams {
    const void *x, *w, *bias, *residual;
    void *y;
    float *partial;  // float32 [split, M, columns] instead of y when the reduction is split
    i64 M, H, W, P, Q, R, S;
    i64 C, K;                        // channels and filters of a pack
    i64 group_c, group_k, pack;      // of one group, and groups in a pack
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, res_n, res_c, res_h, res_w;
    i64 activation, split, steps;    // blocks along k, and steps of all of them together
    i64 vector_store, vector_bias;   // y and residual, and the bias, take 16-byte accesses
    i64 by_P, by_Q, by_C, by_S, by_group_k, by_width;  // reciprocals, for quotient(); width: blocks of a band
};

// How operands are loaded. VECTORS: chunks of 16 bytes, by cp.async. PACKED: the same, and zeros beside the blocks of a pack's
// block-diagonal weights. ELEMENTS: one by one, for strides or channel counts that have no such chunks (an image's 3 channels);
// ELEMENTS_B: the weights of a pack alone (groups of 4 channels).
constexpr int VECTORS = 0, PACKED = 1, ELEMENTS_B = 2, ELEMENTS = 3;
constexpr int FAR = 1 << 30;    // a row outside every image
constexpr int ROW = 128;        // bytes of a row of a stage
constexpr int GROUP_ROWS = 8;   // row tiles that run together and share the weights in L2

template <typename T, int BM, int BN, int LOAD, int THREADS> struct Operands {
    static constexpr int CHUNK = 16 / sizeof(T), BK = 8 * CHUNK;
    static constexpr int STAGE = (BM + BN) * ROW;
    static constexpr int ROWS_A = BM * 8 / THREADS, ROWS_B = BN * 8 / THREADS;  // rows that a thread loads, one chunk of each
    static constexpr int STRIDE = THREADS / 8;
    static_assert(BM % STRIDE == 0 && BN % STRIDE == 0, "every thread loads whole rows");

    const GemmParams &p;
    char *shared;
    int tid, column;          // the chunk column that this thread loads
    int first_m, first_n, pack;
    int h0[ROWS_A], w0[ROWS_A];  // the window's first row and column; far outside the image for a row beyond M
    const T *row[ROWS_A];
    const T *filter;          // the first filter that this thread loads
    int products;             // of one filter
    int k;                    // the first product of this thread's chunk in the step to load next
    char *to;                 // where its first chunk lies in stage 0: all of its rows have the same swizzle, their distance being STRIDE

    __device__ __forceinline__ char *place(int stage, int line, int chunk) const {
        return shared + stage * STAGE + line * ROW + ((chunk ^ (line & 7)) << 4);
    }

    __device__ __forceinline__ Operands(const GemmParams &params, int tile_m, int tile_n, int pack_, int first_step)
        : p(params), shared(shared_memory()), tid(threadIdx.x), column(tid % 8), first_m(tile_m * BM), first_n(tile_n * BN), pack(pack_) {
        static_assert(STRIDE % 8 == 0 && BM % 8 == 0, "the same row modulo 8 in each of a thread's rows");
        const T *x = static_cast<const T *>(p.x) + pack * p.C * p.x_c;
#pragma unroll
        for (int i = 0; i < ROWS_A; ++i) {
            const int m = first_m + tid / 8 + i * STRIDE;
            const int rest = quotient(m, p.by_Q), q = m - rest * int(p.Q), n = quotient(rest, p.by_P), ph = rest - n * int(p.P);
            h0[i] = ph * int(p.stride_h) - int(p.top), w0[i] = q * int(p.stride_w) - int(p.left);
            row[i] = x + n * p.x_n + h0[i] * p.x_h + w0[i] * p.x_w;
            if (m >= p.M) h0[i] = FAR;
        }
        products = int(p.R * p.S * p.group_c);
        filter = static_cast<const T *>(p.w) + (pack * p.K + first_n + tid / 8) * products;
        k = first_step * BK + column * CHUNK;
        to = place(0, tid / 8, column);
    }

    // Copies this thread's chunks of the next step into a stage.
    __device__ __forceinline__ void load_stage(int stage) {
        char *chunk = to + stage * STAGE;
        const int tap = quotient(k, p.by_C), c = k - tap * int(p.C), r = quotient(tap, p.by_S), s = tap - r * int(p.S);
        if constexpr (LOAD == ELEMENTS) {
            load_elements_a(chunk);
        } else {
            // From R on a row outside every image, for pixels of the image (negative) and those beyond M (FAR / 2) alike. What is not
            // present is not read, wherever its address points.
            const int down = r < int(p.R) ? r * int(p.dilation_h) : -FAR / 2, right = s * int(p.dilation_w);
            const i64 shift = r * int(p.dilation_h) * p.x_h + right * p.x_w + c;
#pragma unroll
            for (int i = 0; i < ROWS_A; ++i) {
                const bool present = unsigned(h0[i] + down) < unsigned(p.H) && unsigned(w0[i] + right) < unsigned(p.W);
                copy_async(chunk + i * STRIDE * ROW, row[i] + shift, present);
            }
        }
        chunk += BM * ROW;
        const int first = first_n + tid / 8;
        if constexpr (LOAD == VECTORS) {
#pragma unroll
            for (int i = 0; i < ROWS_B; ++i) {
                const bool present = first + i * STRIDE < int(p.K) && k < products;
                copy_async(chunk + i * STRIDE * ROW, filter + (i * STRIDE * products + k), present);
            }
        } else if constexpr (LOAD == ELEMENTS) {
#pragma unroll
            for (int i = 0; i < ROWS_B; ++i) {
                T items[CHUNK];
#pragma unroll
                for (int e = 0; e < CHUNK; ++e)
                    items[e] = fetch(filter + (i * STRIDE * products + k + e), p.w, first + i * STRIDE < int(p.K) && k + e < products);
                put(chunk + i * STRIDE * ROW, items);
            }
        } else {
            // A row of a pack's block-diagonal weights: channels own .. own + group_c hold the filter, the rest is zeros.
            const int group_c = int(p.group_c);
#pragma unroll
            for (int i = 0; i < ROWS_B; ++i) {
                const int n = first + i * STRIDE, own = quotient(n, p.by_group_k) * group_c;
                const bool real = n < int(p.K) && r < int(p.R);
                const T *from = filter + (i * STRIDE * products + tap * group_c + c - own);
                if constexpr (LOAD == PACKED) {  // a chunk holds channels of one group: group_c % CHUNK == 0
                    const bool present = real && unsigned(c - own) < unsigned(group_c);
                    copy_async(chunk + i * STRIDE * ROW, from, present);
                } else {
                    T items[CHUNK];
#pragma unroll
                    for (int e = 0; e < CHUNK; ++e) items[e] = fetch(from + e, p.w, real && unsigned(c + e - own) < unsigned(group_c));
                    put(chunk + i * STRIDE * ROW, items);
                }
            }
        }
        commit_copies();
        k += BK;
    }

    // *from, or zero and no access to `from`: a load without a branch, so that many are in flight. `any` is some readable address.
    __device__ __forceinline__ static T fetch(const T *from, const void *any, bool present) {
        const T item = *(present ? from : static_cast<const T *>(any));
        return present ? item : from_float<T>(0.0f);
    }

    __device__ __forceinline__ void load_elements_a(char *chunk) {
        const int all = int(p.R * p.S * p.C);
        i64 shift[CHUNK];
        int down[CHUNK], right[CHUNK];
#pragma unroll
        for (int e = 0; e < CHUNK; ++e) {
            const int at = k + e, tap = quotient(at, p.by_C), r = quotient(tap, p.by_S);
            down[e] = at < all ? r * int(p.dilation_h) : -FAR / 2, right[e] = (tap - r * int(p.S)) * int(p.dilation_w);
            shift[e] = r * int(p.dilation_h) * p.x_h + right[e] * p.x_w + (at - tap * int(p.C)) * p.x_c;
        }
#pragma unroll
        for (int i = 0; i < ROWS_A; ++i) {
            T items[CHUNK];
#pragma unroll
            for (int e = 0; e < CHUNK; ++e) {
                const bool inside = unsigned(h0[i] + down[e]) < unsigned(p.H) && unsigned(w0[i] + right[e]) < unsigned(p.W);
                items[e] = fetch(row[i] + shift[e], p.x, inside);
            }
            put(chunk + i * STRIDE * ROW, items);
        }
    }

    __device__ __forceinline__ static void put(char *to, const T (&items)[CHUNK]) {
        uint4 words;
        unsigned *word[4] = {&words.x, &words.y, &words.z, &words.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if constexpr (sizeof(T) == 4)
                *word[j] = float_to_bits(items[j]);
            else
                *word[j] = items[2 * j].bits | unsigned(items[2 * j + 1].bits) << 16;
        }
        *reinterpret_cast<uint4 *>(to) = words;
    }
};
