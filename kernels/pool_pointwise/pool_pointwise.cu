// Max pooling, 3x3 of stride 1, and the 1x1 convolution behind it as one kernel, for halves (the pooling branch of an inception):
//
//     y[p, q, k] = activation(sum over c of max over 3x3 of x[p - 1 + r, q - 1 + s, c] w[k, c] + b[k])
//
// A block owns 4 x 14 outputs (chain.cuh) of 64 filters, and takes 64 channels a step: 6 x 16 pixels of x with their halo, and the
// filters' products. The pooled map lies nowhere: a fragment of A is the largest of nine fragments, of which the three of a row, side
// by side, are compared once for all output rows that need them. Outside of the image is -infinity, written once into all stages,
// where no copy follows it.
//
// Eight warps are two pairs of rows and four quarters of a step, 16 channels each, so that no pixel is compared twice for different
// filters; their sums are added at the end, in one order.
#include "../bottleneck/chain.cuh"

struct PoolPointwiseParams {
    const void *x, *w, *bias;
    void *y;
    i64 H, W, C, K;
    i64 x_n, x_h, x_w, y_n, y_h, y_w;
    i64 activation, columns;  // tiles along a row of the image
};

template <typename T, int STAGES> struct PoolPointwise {
    static constexpr int TH = 4, ROWS = TH + 2, BN = 64, DEPTH = 64, QUARTERS = 4, THREADS = 256, MI = 2, NJ = BN / 8;
    static constexpr int X = ROWS * PIXELS * LINE, FILTERS = BN * LINE, STAGE = 2 * (X + FILTERS);  // two halves of 32 channels
    static_assert(QUARTERS * TH / MI * 32 == THREADS && STAGES * STAGE >= THREADS * MI * NJ * 16, "the sums fit in the stages");

    // What a thread copies of a step: one chunk of 8 channels of every other row of a column of pixels, and of every 32nd filter.
    // It is reckoned anew in each step: the registers are taken by sums and fragments.
    struct Copies {
        int chunk, line, row, column;
        __device__ __forceinline__ Copies() {
            const int thread = opaque(threadIdx.x);
            chunk = thread % 8, line = thread / 8, row = line / PIXELS, column = line % PIXELS;
        }
        __device__ __forceinline__ char *pixel(char *stage, int i) const {
            return stage + chunk / 4 * X + in_step(line, chunk % 4) + i * 2 * PIXELS * LINE;
        }
    };

    const PoolPointwiseParams &p;
    int p0, q0, first;  // output pixel and filter
    unsigned inside;    // of this thread's pixels, which are in the image
    Ring<STAGES, STAGE> ring;

    __device__ __forceinline__ PoolPointwise(const PoolPointwiseParams &params)
        : p(params), p0(blockIdx.y * TH), q0(int(blockIdx.x % unsigned(p.columns)) * TW), first(int(blockIdx.x / unsigned(p.columns)) * BN),
          inside(0), ring{shared_memory()} {
        const Copies own;
#pragma unroll
        for (int i = 0; i < ROWS / 2; ++i)
            inside |= unsigned(unsigned(p0 - 1 + own.row + 2 * i) < unsigned(p.H) && unsigned(q0 - 1 + own.column) < unsigned(p.W)) << i;
    }
    __device__ __forceinline__ void fill_outside() const {
        const Copies own;
        const unsigned low = lowest<T>();
#pragma unroll 1
        for (int stage = 0; stage < STAGES; ++stage)
#pragma unroll
            for (int i = 0; i < ROWS / 2; ++i)
                if (!(inside >> i & 1)) *reinterpret_cast<uint4 *>(own.pixel(ring.at + stage * STAGE, i)) = {low, low, low, low};
    }
    // Channels [64 step, 64 step + 64); beyond C there are zeros.
    __device__ __forceinline__ void load(int step, char *to) const {
        const Copies own;
        const int c = step * DEPTH + own.chunk * 8;
        const bool present = c < int(p.C);
        const T *x = static_cast<const T *>(p.x) + blockIdx.z * p.x_n, *w = static_cast<const T *>(p.w);
        const int pixel = (p0 - 1 + own.row) * int(p.x_h) + (q0 - 1 + own.column) * int(p.x_w) + c;
#pragma unroll
        for (int i = 0; i < ROWS / 2; ++i)
            if (inside >> i & 1) copy_async(own.pixel(to, i), x + (pixel + 2 * i * int(p.x_h)), present);
#pragma unroll
        for (int n = own.line; n < BN; n += THREADS / 8)
            copy_async(to + 2 * X + own.chunk / 4 * FILTERS + in_step(position<NJ>(n), own.chunk % 4), w + ((first + n) * int(p.C) + c),
                       present && first + n < int(p.K));
    }

    // a = the pooled pixels of output rows [y, y + MI), 16 channels of them.
    __device__ __forceinline__ void pool(unsigned (&a)[MI][4], const char *step, int y, int half) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int row = 0; row < MI + 2; ++row) {
            unsigned tap[3][4];
#pragma unroll
            for (int s = 0; s < 3; ++s)
                load_matrices(tap[s], step + in_step((y + row) * PIXELS + min(s + lane % 16, PIXELS - 1), 2 * half + lane / 16));
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const unsigned across = max_nan_words<T>(max_nan_words<T>(tap[0][e], tap[1][e]), tap[2][e]);
#pragma unroll
                for (int i = 0; i < MI; ++i)  // of the output rows whose window has this row
                    if (row >= i && row <= i + 2) a[i][e] = row == i ? across : max_nan_words<T>(a[i][e], across);
            }
        }
    }

    __device__ __forceinline__ void operator()() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quarter = warp % QUARTERS, y0 = warp / QUARTERS * MI;
        const int steps = (int(p.C) + DEPTH - 1) / DEPTH;
        const auto copy = [&](int step, char *to) { load(step, to); };
        fill_outside();
        ring.start(steps, copy);
        float acc[2][MI][NJ / 2][4] = {};  // of the first 32 filters, and of the others
#pragma unroll 1
        for (int i = 0; i < steps; ++i) {
            const char *step = ring.next(steps, copy);
            unsigned a[MI][4], b[NJ / 2][2];
            pool(a, step + quarter / 2 * X, y0, quarter % 2);
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                load_filters(b, step + 2 * X + quarter / 2 * FILTERS, part * BN / 2, quarter % 2);
                multiply<T>(acc[part], a, b);
            }
        }
        wait_copies<0>();
        __syncthreads();  // the sums take the stages' place

        float4 *sums = reinterpret_cast<float4 *>(ring.at);
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int j = 0; j < NJ; ++j) {
                const float(&sum)[4] = acc[j / (NJ / 2)][i][j % (NJ / 2)];
                sums[((warp * MI + i) * NJ + j) * 32 + lane] = {sum[0], sum[1], sum[2], sum[3]};
            }
        __syncthreads();
        // Each quarter adds up two of the eight tiles of filters: of a lane 4 neighbouring filters.
        const int n = first + lane % 4 * 2 * NJ + quarter * 4;
        if (n >= int(p.K)) return;
        float bias[4] = {};
        if (p.bias) load_halves(bias, static_cast<const T *>(p.bias) + n);
        T *y = static_cast<T *>(p.y) + blockIdx.z * p.y_n + n;
#pragma unroll
        for (int i = 0; i < MI; ++i) {
            float sum[2][4];  // of the lane's two pixels
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                float4 all = {};
#pragma unroll
                for (int k = 0; k < QUARTERS; ++k) {
                    const float4 one = sums[(((warp - quarter + k) * MI + i) * NJ + 2 * quarter + j) * 32 + lane];
                    all.x += one.x, all.y += one.y, all.z += one.z, all.w += one.w;
                }
                sum[0][2 * j] = all.x, sum[0][2 * j + 1] = all.y, sum[1][2 * j] = all.z, sum[1][2 * j + 1] = all.w;
            }
            const int h = p0 + y0 + i;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = lane / 4 + half * 8, w = q0 + at;
                if (h >= int(p.H) || w >= int(p.W) || at >= TW) continue;
                unsigned short bits[4];
#pragma unroll
                for (int e = 0; e < 4; ++e) bits[e] = from_float<T>(activate(sum[half][e] + bias[e], p.activation)).bits;
                store_global(y + h * int(p.y_h) + w * int(p.y_w), {bits[0] | unsigned(bits[1]) << 16, bits[2] | unsigned(bits[3]) << 16});
            }
        }
    }
};

template <typename T, int STAGES> __global__ void __launch_bounds__(256, 2) pool_pointwise(const PoolPointwiseParams p) {
    begin();
    PoolPointwise<T, STAGES> block(p);
    block();
}
