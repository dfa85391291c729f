// Convolution, pointwise convolution and linear layers as one GEMM:
//
//     y[m, n] = activation(sum over k of a[m, k] w[n, k] + bias[n] + residual[m, n])
//
// m counts the N*P*Q output pixels, n the filters of a pack, k the R*S*C products of a window, channels innermost. Row m of `a` is the
// window of pixel m, never stored: each 16-byte chunk of channels is copied from where it lies in x, or is zeros outside the image.
// A pack is one group, or several whose channels together fill an MMA (few channels a group: ResNeXt); the weights of a pack form a
// block-diagonal matrix whose zeros are made while loading.
//
// A block owns BM x BN outputs and walks k in steps of 8 chunks (128 bytes a row), STAGES of them in flight (operands.cuh).
#include "operands.cuh"

template <typename T, bool TENSOR_CORE, int BM, int BN, int WM, int WN, int STAGES, int LOAD, int THREADS>
struct Gemm : Operands<T, BM, BN, LOAD, THREADS> {
    using Base = Operands<T, BM, BN, LOAD, THREADS>;
    using Base::CHUNK, Base::STAGE, Base::p, Base::shared, Base::tid, Base::first_m, Base::first_n, Base::pack;
    using Base::Base, Base::load_stage, Base::place;
    // Padding of 4 floats: rows that neighbouring lanes write start on different banks.
    static constexpr int PITCH = BN + 4;

    // ---- one step of products, from shared memory

    static constexpr int MI = WM / 16, NJ = WN / 8;  // MMA tiles of a warp's WM x WN
    __device__ __forceinline__ void multiply_stage(int stage, float (&acc)[MI][NJ][4]) const {
        const int lane = tid % 32, warp = tid / 32;
        const int m = warp / (BN / WN) * WM, n = warp % (BN / WN) * WN;
        // Row and chunk of lane's address in an A tile (16 rows x 2 chunks) and in a pair of B tiles; a row's swizzle is lane % 8.
        const char *rows_a = shared + stage * STAGE + (m + lane % 16) * ROW;
        const char *rows_b = shared + stage * STAGE + (BM + n + lane % 8 + lane / 16 * 8) * ROW;
        const int chunk_a = (lane / 16 ^ lane % 8) << 4, chunk_b = (lane / 8 % 2 ^ lane % 8) << 4;
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            unsigned a[MI][4], b[NJ][2];
#pragma unroll
            for (int i = 0; i < MI; ++i) load_matrices(a[i], rows_a + i * 16 * ROW + (chunk_a ^ step << 5));
#pragma unroll
            for (int j = 0; j < NJ; j += 2) {
                unsigned both[4];
                load_matrices(both, rows_b + j * 8 * ROW + (chunk_b ^ step << 5));
                b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
            }
            multiply<T>(acc, a, b);
        }
    }

    // Without tensor cores: thread (tx, ty) of 16 x 16 owns rows ty + 16 i and columns tx + 16 j.
    static constexpr int TM = BM / 16, TN = BN / 16;
    __device__ __forceinline__ void multiply_stage(int stage, float (&acc)[TM][TN]) const {
        static_assert(TENSOR_CORE || THREADS == 256, "a square of 16 x 16 threads");
        const int tx = tid % 16, ty = tid / 16;
#pragma unroll 1
        for (int chunk = 0; chunk < 8; ++chunk) {
            float a[TM][4];
#pragma unroll
            for (int i = 0; i < TM; ++i) load<float>(a[i], reinterpret_cast<const float *>(place(stage, ty + 16 * i, chunk)));
#pragma unroll
            for (int j = 0; j < TN; ++j) {
                float b[4];
                load<float>(b, reinterpret_cast<const float *>(place(stage, BM + tx + 16 * j, chunk)));
#pragma unroll
                for (int i = 0; i < TM; ++i)
#pragma unroll
                    for (int e = 0; e < 4; ++e) acc[i][j] = fmaf(a[i][e], b[e], acc[i][j]);
            }
        }
    }
    __device__ __forceinline__ void stash(const float (&acc)[TM][TN]) const {
        float *out = reinterpret_cast<float *>(shared);
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int j = 0; j < TN; ++j) out[(tid / 16 + 16 * i) * PITCH + tid % 16 + 16 * j] = acc[i][j];
    }
    __device__ __forceinline__ void stash(const float (&acc)[MI][NJ][4]) const {
        const int lane = tid % 32, warp = tid / 32;
        float *out = reinterpret_cast<float *>(shared) + (warp / (BN / WN) * WM + lane / 4) * PITCH + warp % (BN / WN) * WN + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int j = 0; j < NJ; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) out[(i * 16 + e / 2 * 8) * PITCH + j * 8 + e % 2] = acc[i][j][e];
    }

    // The sum over steps [first, last), STAGES - 1 of them on their way while one is multiplied.
    template <typename Accumulators> __device__ __forceinline__ void reduce(Accumulators &acc, int first, int last) {
#pragma unroll 1
        for (int i = 0; i < STAGES - 1; ++i) {
            if (first + i < last)
                load_stage(i);
            else
                commit_copies();  // an empty group, so that the count of groups tells the step
        }
        int from = 0, into = STAGES - 1;  // the stage to multiply, and the one to load
#pragma unroll 1
        for (int step = first; step < last; ++step) {
            wait_copies<STAGES - 2>();
            __syncthreads();  // the step has come for all threads, and all are done with the stage that is loaded next
            if (step + STAGES - 1 < last)
                load_stage(into);
            else
                commit_copies();
            multiply_stage(from, acc);
            from = from == STAGES - 1 ? 0 : from + 1, into = into == STAGES - 1 ? 0 : into + 1;
        }
        wait_copies<0>();
    }

    // An infinity or NaN of one group times another group's structural zero is NaN. Such an output, and only such a one, is summed
    // again over its own group.
    __device__ float own_sum(int m, int n) const {
        const int q = m % int(p.Q), rest = m / int(p.Q), ph = rest % int(p.P), image = rest / int(p.P);
        const int y = ph * int(p.stride_h) - int(p.top), x = q * int(p.stride_w) - int(p.left);
        const T *from = static_cast<const T *>(p.x) + image * p.x_n + (pack * int(p.C) + n / int(p.group_k) * int(p.group_c)) * p.x_c;
        const T *w = static_cast<const T *>(p.w) + (pack * p.K + n) * p.R * p.S * p.group_c;
        float sum = 0.0f;
        for (int r = 0; r < p.R; ++r)
            for (int s = 0; s < p.S; ++s) {
                const int at_h = y + r * int(p.dilation_h), at_w = x + s * int(p.dilation_w);
                const bool in = unsigned(at_h) < unsigned(p.H) && unsigned(at_w) < unsigned(p.W);
                for (int j = 0; j < p.group_c; ++j)
                    sum += (in ? to_float(from[at_h * p.x_h + at_w * p.x_w + j * p.x_c]) : 0.0f) * to_float(*w++);
            }
        return sum;
    }

    __device__ __forceinline__ void mend_stash() const {
        float *out = reinterpret_cast<float *>(shared);
#pragma unroll 1
        for (int i = tid; i < BM * BN; i += THREADS) {
            const int line = i / BN, column = i % BN, m = first_m + line, n = first_n + column;
            float &sum = out[line * PITCH + column];
            if (m < p.M && n < p.K && unbounded(sum)) sum = own_sum(m, n);
        }
    }

    __device__ __forceinline__ i64 offset(int m, i64 n_, i64 h_, i64 w_) const {  // of output pixel m, in a tensor of these strides
        const int rest = quotient(m, p.by_Q), q = m - rest * int(p.Q), n = quotient(rest, p.by_P);
        return n * n_ + (rest - n * int(p.P)) * h_ + q * w_;
    }

    // From the sums to y, or to the workspace of a split. A thread has one column of vectors and every LINES-th row of the tile; the
    // operands that it adds are on their way, EARLY rows of them, before the sums pass through shared memory.
    static constexpr int N = CHUNK, LINES = THREADS / (BN / N), ROUNDS = BM / LINES;
    static constexpr int MOST = TENSOR_CORE && BM * BN / THREADS <= 64 ? 8 : 4, EARLY = ROUNDS < MOST ? ROUNDS : MOST;
    static_assert(THREADS % (BN / N) == 0 && BM % LINES == 0 && ROUNDS % EARLY == 0, "whole columns");

    template <typename Accumulators> __device__ __forceinline__ void store_tile(const Accumulators &acc, int split) const {
        const int line = tid / (BN / N), n = first_n + tid % (BN / N) * N;
        const bool vectors = p.vector_store && n < p.K, add = p.residual && vectors && p.split == 1;
        const i64 at = pack * p.K + n;
        const T *residual = static_cast<const T *>(p.residual) + at * p.res_c;
        uint4 more[EARLY];
        float bias[N];
        fill(bias, 0.0f);
        if (p.bias && vectors && p.split == 1) {
            if (p.vector_bias)
                load(bias, static_cast<const T *>(p.bias) + at);
            else
#pragma unroll
                for (int e = 0; e < N; ++e) bias[e] = to_float(static_cast<const T *>(p.bias)[at + e]);
        }
        if (add) load_rows(more, residual, first_m + line);
        __syncthreads();  // the stages become the stash
        stash(acc);
        __syncthreads();
        if (p.pack > 1) {
            mend_stash();
            __syncthreads();
        }
        if (!p.vector_store) return store_elements(split);
        if (!vectors) return;
        T *y = static_cast<T *>(p.y) + at * p.y_c;
#pragma unroll 1
        for (int round = 0; round < ROUNDS; round += EARLY) {
            const int first = line + round * LINES;
            if (add && round) load_rows(more, residual, first_m + first);
#pragma unroll
            for (int i = 0; i < EARLY; ++i) {
                const int m = first_m + first + i * LINES;
                if (m >= p.M) return;
                float sum[N];
                load<float>(sum, reinterpret_cast<const float *>(shared) + (first + i * LINES) * PITCH + tid % (BN / N) * N);
                if (p.split > 1) {
                    store<float>(p.partial + (split * p.M + m) * p.K + n, sum);
                    continue;
                }
#pragma unroll
                for (int e = 0; e < N; ++e) sum[e] += bias[e];
                if (add) {
                    float other[N];
                    unpack<T>(other, more[i]);
#pragma unroll
                    for (int e = 0; e < N; ++e) sum[e] += other[e];
                }
                activate(sum, p.activation);
                store(y + offset(m, p.y_n, p.y_h, p.y_w), sum);
            }
        }
    }
    __device__ __forceinline__ void load_rows(uint4 (&words)[EARLY], const T *from, int m) const {
#pragma unroll
        for (int i = 0; i < EARLY; ++i) {  // beyond M the last row once more
            words[i] = load_words(from + offset(min(m + i * LINES, int(p.M) - 1), p.res_n, p.res_h, p.res_w));
        }
    }

    // One by one, neighbouring lanes along what is adjacent in y: channels, or (NCHW) pixels.
    __device__ __forceinline__ void store_elements(int split) const {
#pragma unroll 1
        for (int i = tid; i < BM * BN; i += THREADS) {
            const int line = p.y_c == 1 ? i / BN : i % BM, column = p.y_c == 1 ? i % BN : i / BM;
            const int m = first_m + line, n = first_n + column;
            if (m >= p.M || n >= p.K) continue;
            float sum = reinterpret_cast<const float *>(shared)[line * PITCH + column];
            if (p.split > 1) {
                p.partial[(split * p.M + m) * p.K + n] = sum;
                continue;
            }
            const i64 at = pack * p.K + n;
            if (p.bias) sum += to_float(static_cast<const T *>(p.bias)[at]);
            if (p.residual) sum += to_float(static_cast<const T *>(p.residual)[offset(m, p.res_n, p.res_h, p.res_w) + at * p.res_c]);
            static_cast<T *>(p.y)[offset(m, p.y_n, p.y_h, p.y_w) + at * p.y_c] = from_float<T>(activate(sum, p.activation));
        }
    }
};

// Blocks that an SM must have room for, which bounds a thread's registers: 128 sums and the fragments and addresses beside them take
// about 245 of the 255 that 256 threads on an SM leave each, 64 about 165; ELEMENTS, whose addresses differ one by one, takes what
// there is.
__device__ constexpr int blocks_per_sm(bool tensor_core, int tile, int load, int threads) {
    return load == ELEMENTS ? 1 : tensor_core ? (tile / threads > 64 ? 256 : 384) / threads : tile > 128 * 64 ? 1 : 2;
}
template <typename T, bool TENSOR_CORE, int BM, int BN, int WM, int WN, int STAGES, int LOAD, int THREADS>
__global__ void __launch_bounds__(THREADS, blocks_per_sm(TENSOR_CORE, BM * BN, LOAD, THREADS)) implicit_gemm(const GemmParams p) {
    using G = Gemm<T, TENSOR_CORE, BM, BN, WM, WN, STAGES, LOAD, THREADS>;
    // Tiles in bands of GROUP_ROWS row tiles, columns outermost in a band: blocks that run together share rows and filters in L2.
    const int tiles_m = int((p.M + BM - 1) / BM), tiles_n = int((p.K + BN - 1) / BN);
    const int band = quotient(blockIdx.x, p.by_width), at = int(blockIdx.x) - band * GROUP_ROWS * tiles_n;
    const int rows = min(tiles_m - band * GROUP_ROWS, GROUP_ROWS), tile_n = rows == GROUP_ROWS ? at / GROUP_ROWS : at / rows;
    // Either packs or splits lie along z, never both.
    const int split = p.split > 1 ? int(blockIdx.z) : 0, pack = p.split > 1 ? 0 : int(blockIdx.z);
    const int first = p.split > 1 ? int(unsigned(p.steps) * unsigned(split) / unsigned(p.split)) : 0;
    const int last = p.split > 1 ? int(unsigned(p.steps) * unsigned(split + 1) / unsigned(p.split)) : int(p.steps);
    G g(p, band * GROUP_ROWS + at - tile_n * rows, tile_n, pack, first);
    begin();  // so far addresses only: some hundred instructions, while the kernel in front of this one still runs

    if constexpr (TENSOR_CORE) {
        float acc[G::MI][G::NJ][4] = {};
        g.reduce(acc, first, last);
        g.store_tile(acc, split);
    } else {
        float acc[G::TM][G::TN] = {};
        g.reduce(acc, first, last);
        g.store_tile(acc, split);
    }
}

// The second half of a split reduction: partial sums added in one order, so that results repeat, and the epilogue.
template <typename T> __global__ void __launch_bounds__(256) split_reduce(const GemmParams p) {
    begin();
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= p.M * p.K) return;
    const int m = int(quotient64(i, p.K)), n = int(i - m * p.K);
    float sum[1] = {0.0f};
#pragma unroll 4
    for (i64 split = 0; split < p.split; ++split) sum[0] += p.partial[(split * p.M + m) * p.K + n];
    if (p.bias) sum[0] += to_float(static_cast<const T *>(p.bias)[n]);
    const int rest = quotient(m, p.by_Q), q = m - rest * int(p.Q), image = quotient(rest, p.by_P), ph = rest - image * int(p.P);
    if (p.residual) sum[0] += to_float(static_cast<const T *>(p.residual)[image * p.res_n + ph * p.res_h + q * p.res_w + n * p.res_c]);
    activate(sum, p.activation);
    store(static_cast<T *>(p.y) + image * p.y_n + ph * p.y_h + q * p.y_w + n * p.y_c, sum);
}
