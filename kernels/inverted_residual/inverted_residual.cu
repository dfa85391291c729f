// An inverted residual block as one kernel: y = activation(project(depthwise(expand(x))) + bias + residual), and without `expand` a
// depthwise separable block. Neither map in between reaches DRAM.
//
// A block owns TH x TW output pixels of one image for all filters, and walks over the expanded channels in slices of CE:
//
//     expand     t = act(x w + b)         HALO x CE, a GEMM over the pixels of the tile and its halo, into shared memory; outside the
//                                         image t stays the zero that the depthwise convolution pads with
//     depthwise  u = act(t * taps + b)    by tensor cores: two taps of 8 channels are the 16 rows of an MMA's B, two diagonal matrices
//     project    sum += u w               u stays in registers, since sums of an MMA lie as the A operand of the next one; the sums of
//                                         all filters stay in registers over the slices
//
// t and u are rounded to the storage type, as layers of their own would be. Weights of the next slice arrive by cp.async meanwhile.
// A diagonal matrix wastes seven of eight products, and still an MMA does 128 useful ones an instruction where FMAs do 32, and reads
// its operand without conversions.
#include "../common/cuda/mma.cuh"

struct InvertedResidualParams {
    const void *x, *expand, *expand_bias, *depthwise, *depthwise_bias, *project, *project_bias, *residual;
    void *y;
    i64 C, H, W, E, K, P, Q, top, left;  // channels of x, of the maps in between, filters; padding of the depthwise convolution
    i64 x_n, x_h, x_w, y_n, y_h, y_w, res_n, res_h, res_w;
    i64 activation;                      // behind the projection
    i64 slices, by_tiles_p, by_tiles_q, tiles_p, tiles_q;
};

// Two results of a part, activated and rounded, as a word. The rounding first is the same: 0 and 6 are numbers of either type.
template <typename T, int ACT> __device__ __forceinline__ unsigned activated_word(float low, float high) {
#if ON_GPU
    unsigned word;
    if constexpr (T::BFLOAT)
        asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    else
        asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    if constexpr (ACT == RELU6) {
        if constexpr (T::BFLOAT)
            asm("min.NaN.bf16x2 %0, %0, %1;" : "+r"(word) : "r"(0x40C040C0u));
        else
            asm("min.NaN.f16x2 %0, %0, %1;" : "+r"(word) : "r"(0x46004600u));
    }
    return word;
#else
    return from_float<T>(activate(low, ACT)).bits | unsigned(from_float<T>(activate(high, ACT)).bits) << 16;
#endif
}

// Half `which` of a word in the half `odd` of the result, the rest zeros; nothing at all where not `mine`.
__device__ __forceinline__ unsigned diagonal_word(unsigned word, int which, bool mine, int odd) {
#if ON_GPU
    const unsigned selector = !mine ? 0x4444u : odd ? (which ? 0x3244u : 0x1044u) : (which ? 0x4432u : 0x4410u);
    return __byte_perm(word, 0, selector);
#else
    return mine ? (word >> 16 * which & 0xFFFFu) << 16 * odd : 0;
#endif
}

// R: window. U: stride. KS: steps of 16 channels of x, 0 without `expand`. NP: blocks of 8 filters, even. BLOCKS: an SM must hold.
template <typename T, int R, int U, int TH, int TW, int WARPS, int CE, int KS, int NP, int ACT> struct Block {
    static constexpr bool EXPAND = KS > 0;
    static constexpr int THREADS = WARPS * 32, MP = TH * TW / 16 / WARPS;  // MMA tiles of output pixels of a warp
    static constexpr int HH = (TH - 1) * U + R, WW = (TW - 1) * U + R, SLOTS = HH * WW;
    static constexpr int HM = (SLOTS + 15) / 16, ROUNDS = (HM + WARPS - 1) / WARPS;  // MMA tiles of the halo, and of a warp
    static constexpr int EVEN = (WW + 1) / 2;  // with stride 2 a row's even columns come first, so that a window's neighbours adjoin
    static constexpr int PAIRS = (R * R + 1) / 2, WORDS = (PAIRS + 3) / 4 * 4;
    static_assert(MP * WARPS * 16 == TH * TW && (TW == 8 || TW == 16) && NP % 2 == 0 && ROUNDS <= 16, "whole MMA tiles");
    // Bytes of a row in shared memory, an odd number of 16-byte chunks: 8 rows that follow one another lie on different banks.
    static constexpr int X_ROW = (2 * KS + 1) * 16, T_ROW = (CE / 8 + 1) * 16;
    static constexpr int X = EXPAND ? HM * 16 * X_ROW : 0, MAPS = HM * 16 * T_ROW;
    static constexpr int AT_T = X, AT_TAPS = AT_T + MAPS * (EXPAND ? 1 : 2), AT_STAGES = AT_TAPS + CE * WORDS * 4;
    static constexpr int AT_PROJECT = EXPAND ? CE * X_ROW : 0, AT_RAW = AT_PROJECT + NP * 8 * T_ROW;
    static constexpr int STAGE = AT_RAW + (R * R + 2) * CE * 2;  // taps and both biases as they come

    const InvertedResidualParams &p;
    char *shared;
    int tid, lane, warp, g, t;
    int h0, w0, tile_p, tile_q;
    i64 image;
    unsigned inside;  // two bits for each of this warp's MMA tiles of the halo: whether rows g and g + 8 lie in the image

    __device__ __forceinline__ Block(const InvertedResidualParams &params)
        : p(params), shared(shared_memory()), tid(threadIdx.x), lane(tid % 32), warp(tid / 32), g(lane / 4), t(lane % 4) {
        const int rest = quotient(blockIdx.x, p.by_tiles_q);
        tile_q = int(blockIdx.x) - rest * int(p.tiles_q);
        const int n = quotient(rest, p.by_tiles_p);
        tile_p = rest - n * int(p.tiles_p), image = n;
        h0 = tile_p * TH * U - int(p.top), w0 = tile_q * TW * U - int(p.left);
        inside = 0;
#pragma unroll
        for (int i = 0; i < ROUNDS; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int h, w;
                if (pixel_of((warp + i * WARPS) * 16 + g + half * 8, h, w)) inside |= 1u << (2 * i + half);
            }
    }

    // The pixel of x that a slot of the halo is, and whether it is one of the image.
    __device__ __forceinline__ bool pixel_of(int slot, int &h, int &w) const {
        const int row = slot / WW, column = slot % WW;
        h = h0 + row, w = w0 + (U == 1 ? column : column < EVEN ? 2 * column : 2 * (column - EVEN) + 1);
        return slot < SLOTS && unsigned(h) < unsigned(p.H) && unsigned(w) < unsigned(p.W);
    }
    static __device__ __forceinline__ constexpr int tap(int r, int s) {  // bytes from a window's first pixel to one of its others
        return (r * WW + (U == 1 ? s : s % 2 * EVEN + s / 2)) * T_ROW;
    }

    // `chunks` vectors of channels [first, ..) of the halo's pixels; zeros outside the image and beyond `last`.
    template <int CHUNKS> __device__ __forceinline__ void load_pixels(char *to, int row_bytes, int first, int last) const {
        const T *x = static_cast<const T *>(p.x) + image * p.x_n;
#pragma unroll 4
        for (int i = tid; i < SLOTS * CHUNKS; i += THREADS) {
            const int slot = i / CHUNKS, chunk = i % CHUNKS, c = first + chunk * 8;
            int h, w;
            const bool present = pixel_of(slot, h, w) && c < last;
            copy_async(to + slot * row_bytes + chunk * 16, present ? x + h * p.x_h + w * p.x_w + c : x, present);
        }
    }

    // The weights of a slice, and without `expand` its channels of x; one group of copies.
    __device__ __forceinline__ void load_slice(int slice) const {
        char *stage = shared + AT_STAGES + slice % 2 * STAGE;
        const int first = slice * CE, C = int(p.C), E = int(p.E), K = int(p.K);
        if constexpr (EXPAND) {
            const T *w = static_cast<const T *>(p.expand);
            for (int i = tid; i < CE * KS * 2; i += THREADS) {
                const int n = i / (KS * 2), chunk = i % (KS * 2);
                const bool present = first + n < E && chunk * 8 < C;
                copy_async(stage + n * X_ROW + chunk * 16, present ? w + i64(first + n) * C + chunk * 8 : w, present);
            }
        } else {
            load_pixels<CE / 8>(shared + AT_T + slice % 2 * MAPS, T_ROW, first, C);
        }
        const T *w = static_cast<const T *>(p.project);
        for (int i = tid; i < NP * 8 * (CE / 8); i += THREADS) {
            const int n = i / (CE / 8), c = first + i % (CE / 8) * 8;
            const bool present = n < K && c < E;
            copy_async(stage + AT_PROJECT + n * T_ROW + i % (CE / 8) * 16, present ? w + i64(n) * E + c : w, present);
        }
        for (int i = tid; i < (R * R + 2) * (CE / 8); i += THREADS) {
            const int row = i / (CE / 8), c = first + i % (CE / 8) * 8;
            const void *from = row < R * R ? p.depthwise : row == R * R ? p.expand_bias : p.depthwise_bias;
            const bool present = from && c < E;
            const T *at = static_cast<const T *>(from) + (row < R * R ? row * p.E : 0) + c;
            copy_async(stage + AT_RAW + (row * (CE / 8) + i % (CE / 8)) * 16, present ? at : w, present);
        }
        commit_copies();
    }

    __device__ __forceinline__ const T *raw(int slice, int row) const {
        return reinterpret_cast<const T *>(shared + AT_STAGES + slice % 2 * STAGE + AT_RAW) + row * CE;
    }

    // The taps of each channel in the order of the MMAs: pairs of rows column by column, then the last row's pairs, then its last tap.
    static __device__ __forceinline__ constexpr int first_tap(int pair) {
        return pair < R / 2 * R ? pair / R * 2 * R + pair % R : (R - 1) * R + (pair - R / 2 * R) * 2;
    }
    static __device__ __forceinline__ constexpr int second_tap(int pair) {
        return pair < R / 2 * R ? first_tap(pair) + R : first_tap(pair) + 1;
    }
    __device__ __forceinline__ void pair_taps(int slice) const {
        const T *taps = raw(slice, 0);
        unsigned *to = reinterpret_cast<unsigned *>(shared + AT_TAPS);
        for (int i = tid; i < CE * PAIRS; i += THREADS) {
            const int pair = i / CE, c = i % CE;
            const unsigned low = taps[first_tap(pair) * CE + c].bits;
            const unsigned high = pair < PAIRS - 1 ? taps[second_tap(pair) * CE + c].bits : 0;
            to[c * WORDS + pair] = low | high << 16;
        }
    }

    __device__ __forceinline__ void expand(int slice) const {
        if constexpr (EXPAND) {
            constexpr int NJ = CE / 8;
            unsigned b[KS][NJ][2];
            const char *rows_b = shared + AT_STAGES + slice % 2 * STAGE + (lane % 8 + lane / 16 * 8) * X_ROW + lane / 8 % 2 * 16;
#pragma unroll
            for (int k = 0; k < KS; ++k)
#pragma unroll
                for (int j = 0; j < NJ; j += 2) {
                    unsigned both[4];
                    load_matrices(both, rows_b + j * 8 * X_ROW + k * 32);
                    b[k][j][0] = both[0], b[k][j][1] = both[1], b[k][j + 1][0] = both[2], b[k][j + 1][1] = both[3];
                }
            float bias[NJ][2];
#pragma unroll
            for (int j = 0; j < NJ; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) bias[j][e] = to_float(raw(slice, R * R)[j * 8 + t * 2 + e]);
            const char *row = shared + (warp * 16 + lane % 16) * X_ROW + lane / 16 * 16;
            char *to = shared + AT_T + (warp * 16 + g) * T_ROW + t * 4;
#pragma unroll 1
            for (int i = 0; i < ROUNDS; ++i) {
                if (warp + i * WARPS >= HM) break;
                float acc[1][NJ][4];
#pragma unroll
                for (int j = 0; j < NJ; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) acc[0][j][e] = bias[j][e % 2];
#pragma unroll
                for (int k = 0; k < KS; ++k) {
                    unsigned a[1][4];
                    load_matrices(a[0], row + k * 32);
                    multiply<T>(acc, a, b[k]);
                }
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    if (inside >> (2 * i + half) & 1)
#pragma unroll
                        for (int j = 0; j < NJ; ++j)
                            *reinterpret_cast<unsigned *>(to + half * 8 * T_ROW + j * 16) =
                                activated_word<T, ACT>(acc[0][j][2 * half], acc[0][j][2 * half + 1]);
                row += WARPS * 16 * X_ROW, to += WARPS * 16 * T_ROW;
            }
        }
    }

    // An infinity of one channel times another's structural zero is NaN. Such a sum, and only such a one, is made again of its own taps.
    __device__ float own_sum(int slice, int m, int c) const {
        const char *window = shared + AT_T + (EXPAND ? 0 : slice % 2 * MAPS) + (m / TW * U * WW + m % TW) * T_ROW + c * 2;
        float sum = to_float(raw(slice, R * R + 1)[c]);
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < R; ++s)
                sum += to_float(*reinterpret_cast<const T *>(window + tap(r, s))) * to_float(raw(slice, r * R + s)[c]);
        return sum;
    }

    // The depthwise convolution of 16 channels from 16 `group` on, as the A operand of the projection: 8 channels after the other.
    __device__ __forceinline__ void depthwise(int slice, int group, unsigned (&u)[MP][4]) const {
        const bool mine = t == g / 2;
        const int m = warp * MP * 16 + lane % 16, side = lane / 16;  // side: the lanes that give the second tap's rows
        const char *window = shared + AT_T + (EXPAND ? 0 : slice % 2 * MAPS) + (m / TW * U * WW + m % TW) * T_ROW + group * 32;
        const char *below = window + side * WW * T_ROW, *beside = window + side * tap(0, 1);
        constexpr int NEXT = 16 / TW * U * WW * T_ROW;  // from one MMA tile of pixels to the next
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int c = group * 16 + half * 8;
            const uint4 *words = reinterpret_cast<const uint4 *>(shared + AT_TAPS + (c + g) * WORDS * 4);
            float acc[MP][1][4];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float bias = to_float(raw(slice, R * R + 1)[c + t * 2 + e]);
#pragma unroll
                for (int j = 0; j < MP; ++j) acc[j][0][e] = acc[j][0][2 + e] = bias;
            }
#pragma unroll
            for (int four = 0; four < WORDS / 4; ++four) {
                const uint4 loaded = words[four];
                const unsigned word[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int pair = four * 4 + i;
                    if (pair >= PAIRS) break;
                    const bool alone = pair == PAIRS - 1, rows = pair < R / 2 * R;
                    const int first = tap(first_tap(pair) / R, first_tap(pair) % R) + half * 16;
                    unsigned a[MP][4];
                    unsigned b[1][2] = {{diagonal_word(word[i], 0, mine, g % 2), alone ? 0 : diagonal_word(word[i], 1, mine, g % 2)}};
#pragma unroll
                    for (int j = 0; j < MP; ++j) {
                        load_matrices(a[j], (alone ? window : rows ? below : beside) + first + j * NEXT);
                        if (alone) a[j][2] = a[j][3] = 0;
                    }
                    multiply<T>(acc, a, b);
                }
            }
#pragma unroll
            for (int j = 0; j < MP; ++j) {
                if constexpr (!EXPAND || ACT != RELU6)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (unbounded(acc[j][0][e])) acc[j][0][e] = own_sum(slice, (warp * MP + j) * 16 + g + e / 2 * 8, c + t * 2 + e % 2);
#pragma unroll
                for (int e = 0; e < 2; ++e) u[j][2 * half + e] = activated_word<T, ACT>(acc[j][0][2 * e], acc[j][0][2 * e + 1]);
            }
        }
    }

    __device__ __forceinline__ void project(int slice, int group, unsigned (&u)[MP][4], float (&sum)[NP / 2][MP][2][4]) const {
        const char *rows = shared + AT_STAGES + slice % 2 * STAGE + AT_PROJECT + (lane % 8 + lane / 16 * 8) * T_ROW + lane / 8 % 2 * 16;
#pragma unroll
        for (int n = 0; n < NP / 2; ++n) {
            unsigned both[4];
            load_matrices(both, rows + n * 16 * T_ROW + group * 32);
            unsigned b[2][2] = {{both[0], both[1]}, {both[2], both[3]}};
            multiply<T>(sum[n], u, b);
        }
    }

    // A lane stores pairs of neighbouring filters.
    __device__ __forceinline__ void store(const float (&sum)[NP / 2][MP][2][4]) const {
        const T *bias = static_cast<const T *>(p.project_bias);
#pragma unroll
        for (int j = 0; j < MP; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int m = (warp * MP + j) * 16 + g + half * 8, h = tile_p * TH + m / TW, w = tile_q * TW + m % TW;
                if (h >= int(p.P) || w >= int(p.Q)) continue;
                T *y = static_cast<T *>(p.y) + image * p.y_n + h * p.y_h + w * p.y_w;
                const T *residual = static_cast<const T *>(p.residual) + image * p.res_n + h * p.res_h + w * p.res_w;
#pragma unroll
                for (int n = 0; n < NP; ++n) {
                    const int k = n * 8 + t * 2;
                    if (n * 8 >= int(p.K)) break;
                    float value[2] = {sum[n / 2][j][n % 2][2 * half], sum[n / 2][j][n % 2][2 * half + 1]};
                    unsigned word;
                    if (p.project_bias) {
                        word = *reinterpret_cast<const unsigned *>(bias + k);
                        value[0] += to_float(T{(unsigned short)word}), value[1] += to_float(T{(unsigned short)(word >> 16)});
                    }
                    if (p.residual) {
                        word = *reinterpret_cast<const unsigned *>(residual + k);
                        value[0] += to_float(T{(unsigned short)word}), value[1] += to_float(T{(unsigned short)(word >> 16)});
                    }
                    activate(value, p.activation);
                    *reinterpret_cast<unsigned *>(y + k) =
                        from_float<T>(value[0]).bits | unsigned(from_float<T>(value[1]).bits) << 16;
                }
            }
    }

    __device__ __forceinline__ void run() const {
        if constexpr (EXPAND) {
            load_pixels<2 * KS>(shared, X_ROW, 0, int(p.C));
            for (int i = tid; i < MAPS / 16; i += THREADS) reinterpret_cast<uint4 *>(shared + AT_T)[i] = {0, 0, 0, 0};
            // Rows that only fill the last MMA tile: their products are not stored, but NaNs would slow the host build's checks.
            for (int i = tid; i < (HM * 16 - SLOTS) * X_ROW / 16; i += THREADS)
                reinterpret_cast<uint4 *>(shared + SLOTS * X_ROW)[i] = {0, 0, 0, 0};
        }
        load_slice(0);
        float sum[NP / 2][MP][2][4] = {};
#pragma unroll 1
        for (int slice = 0; slice < int(p.slices); ++slice) {
            wait_copies<0>();
            __syncthreads();  // the slice has come for all threads, and all are done with the one before
            if (slice + 1 < int(p.slices)) load_slice(slice + 1);
            pair_taps(slice);
            expand(slice);
            __syncthreads();
            const int groups = (min(CE, int(p.E) - slice * CE) + 15) / 16;
#pragma unroll 1
            for (int group = 0; group < groups; ++group) {
                unsigned u[MP][4];
                depthwise(slice, group, u);
                project(slice, group, u, sum);
            }
        }
        store(sum);
    }
};

template <typename T, int R, int U, int TH, int TW, int WARPS, int CE, int KS, int NP, int ACT, int BLOCKS>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS) inverted_residual(const InvertedResidualParams p) {
    begin();
    Block<T, R, U, TH, TW, WARPS, CE, KS, NP, ACT>(p).run();
}
