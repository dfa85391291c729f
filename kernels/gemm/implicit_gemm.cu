// Convolution, pointwise convolution and linear layers as one GEMM:
//
//     y[m, n] = activation(sum over k of a[m, k] w[n, k] + bias[n] + residual[m, n])
//
// m counts the N*P*Q output pixels, n the filters of a pack, k the R*S*C products of a window, channels innermost. Row m of `a` is the
// window of pixel m, never stored: each 16-byte chunk of channels is copied from where it lies in x, or is zeros outside the image.
// A pack is one group, or several whose channels together fill an MMA (few channels a group: ResNeXt); the weights of a pack form a
// block-diagonal matrix whose zeros are made while loading.
//
// A block owns BM x BN outputs and walks k in steps of 8 chunks (128 bytes a row), STAGES of them in flight. Chunk c of row r lies at
// chunk c ^ (r % 8): the 8 rows that one ldmatrix phase, or 8 neighbouring lanes, read fall on different banks (the XOR swizzle).
#include "../cuda/mma.cuh"

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
    i64 vector_store;                // y and residual take 16-byte accesses
};

// How operands are loaded. VECTORS: chunks of 16 bytes, by cp.async. ELEMENTS: one by one, for strides or channel counts that have no
// such chunks (an image's 3 channels, groups of 4 in the block-diagonal weights).
constexpr int VECTORS = 0, ELEMENTS_B = 1, ELEMENTS = 2;
constexpr int ROW = 128;        // bytes of a row of a stage
constexpr int GROUP_ROWS = 8;   // row tiles that run together and share the weights in L2

template <typename T, bool TENSOR_CORE, int BM, int BN, int WM, int WN, int STAGES, int LOAD, int THREADS> struct Gemm {
    static constexpr int CHUNK = 16 / sizeof(T), BK = 8 * CHUNK;
    static constexpr int STAGE = (BM + BN) * ROW;
    static constexpr int ROWS_A = BM * 8 / THREADS, ROWS_B = BN * 8 / THREADS;  // rows that a thread loads, one chunk of each
    static constexpr int STRIDE = THREADS / 8;
    // Padding of 4 floats: rows that neighbouring lanes write start on different banks.
    static constexpr int PITCH = BN + 4;
    static_assert(BM % STRIDE == 0 && BN % STRIDE == 0, "every thread loads whole rows");

    const GemmParams &p;
    char *shared;
    int tid, column;          // the chunk column that this thread loads
    int first_m, first_n, pack;
    int h[ROWS_A], v[ROWS_A];  // the window's first row and column; far outside the image for a row beyond M
    const T *row[ROWS_A];
    int r, s, c;              // the tap and channel of this thread's chunk in the step to load next
    int k;                     // and its first product

    __device__ __forceinline__ char *place(int stage, int line, int chunk) const {
        return shared + stage * STAGE + line * ROW + ((chunk ^ (line & 7)) << 4);
    }

    __device__ __forceinline__ Gemm(const GemmParams &params, int tile_m, int tile_n, int pack_, int first_step)
        : p(params), shared(shared_memory()), tid(threadIdx.x), column(tid % 8), first_m(tile_m * BM), first_n(tile_n * BN), pack(pack_) {
        const int P = int(p.P), Q = int(p.Q);
#pragma unroll
        for (int i = 0; i < ROWS_A; ++i) {
            const int m = first_m + tid / 8 + i * STRIDE;
            const int q = m % Q, rest = m / Q;
            const int ph = rest % P, n = rest / P;
            h[i] = m < p.M ? ph * int(p.stride_h) - int(p.top) : -(1 << 29);
            v[i] = q * int(p.stride_w) - int(p.left);
            row[i] = static_cast<const T *>(p.x) + n * p.x_n + h[i] * p.x_h + v[i] * p.x_w + pack * p.C * p.x_c;
        }
        k = first_step * BK + column * CHUNK;
        const int tap = k / int(p.C);
        c = k - tap * int(p.C), r = tap / int(p.S), s = tap - r * int(p.S);
    }

    __device__ __forceinline__ void advance() {
        k += BK;
        if constexpr (LOAD != ELEMENTS) {
            c += BK;
            while (c >= p.C) {
                c -= int(p.C);
                if (++s == p.S) s = 0, ++r;
            }
        }
    }

    __device__ __forceinline__ bool inside(int i, int r, int s) const {
        return r < p.R && unsigned(h[i] + r * int(p.dilation_h)) < unsigned(p.H) && unsigned(v[i] + s * int(p.dilation_w)) < unsigned(p.W);
    }

    // Copies this thread's chunks of the next step into a stage.
    __device__ __forceinline__ void load_stage(int stage) {
        if constexpr (LOAD == ELEMENTS) {
            load_elements_a(stage);
        } else {
            const i64 shift = r * p.dilation_h * p.x_h + s * p.dilation_w * p.x_w + c;
#pragma unroll
            for (int i = 0; i < ROWS_A; ++i) {
                const bool present = inside(i, r, s);
                copy_async(place(stage, tid / 8 + i * STRIDE, column), present ? row[i] + shift : static_cast<const T *>(p.x), present);
            }
        }
        const i64 products = p.R * p.S * p.group_c;  // of one filter
#pragma unroll
        for (int i = 0; i < ROWS_B; ++i) {
            const int line = tid / 8 + i * STRIDE, n = first_n + line;
            char *to = place(stage, BM + line, column);
            const T *from = static_cast<const T *>(p.w) + (pack * p.K + n) * products;
            if constexpr (LOAD == VECTORS) {
                // In a pack a chunk holds channels of one group (group_c % CHUNK == 0), and is zeros beside its diagonal block.
                const bool own = p.pack == 1 || c / int(p.group_c) == n / int(p.group_k);
                const bool present = n < p.K && r < p.R && own;
                const i64 at = p.pack == 1 ? k : (r * p.S + s) * p.group_c + c % int(p.group_c);
                copy_async(to, present ? from + at : static_cast<const T *>(p.w), present);
            } else {
                T items[CHUNK];
#pragma unroll
                for (int e = 0; e < CHUNK; ++e) {
                    items[e] = from_float<T>(0.0f);
                    if (LOAD == ELEMENTS) {
                        if (n < p.K && k + e < products) items[e] = from[k + e];
                    } else if (n < p.K && r < p.R && (c + e) / int(p.group_c) == n / int(p.group_k)) {
                        items[e] = from[(r * p.S + s) * p.group_c + (c + e) % int(p.group_c)];
                    }
                }
                put(to, items);
            }
        }
        commit_copies();
        advance();
    }

    __device__ __forceinline__ void load_elements_a(int stage) {
        const i64 products = p.R * p.S * p.C;
        i64 shift[CHUNK];
        int tap_r[CHUNK], tap_s[CHUNK];
#pragma unroll
        for (int e = 0; e < CHUNK; ++e) {
            const int at = k + e, tap = at / int(p.C), channel = at % int(p.C);
            tap_r[e] = at < products ? tap / int(p.S) : int(p.R), tap_s[e] = tap % int(p.S);
            shift[e] = tap_r[e] * p.dilation_h * p.x_h + tap_s[e] * p.dilation_w * p.x_w + channel * p.x_c;
        }
#pragma unroll
        for (int i = 0; i < ROWS_A; ++i) {
            T items[CHUNK];
#pragma unroll
            for (int e = 0; e < CHUNK; ++e) {
                items[e] = from_float<T>(0.0f);
                if (inside(i, tap_r[e], tap_s[e])) items[e] = row[i][shift[e]];
            }
            put(place(stage, tid / 8 + i * STRIDE, column), items);
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

    // ---- one step of products, from shared memory

    static constexpr int MI = WM / 16, NJ = WN / 8;  // MMA tiles of a warp's WM x WN
    __device__ __forceinline__ void multiply_stage(int stage, float (&acc)[MI][NJ][4]) const {
        const int lane = tid % 32, warp = tid / 32;
        const int m = warp / (BN / WN) * WM, n = warp % (BN / WN) * WN;
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            unsigned a[MI][4], b[NJ][2];
#pragma unroll
            for (int i = 0; i < MI; ++i)
                load_matrices(a[i], place(stage, m + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < NJ; j += 2) {
                unsigned both[4];
                load_matrices(both, place(stage, BM + n + j * 8 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
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

    // The sum over steps [first, last), STAGES - 1 of them on their way while one is multiplied; at the end it lies in the stash.
    template <typename Accumulators> __device__ __forceinline__ void reduce(Accumulators &acc, int first, int last) {
#pragma unroll 1
        for (int i = 0; i < STAGES - 1; ++i) {
            if (first + i < last)
                load_stage(i);
            else
                commit_copies();  // an empty group, so that the count of groups tells the step
        }
#pragma unroll 1
        for (int step = first; step < last; ++step) {
            wait_copies<STAGES - 2>();
            __syncthreads();  // the step has come for all threads, and all are done with the stage that is loaded next
            const int next = step + STAGES - 1;
            if (next < last)
                load_stage((next - first) % STAGES);
            else
                commit_copies();
            multiply_stage((step - first) % STAGES, acc);
        }
        wait_copies<0>();
        __syncthreads();  // the stages become the stash
        stash(acc);
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

    // N neighbouring outputs of one row: from the stash to y, or to the workspace of a split.
    template <int N> __device__ __forceinline__ void finish(int line, int column, int split) const {
        const int m = first_m + line, n = first_n + column;
        if (m >= p.M || n >= p.K) return;
        float sum[N];
        load<float>(sum, reinterpret_cast<const float *>(shared) + line * PITCH + column);
        const i64 filter = pack * p.K + n;
        if (p.split > 1) {
            store<float>(p.partial + (split * p.M + m) * p.K + n, sum);
            return;
        }
        const int q = m % int(p.Q), rest = m / int(p.Q);
        const i64 ph = rest % int(p.P), image = rest / int(p.P);
        float more[N];
        if (p.bias) {
#pragma unroll
            for (int e = 0; e < N; ++e) sum[e] += to_float(static_cast<const T *>(p.bias)[filter + e]);
        }
        if (p.residual) {
            load(more, static_cast<const T *>(p.residual) + image * p.res_n + ph * p.res_h + q * p.res_w + filter * p.res_c);
#pragma unroll
            for (int e = 0; e < N; ++e) sum[e] += more[e];
        }
        activate(sum, int(p.activation));
        store(static_cast<T *>(p.y) + image * p.y_n + ph * p.y_h + q * p.y_w + filter * p.y_c, sum);
    }

    __device__ __forceinline__ void store_tile(int split) const {
        constexpr int N = CHUNK;
        if (p.pack > 1) {
            mend_stash();
            __syncthreads();
        }
        if (p.vector_store)
#pragma unroll 1
            for (int i = tid; i < BM * BN / N; i += THREADS) finish<N>(i / (BN / N), i % (BN / N) * N, split);
        else  // one by one, neighbouring lanes along what is adjacent in y: channels, or (NCHW) pixels
#pragma unroll 1
            for (int i = tid; i < BM * BN; i += THREADS)
                finish<1>(p.y_c == 1 ? i / BN : i % BM, p.y_c == 1 ? i % BN : i / BM, split);
    }
};

// One block an SM for the largest tile, whose 64 sums a thread take about 200 registers with what feeds them (128 registers spilled);
// the same for single elements, whose addresses differ one by one. Two for the others.
template <typename T, bool TENSOR_CORE, int BM, int BN, int WM, int WN, int STAGES, int LOAD, int THREADS>
__global__ void __launch_bounds__(THREADS, BM * BN > 128 * 64 || LOAD == ELEMENTS ? 1 : 2) implicit_gemm(const GemmParams p) {
    using G = Gemm<T, TENSOR_CORE, BM, BN, WM, WN, STAGES, LOAD, THREADS>;
    // Tiles in bands of GROUP_ROWS row tiles, columns outermost in a band: blocks that run together share rows and filters in L2.
    const int tiles_m = int((p.M + BM - 1) / BM), tiles_n = int((p.K + BN - 1) / BN);
    const int width = GROUP_ROWS * tiles_n, band = int(blockIdx.x) / width, at = int(blockIdx.x) % width;
    const int rows = min(tiles_m - band * GROUP_ROWS, GROUP_ROWS);
    const int split = int(blockIdx.z) % int(p.split);
    const int first = int(p.steps * split / p.split), last = int(p.steps * (split + 1) / p.split);
    G g(p, band * GROUP_ROWS + at % rows, at / rows, int(blockIdx.z) / int(p.split), first);

    if constexpr (TENSOR_CORE) {
        float acc[G::MI][G::NJ][4] = {};
        g.reduce(acc, first, last);
    } else {
        float acc[G::TM][G::TN] = {};
        g.reduce(acc, first, last);
    }
    __syncthreads();
    g.store_tile(split);
}

// The second half of a split reduction: partial sums added in one order, so that results repeat, and the epilogue.
template <typename T> __global__ void __launch_bounds__(256) split_reduce(const GemmParams p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= p.M * p.K) return;
    const int m = int(i / p.K), n = int(i % p.K);
    float sum[1] = {0.0f};
    for (i64 split = 0; split < p.split; ++split) sum[0] += p.partial[(split * p.M + m) * p.K + n];
    if (p.bias) sum[0] += to_float(static_cast<const T *>(p.bias)[n]);
    const int q = m % int(p.Q), rest = m / int(p.Q);
    const i64 ph = rest % int(p.P), image = rest / int(p.P);
    if (p.residual) sum[0] += to_float(static_cast<const T *>(p.residual)[image * p.res_n + ph * p.res_h + q * p.res_w + n * p.res_c]);
    activate(sum, int(p.activation));
    store(static_cast<T *>(p.y) + image * p.y_n + ph * p.y_h + q * p.y_w + n * p.y_c, sum);
}
