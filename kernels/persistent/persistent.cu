// A run of convolutions on small maps as one launch: blocks that stay take tasks, and counters in global memory stand where one
// launch after another would.
//
// A task is a part of the sum of one tile, 64 pixels x 32 filters of one layer: steps [begin, end) of 64 products each. Tasks are
// numbered layer after layer, and a block takes the next one by an atomic counter. It
//
//     1. copies the first steps of its filters into shared memory, and asks L2 for those of the task that is a grid further on,
//     2. waits until the layers that it reads have all their tiles, and copies and multiplies,
//     3. of a tile of several parts: leaves its sums in the workspace; the last part to come adds all of them, in their order,
//     4. who has the whole sum adds bias and residual, stores the tile, and counts it for its layer.
//
// A task waits for tasks of lower numbers only, and only at its beginning. Of all tasks that are not finished the lowest one waits
// for nothing, and if it has been taken, then by a block that runs: so there is always one that ends, however many blocks the GPU
// runs at once and in whatever order. A sum has the same terms in the same order whoever adds it: results repeat.
#include "../bottleneck/chain.cuh"
#include "../common/cuda/between.cuh"

constexpr int FIELDS = 8;                 // of a layer in the table
constexpr int COUNTER = 32;               // words from one counter to the next: each has a line of its own
constexpr int BM = 64, BN = 32, STEP = 64;
constexpr int ROW = STEP * 2;             // bytes of a row of a stage
constexpr int STAGE = (BM + BN) * ROW;    // pixels, then filters
constexpr int WORKERS = 128;              // threads: 2 x 2 warps of 32 x 16 outputs
constexpr int INPUT = 0;                  // where a layer reads: the run's input, else the map of layer `from` - 1
constexpr int NOTHING = 0xFFFF;           // instead of a residual

struct PersistentParams {
    const void *x;
    void *y;
    void *maps;         // of all layers but the last, each (pixels, channels)
    float *sums;        // of parts of tiles: 64 x 32 a part, as its threads hold them
    void *counters;     // words: tasks taken; tiles finished, of each layer; parts finished, of each tile
    const void *w[48], *b[48];
    i64 table[384];     // 8 of each layer: see Layer
    i64 layers, tasks, words;
    i64 x_n, x_h, x_w, y_n, y_h, y_w;
};

// A row of the table (kernels/persistent/configs.py writes it).
struct Layer {
    int C, K, H, W, P, Q, R, S, stride_h, stride_w, top, left, activation, from, plus, split, first, M, parts, sums;
    i64 map;  // where its output begins in `maps`; below 0: it is y
    __device__ __forceinline__ Layer(const i64 *row)
        : C(low(row[0])), K(high(row[0])), H(low(row[1])), W(high(row[1])), P(low(row[2])), Q(high(row[2])), R(byte(row[3], 0)),
          S(byte(row[3], 1)), stride_h(byte(row[3], 2)), stride_w(byte(row[3], 3)), top(byte(row[3], 4)), left(byte(row[3], 5)),
          activation(byte(row[3], 6)), from(low(row[4]) & 0xFFFF), plus(low(row[4]) >> 16 & 0xFFFF), split(high(row[4])),
          first(low(row[5])), M(high(row[5])), parts(low(row[6])), sums(high(row[6])), map(row[7]) {}
    __device__ __forceinline__ static int low(i64 v) { return int(v); }
    __device__ __forceinline__ static int high(i64 v) { return int(v >> 32); }
    __device__ __forceinline__ static int byte(i64 v, int i) { return int(v >> 8 * i & 0xFF); }
    __device__ __forceinline__ int rows() const { return (M + BM - 1) / BM; }
    __device__ __forceinline__ int tiles() const { return rows() * (K / BN); }
    __device__ __forceinline__ int steps() const { return R * S * C / STEP; }
};

// Which part of which tile a task is.
struct Task {
    int tile, part, first_m, first_n, begin, end;
    __device__ __forceinline__ Task(const Layer &l, int number) {
        const int index = number - l.first, steps = l.steps();
        tile = index / l.split, part = index - tile * l.split;
        const int column = tile / l.rows();
        first_m = (tile - column * l.rows()) * BM, first_n = column * BN;
        begin = steps * part / l.split, end = steps * (part + 1) / l.split;
    }
};

template <typename T, int STAGES> struct Persistent {
    static constexpr int ROWS_A = BM * 8 / WORKERS, ROWS_B = BN * 8 / WORKERS, BETWEEN = WORKERS / 8;  // of a thread, and rows apart
    static constexpr int MI = 2, NJ = 2;  // MMA tiles of a warp
    using Sums = float[MI * 2][4];        // of a thread: rows of four neighbouring filters

    const PersistentParams &p;
    char *shared;
    int *words;               // two, behind the stages
    unsigned *counters;
    const Share<2, NJ> place;
    int tid, column;          // column: the chunk of a row that this thread copies

    __device__ __forceinline__ Persistent(const PersistentParams &params)
        : p(params), shared(shared_memory()), words(reinterpret_cast<int *>(shared + STAGES * STAGE)),
          counters(static_cast<unsigned *>(p.counters)), tid(threadIdx.x), column(tid % 8) {}

    __device__ __forceinline__ int first(int layer) const { return Layer::low(p.table[layer * FIELDS + 5]); }
    // The layer of a task, from `layer` on.
    __device__ __forceinline__ int layer_of(int task, int layer) const {
        while (layer + 1 < int(p.layers) && task >= first(layer + 1)) ++layer;
        return layer;
    }
    __device__ __forceinline__ static int in_stage(int row, int chunk) { return row * ROW + ((chunk ^ (row & 7)) << 4); }

    // ---- operands

    // Strides of a map: the run's input has its own, the others are rows of pixels.
    struct View {
        const T *at;
        int n, h, w;
    };
    __device__ __forceinline__ View view(int from, int H, int W, int C) const {
        if (from == INPUT) return {static_cast<const T *>(p.x), int(p.x_n), int(p.x_h), int(p.x_w)};
        return {static_cast<const T *>(p.maps) + p.table[(from - 1) * FIELDS + 7], H * W * C, W * C, C};
    }
    __device__ __forceinline__ void wait_for(int from) const {
        if (from != INPUT && from != NOTHING) await(counters + COUNTER * from, Layer(p.table + (from - 1) * FIELDS).tiles());
    }

    struct Pixels {  // what a thread copies of them
        const T *row[ROWS_A];
        int h0[ROWS_A], w0[ROWS_A], n, h, w, H, W, C, S;
        int r, s, c;  // of the step to copy next

        __device__ __forceinline__ Pixels(const Layer &l, const Task &task, const View &x, int tid) : n(x.n), h(x.h), w(x.w), H(l.H), W(l.W), C(l.C), S(l.S) {
#pragma unroll
            for (int i = 0; i < ROWS_A; ++i) {
                const int m = task.first_m + tid / 8 + i * BETWEEN, line = m / l.Q, image = line / l.P;
                h0[i] = (line - image * l.P) * l.stride_h - l.top, w0[i] = (m - line * l.Q) * l.stride_w - l.left;
                row[i] = x.at + image * n + h0[i] * h + w0[i] * w + tid % 8 * 8;
                if (m >= l.M) h0[i] = -(1 << 30);  // outside every image
            }
            const int tap = task.begin * STEP / C;
            c = task.begin * STEP - tap * C, r = tap / S, s = tap - r * S;
        }
        __device__ __forceinline__ void copy(char *stage, int tid) {
#pragma unroll
            for (int i = 0; i < ROWS_A; ++i) {
                const bool present = unsigned(h0[i] + r) < unsigned(H) && unsigned(w0[i] + s) < unsigned(W);
                copy_async(stage + in_stage(tid / 8 + i * BETWEEN, tid % 8), row[i] + (r * h + s * w + c), present);
            }
            c += STEP;
            if (c == C) {
                c = 0;
                if (++s == S) s = 0, ++r;
            }
        }
    };
    // Filters of one step, in the order that gives a lane four neighbours (chain.cuh). `from`: this thread's chunk of the first one.
    __device__ __forceinline__ void copy_filters(char *stage, const T *from, int products) const {
#pragma unroll
        for (int i = 0; i < ROWS_B; ++i) {
            const int n = tid / 8 + i * BETWEEN;
            copy_async(stage + BM * ROW + in_stage(position<NJ>(n), column), from + n * products, true);
        }
    }
    __device__ __forceinline__ void prefetch_filters(int number, int layer) const {
        if (number >= int(p.tasks)) return;
        layer = layer_of(number, layer);
        const Layer l(p.table + layer * FIELDS);
        const Task task(l, number);
        if (task.first_m) return;  // the same filters as the task of the first pixels
        const T *w = static_cast<const T *>(p.w[layer]) + i64(task.first_n) * l.R * l.S * l.C;
        for (int i = tid; i < BN * (task.end - task.begin); i += WORKERS)
            prefetch(w + i % BN * (l.R * l.S * l.C) + (task.begin + i / BN) * STEP);
    }

    __device__ __forceinline__ void multiply_stage(float (&acc)[MI][NJ][4], const char *stage) const {
        const int lane = tid % 32, row_a = place.row * 32 + lane % 16, row_b = place.column + lane % 8 + lane / 16 * 8;
#pragma unroll
        for (int k = 0; k < STEP / 16; ++k) {
            unsigned a[MI][4], b[NJ][2], both[4];
#pragma unroll
            for (int i = 0; i < MI; ++i) load_matrices(a[i], stage + in_stage(row_a + 16 * i, 2 * k + lane / 16));
            load_matrices(both, stage + BM * ROW + in_stage(row_b, 2 * k + lane / 8 % 2));
            b[0][0] = both[0], b[0][1] = both[1], b[1][0] = both[2], b[1][1] = both[3];
            multiply<T>(acc, a, b);
        }
    }

    // ---- results

    __device__ __forceinline__ float *part_of(const Layer &l, const Task &task, int part) const {
        return p.sums + i64(l.sums + task.tile * l.split + part) * (BM * BN) + tid * 4;
    }
    // Whether this block is the last one of its tile's parts; then `sum` becomes the tile's.
    __device__ __forceinline__ bool joined(const Layer &l, const Task &task, Sums &sum) const {
        float *own = part_of(l, task, task.part);
#pragma unroll
        for (int i = 0; i < MI * 2; ++i) store<float>(own + i * WORKERS * 4, sum[i]);
        __syncthreads();
        if (tid == 0) words[1] = signal(counters + l.parts + task.tile);
        __syncthreads();
        if (words[1] + 1 != l.split) return false;
#pragma unroll
        for (int i = 0; i < MI * 2; ++i) fill(sum[i], 0.0f);
        const float *from = part_of(l, task, 0);
#pragma unroll 4
        for (int part = 0; part < l.split; ++part, from += BM * BN)
#pragma unroll
            for (int i = 0; i < MI * 2; ++i) {
                float more[4];
                unpack<float>(more, load_fresh(from + i * WORKERS * 4));
#pragma unroll
                for (int e = 0; e < 4; ++e) sum[i][e] += more[e];
            }
        return true;
    }
    // Bias, residual, activation, and the tile to its map.
    __device__ __forceinline__ void finish(int layer, const Layer &l, const Task &task, const Sums &sum) const {
        const int n = task.first_n + place.mine();
        float bias[4];
        fill(bias, 0.0f);
        if (p.b[layer]) load_halves(bias, static_cast<const T *>(p.b[layer]) + n);
        const View added = l.plus == NOTHING ? View{} : view(l.plus, l.P, l.Q, l.K);
        const bool strided = l.map < 0;
        T *to = strided ? static_cast<T *>(p.y) : static_cast<T *>(p.maps) + l.map;
#pragma unroll
        for (int i = 0; i < MI * 2; ++i) {
            const int m = task.first_m + place.row * 32 + i / 2 * 16 + place.pixel(i % 2);
            if (m >= l.M) continue;
            const int line = m / l.Q, w = m - line * l.Q, image = line / l.P, h = line - image * l.P;
            float v[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) v[e] = sum[i][e] + bias[e];
            if (added.at) {
                const uint2 words = load_fresh_pair(added.at + image * added.n + h * added.h + w * added.w + n);
                float more[4];
                load_halves(more, reinterpret_cast<const T *>(&words));
#pragma unroll
                for (int e = 0; e < 4; ++e) v[e] += more[e];
            }
            activate(v, l.activation);
            const i64 at = strided ? image * p.y_n + h * p.y_h + w * p.y_w : i64(m) * l.K;
            store_global(to + at + n, {pair(v[0], v[1]), pair(v[2], v[3])});
        }
    }
    __device__ __forceinline__ static unsigned pair(float low, float high) {
        return from_float<T>(low).bits | unsigned(from_float<T>(high).bits) << 16;
    }

    // ---- one task, and all of them

    // Runs a task and returns the number of the next one, in thread 0.
    __device__ __forceinline__ unsigned run(int layer, int number) {
        const Layer l(p.table + layer * FIELDS);
        const Task task(l, number);
        const int products = l.steps() * STEP, count = task.end - task.begin;
        const T *w = static_cast<const T *>(p.w[layer]) + i64(task.first_n) * products + task.begin * STEP + column * 8;
        for (int i = 0; i < STAGES - 1 && i < count; ++i) copy_filters(shared + i * STAGE, w + i * STEP, products);
        commit_copies();
        prefetch_filters(number + int(gridDim.x), layer);
        Pixels pixels(l, task, view(l.from, l.H, l.W, l.C), tid);
        if (tid == 0) wait_for(l.from), wait_for(l.plus);
        __syncthreads();
        for (int i = 0; i < STAGES - 1; ++i) {
            if (i < count) pixels.copy(shared + i * STAGE, tid);
            commit_copies();
        }
        unsigned next = 0;
        if (tid == 0) next = take(counters);
        float acc[MI][NJ][4] = {};
        int from = 0, into = STAGES - 1;
#pragma unroll 1
        for (int i = 0; i < count; ++i) {
            wait_copies<STAGES - 2>();
            __syncthreads();  // the step has come for all threads, and all are done with the stage that is filled next
            if (i + STAGES - 1 < count) {
                copy_filters(shared + into * STAGE, w + (i + STAGES - 1) * STEP, products);
                pixels.copy(shared + into * STAGE, tid);
            }
            commit_copies();
            multiply_stage(acc, shared + from * STAGE);
            from = from == STAGES - 1 ? 0 : from + 1, into = into == STAGES - 1 ? 0 : into + 1;
        }
        wait_copies<0>();
        Sums sum;
#pragma unroll
        for (int i = 0; i < MI * 2; ++i) place.run(sum[i], acc, i / 2, i % 2);
        if (l.split == 1 || joined(l, task, sum)) {
            finish(layer, l, task, sum);
            __syncthreads();
            if (tid == 0) signal(counters + COUNTER * (layer + 1));
        }
        return next;
    }
    __device__ __forceinline__ void operator()() {
        unsigned next = 0;
        if (tid == 0) next = take(counters);
        for (int layer = 0;;) {
            if (tid == 0) words[0] = int(next);
            __syncthreads();  // all are done with the stages, too
            const int number = words[0];
            if (number >= int(p.tasks)) return;
            layer = layer_of(number, layer);
            next = run(layer, number);
        }
    }
};

template <typename T, int STAGES, int BLOCKS> __global__ void __launch_bounds__(WORKERS, BLOCKS) persistent(const PersistentParams p) {
    begin();
    Persistent<T, STAGES> block(p);
    block();
}

// Before it: no task is taken, nothing is finished. The workspace is other launches' too, so nothing can be left there for the next.
template <typename T> __global__ void __launch_bounds__(256) persistent_clear(const PersistentParams p) {
    begin();
    unsigned *counters = static_cast<unsigned *>(p.counters);
    for (int i = threadIdx.x; i < int(p.words); i += 256) counters[i] = 0;
}
