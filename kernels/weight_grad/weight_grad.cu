// The gradient of a convolution by its weight, as a GEMM over the N*P*Q pixels m of the output:
//
//     dw[k, c, r, s] = sum over m of dy[m, k] * x[window of m at (r, s), c]
//
// A block owns BM filters x BN columns of one pack of groups, and a part of the pixels, BK of them a step. Both operands lie in shared
// memory as they lie in the image, a pixel a row of channels; tensor cores want them along the pixels, and ldmatrix transposes them on
// the way. A column is a channel of one tap: a tile lies within one tap (COLUMNS), or, where channels do not come in vectors, taps and
// channels are flattened into j = (r*S + s)*C + c and copied one by one.
//
// One more tile of columns sums dy alone where the bias's gradient is wanted. The parts of a split reduction go to a workspace, and
// weight_reduce adds them in one order.
#include "../common/cuda/mma.cuh"

struct WeightGradParams {
    const void *dy, *x;
    void *y, *bias;
    float *partial;               // [split, filters, R*S, group_c], and behind it [split, filters] for the bias
    i64 M, H, W, P, Q, R, S;
    i64 C, K, filters;            // channels and filters of a pack, and filters of all packs
    i64 group_c, group_k, pack;   // of one group, and groups in a pack
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 dy_n, dy_c, dy_h, dy_w, x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w;
    i64 split, steps, columns;    // parts, steps of all parts together, tiles of columns without the bias's
    i64 by_P, by_Q, by_C, by_S, by_group_k, by_group_c, by_blocks, by_columns;  // reciprocals; blocks: tiles of a tap's channels
};

constexpr int ROW = 128, BK = 32, THREADS = 128;  // bytes of a panel's row; pixels a step
constexpr int PASSES = BK * 8 / THREADS;          // rows of a panel that a thread copies, one chunk of each

template <typename T, bool TENSOR_CORE, int BM, int BN, int STAGES, bool FILTERS, bool COLUMNS> struct WeightGrad {
    static constexpr int CHUNK = 16 / sizeof(T), PANEL = 8 * CHUNK, PANELS_A = BM / PANEL, PANELS_B = BN / PANEL;
    static constexpr int STAGE = (PANELS_A + PANELS_B) * BK * ROW;
    static constexpr int WM = BM / 2, WN = BN / 2, MI = WM / 16, NJ = WN / 8;  // 2 x 2 warps

    const WeightGradParams &p;
    char *shared;
    int tid, pack, first_k, tile, dh, dw, first_c, tap;

    __device__ __forceinline__ WeightGrad(const WeightGradParams &params, int pack_, int tile_k, int tile_c)
        : p(params), shared(shared_memory()), tid(threadIdx.x), pack(pack_), first_k(tile_k * BM), tile(tile_c) {
        tap = COLUMNS ? quotient(tile, p.by_blocks) : 0;
        const int blocks = int((p.C + BN - 1) / BN), r = quotient(tap, p.by_S), s = tap - r * int(p.S);
        first_c = (tile - tap * blocks) * BN;
        dh = r * int(p.dilation_h) - int(p.top), dw = s * int(p.dilation_w) - int(p.left);
    }

    // Chunk c of row r of a panel lies at chunk c ^ (r % 8), so that the rows of an ldmatrix fall on different banks.
    __device__ __forceinline__ char *place(int stage, int panel, int row, int chunk) const {
        return shared + stage * STAGE + (panel * BK + row) * ROW + ((chunk ^ (row & 7)) << 4);
    }

    // The tap and the channel of a column of this tile; false beyond the last.
    __device__ __forceinline__ bool locate(int column, int &r, int &s, int &c) const {
        int at = tap;
        c = first_c + column;
        if constexpr (!COLUMNS) {
            const int j = tile * BN + column;
            at = quotient(j, p.by_C), c = j - at * int(p.C);
        }
        r = quotient(at, p.by_S), s = at - r * int(p.S);
        return c < int(p.C) && r < int(p.R);
    }

    __device__ __forceinline__ static void put(char *to, const T (&items)[CHUNK]) {
        unsigned words[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if constexpr (sizeof(T) == 4)
                words[j] = float_to_bits(items[j]);
            else
                words[j] = items[2 * j].bits | unsigned(items[2 * j + 1].bits) << 16;
        }
        *reinterpret_cast<uint4 *>(to) = {words[0], words[1], words[2], words[3]};
    }

    // Copies this thread's chunks of the pixels of a step into a stage.
    __device__ __forceinline__ void load_stage(int stage, int step) const {
        const T *dy = static_cast<const T *>(p.dy), *x = static_cast<const T *>(p.x);
        const int chunk = tid % 8;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int row = tid / 8 + pass * (THREADS / 8), m = step * BK + row;
            const int rest = quotient(m, p.by_Q), q = m - rest * int(p.Q), n = quotient(rest, p.by_P), ph = rest - n * int(p.P);
            const bool real = m < int(p.M);
            const T *from = dy + n * p.dy_n + ph * p.dy_h + q * p.dy_w + pack * p.K * p.dy_c;
#pragma unroll
            for (int panel = 0; panel < PANELS_A; ++panel) {
                const int k = first_k + (panel * 8 + chunk) * CHUNK;
                char *to = place(stage, panel, row, chunk);
                if constexpr (FILTERS) {
                    copy_async(to, from + k, real && k < int(p.K));
                } else {
                    T items[CHUNK];
#pragma unroll
                    for (int e = 0; e < CHUNK; ++e) items[e] = real && k + e < int(p.K) ? from[(k + e) * p.dy_c] : from_float<T>(0.0f);
                    put(to, items);
                }
            }
            const int h = ph * int(p.stride_h), w = q * int(p.stride_w);
            from = x + n * p.x_n + h * p.x_h + w * p.x_w + pack * p.C * p.x_c;
            const bool inside = real && unsigned(h + dh) < unsigned(p.H) && unsigned(w + dw) < unsigned(p.W);
#pragma unroll
            for (int panel = 0; panel < PANELS_B; ++panel) {
                const int column = (panel * 8 + chunk) * CHUNK;
                char *to = place(stage, PANELS_A + panel, row, chunk);
                if constexpr (COLUMNS) {
                    const int c = first_c + column;
                    copy_async(to, from + dh * p.x_h + dw * p.x_w + c, inside && c < int(p.C));
                } else {
                    T items[CHUNK];
#pragma unroll
                    for (int e = 0; e < CHUNK; ++e) {
                        int r, s, c;
                        const bool seen = locate(column + e, r, s, c);
                        const int at_h = r * int(p.dilation_h) - int(p.top), at_w = s * int(p.dilation_w) - int(p.left);
                        const bool in = real && seen && unsigned(h + at_h) < unsigned(p.H) && unsigned(w + at_w) < unsigned(p.W);
                        items[e] = in ? from[at_h * p.x_h + at_w * p.x_w + c * p.x_c] : from_float<T>(0.0f);
                    }
                    put(to, items);
                }
            }
        }
        commit_copies();
    }

    // ---- one step of products: a warp owns WM x WN outputs

    __device__ __forceinline__ const float *element(int stage, int panel, int row, int column) const {
        return reinterpret_cast<const float *>(place(stage, panel + column / PANEL, row, column % PANEL / CHUNK)) + column % CHUNK;
    }

    __device__ __forceinline__ void multiply_stage(int stage, float (&acc)[MI][NJ][4]) const {
        const int lane = tid % 32, warp = tid / 32, m = warp / 2 * WM, n = warp % 2 * WN;
        constexpr int KS = 32 / sizeof(T);  // pixels of an MMA
#pragma unroll
        for (int step = 0; step < BK / KS; ++step) {
            unsigned a[MI][4], b[NJ][2];
            if constexpr (sizeof(T) == 2) {
                // The four 8 x 8 matrices of a fragment: 16 pixels x 16 channels, those of a lane's row address by lane / 8.
                const int row = step * KS + lane % 8, high = lane / 16, odd = lane / 8 % 2;
#pragma unroll
                for (int i = 0; i < MI; ++i) {
                    const int chunk = (m + i * 16) / 8 + odd;
                    load_transposed(a[i], place(stage, chunk / 8, row + high * 8, chunk % 8));
                }
#pragma unroll
                for (int j = 0; j < NJ; j += 2) {
                    const int chunk = (n + j * 8) / 8 + high;
                    unsigned both[4];
                    load_transposed(both, place(stage, PANELS_A + chunk / 8, row + odd * 8, chunk % 8));
                    b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
                }
            } else {
                const int g = lane / 4, t = step * KS + lane % 4;
#pragma unroll
                for (int i = 0; i < MI; ++i)
#pragma unroll
                    for (int e = 0; e < 4; ++e) a[i][e] = float_to_bits(*element(stage, 0, t + e / 2 * 4, m + i * 16 + g + e % 2 * 8));
#pragma unroll
                for (int j = 0; j < NJ; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e) b[j][e] = float_to_bits(*element(stage, PANELS_A, t + e * 4, n + j * 8 + g));
            }
            multiply<T>(acc, a, b);
        }
    }

    // Without tensor cores: thread (tx, ty) of 16 x 8 owns filters 4 ty .. and 4 ty + BM / 2 .., and columns 4 tx ..
    __device__ __forceinline__ void multiply_stage(int stage, float (&acc)[8][4]) const {
        const int tx = tid % 16, ty = tid / 16;
#pragma unroll 4
        for (int row = 0; row < BK; ++row) {
            float a[8], b[4];
            load<float>(reinterpret_cast<float(&)[4]>(a[0]), element(stage, 0, row, 4 * ty));
            load<float>(reinterpret_cast<float(&)[4]>(a[4]), element(stage, 0, row, 4 * ty + BM / 2));
            load<float>(b, element(stage, PANELS_A, row, 4 * tx));
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
        }
    }

    // The sum over steps [first, last), STAGES - 1 of them on their way while one is multiplied.
    template <typename Accumulators> __device__ __forceinline__ void reduce(Accumulators &acc, int first, int last) const {
#pragma unroll 1
        for (int i = 0; i < STAGES - 1; ++i) {
            if (first + i < last)
                load_stage(i, first + i);
            else
                commit_copies();
        }
        int from = 0, into = STAGES - 1;
#pragma unroll 1
        for (int step = first; step < last; ++step) {
            wait_copies<STAGES - 2>();
            __syncthreads();
            if (step + STAGES - 1 < last)
                load_stage(into, step + STAGES - 1);
            else
                commit_copies();
            multiply_stage(from, acc);
            from = from == STAGES - 1 ? 0 : from + 1, into = into == STAGES - 1 ? 0 : into + 1;
        }
        wait_copies<0>();
    }

    // One sum, to y or to the workspace of a split; nothing for one group's filter and another group's channel.
    __device__ __forceinline__ void store_sum(int line, int column, int split, float sum) const {
        int k = first_k + line, r, s, c;
        if (!locate(column, r, s, c) || k >= int(p.K)) return;
        if (p.pack > 1) {
            const int group = quotient(c, p.by_group_c);
            if (quotient(k, p.by_group_k) != group) return;
            c -= group * int(p.group_c);
        }
        k += pack * int(p.K);
        if (p.split > 1)
            p.partial[((split * p.filters + k) * p.R * p.S + r * p.S + s) * p.group_c + c] = sum;
        else
            static_cast<T *>(p.y)[k * p.y_n + c * p.y_c + r * p.y_h + s * p.y_w] = from_float<T>(sum);
    }
    __device__ __forceinline__ void store_tile(const float (&acc)[MI][NJ][4], int split) const {
        const int lane = tid % 32, warp = tid / 32, m = warp / 2 * WM + lane / 4, n = warp % 2 * WN + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int j = 0; j < NJ; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) store_sum(m + i * 16 + e / 2 * 8, n + j * 8 + e % 2, split, acc[i][j][e]);
    }
    __device__ __forceinline__ void store_tile(const float (&acc)[8][4], int split) const {
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) store_sum(i / 4 * (BM / 2) + tid / 16 * 4 + i % 4, tid % 16 * 4 + j, split, acc[i][j]);
    }

    // The sums of dy alone: threads of neighbouring filters, THREADS / BM of them on different pixels of one filter.
    __device__ __forceinline__ void sum_bias(int split, int first, int last) const {
        constexpr int SHARES = THREADS / BM;
        const int line = tid % BM, k = first_k + line, end = min(last * BK, int(p.M));
        const T *dy = static_cast<const T *>(p.dy) + (pack * p.K + k) * p.dy_c;
        float sum = 0.0f;
        if (k < int(p.K))
#pragma unroll 4
            for (int m = first * BK + tid / BM; m < end; m += SHARES) {
                const int rest = quotient(m, p.by_Q), q = m - rest * int(p.Q), n = quotient(rest, p.by_P), ph = rest - n * int(p.P);
                sum += to_float(dy[n * p.dy_n + ph * p.dy_h + q * p.dy_w]);
            }
        float *sums = reinterpret_cast<float *>(shared);
        sums[tid] = sum;
        __syncthreads();
        if (tid >= BM || k >= int(p.K)) return;
        for (int i = 1; i < SHARES; ++i) sum += sums[tid + i * BM];
        const i64 at = pack * p.K + k;
        if (p.split > 1)
            p.partial[p.split * p.filters * p.R * p.S * p.group_c + split * p.filters + at] = sum;
        else
            static_cast<T *>(p.bias)[at] = from_float<T>(sum);
    }
};

template <typename T, bool TENSOR_CORE, int BM, int BN, int STAGES, bool FILTERS, bool COLUMNS>
__global__ void __launch_bounds__(THREADS, BM * BN > 64 * 64 || sizeof(T) == 4 ? 2 : 3) weight_grad(const WeightGradParams p) {
    begin();
    using G = WeightGrad<T, TENSOR_CORE, BM, BN, STAGES, FILTERS, COLUMNS>;
    const int tile_k = quotient(blockIdx.x, p.by_columns), tile_c = int(blockIdx.x) - tile_k * int(p.columns + (p.bias != nullptr));
    const int split = int(blockIdx.y), pack = int(blockIdx.z);
    const int first = int(p.steps * split / p.split), last = int(p.steps * (split + 1) / p.split);
    const G g(p, pack, tile_k, tile_c);
    if (tile_c == int(p.columns)) return g.sum_bias(split, first, last);
    if constexpr (TENSOR_CORE) {
        float acc[G::MI][G::NJ][4] = {};
        g.reduce(acc, first, last);
        g.store_tile(acc, split);
    } else {
        float acc[8][4] = {};
        g.reduce(acc, first, last);
        g.store_tile(acc, split);
    }
}

// The second half of a split reduction: a weight or a bias a thread. Also of depthwise_grad.cu's parts.
struct WeightReduceParams {
    const float *partial;
    void *y, *bias;
    i64 filters, R, S, group_c, split;
    i64 y_n, y_c, y_h, y_w;
};
template <typename T> __global__ void __launch_bounds__(256) weight_reduce(const WeightReduceParams p) {
    begin();
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x, weights = p.filters * p.R * p.S * p.group_c;
    const bool weight = i < weights;
    if (!weight && (!p.bias || i >= weights + p.filters)) return;
    const i64 size = weight ? weights : p.filters;
    const float *from = p.partial + (weight ? i : p.split * weights + i - weights);
    float sum = 0.0f;
#pragma unroll 16
    for (i64 split = 0; split < p.split; ++split) sum += from[split * size];
    if (!weight) {
        static_cast<T *>(p.bias)[i - weights] = from_float<T>(sum);
        return;
    }
    const i64 row = quotient64(i, p.group_c), c = i - row * p.group_c, rest = quotient64(row, p.S), s = row - rest * p.S;
    const i64 k = quotient64(rest, p.R), r = rest - k * p.R;
    static_cast<T *>(p.y)[k * p.y_n + c * p.y_c + r * p.y_h + s * p.y_w] = from_float<T>(sum);
}
