// Max and average pooling over R x S windows, both to a given size, and both over a whole image.
//
// One comparison or addition for each element read: memory bandwidth is the bound, so data move as in the depthwise kernel.
#include "../common/cuda/tile.cuh"
#include "winners.cuh"

struct PoolParams {
    const void *x;
    void *y;
    void *winners;  // of the windows, in y's layout; null where not asked for
    i64 N, C, H, W, P, Q, R, S;
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w;
    i64 r0, r1, s0, s1;              // rows and columns of the window that lie inside the image for any output at all
    i64 count_include_pad, divisor;  // divisor 0: count the pixels
    i64 channels_last;              // neighbouring threads take neighbouring channels, else pixels
    i64 lanes, groups;               // vectors of channels that a block takes (tile, mean), and groups of them in C
    i64 by_lanes, by_groups, by_P, by_Q, by_W;
};

constexpr int MAX = 0, AVERAGE = 1, ADAPTIVE = 2, ADAPTIVE_MAX = 3;
#define LOWEST (-INFINITY)

template <int KIND, int VEC> __device__ __forceinline__ void take(float (&best)[VEC], const float (&value)[VEC]) {
#pragma unroll
    for (int e = 0; e < VEC; ++e) best[e] = KIND == MAX || KIND == ADAPTIVE_MAX ? max_nan(best[e], value[e]) : best[e] + value[e];
}

// The sum becomes the mean. In ceil mode a window may reach past the padding; what lies there never counts. A window that lies wholly
// in the padding averages nothing: 0, not 0 / 0.
template <int VEC> __device__ __forceinline__ void divide(const PoolParams &p, float (&sum)[VEC], int h0, int w0) {
    const int R = int(p.R), S = int(p.S), H = int(p.H), W = int(p.W);
    const int rows = min(h0 + R, H) - max(h0, 0), columns = min(w0 + S, W) - max(w0, 0);
    float count = float(rows * columns);
    if (p.divisor)
        count = float(p.divisor);
    else if (p.count_include_pad)
        count = float((min(h0 + R, H + int(p.top)) - h0) * (min(w0 + S, W + int(p.left)) - w0));
    const bool empty = rows <= 0 || columns <= 0;
#pragma unroll
    for (int e = 0; e < VEC; ++e) sum[e] = empty ? 0.0f : sum[e] / count;
}

// Sums in float32, maxima in the storage type: a maximum needs no rounding, and one instruction compares two halves.
template <typename T, int VEC, int KIND> struct Pooled {
    float sum[VEC];
    __device__ __forceinline__ Pooled() { fill(sum, 0.0f); }
    __device__ __forceinline__ void add(const uint4 &words) {
        float value[VEC];
        unpack<T>(value, words);
        take<KIND>(sum, value);
    }
    __device__ __forceinline__ void put(T *y) const { store(y, sum); }
};
template <typename T, int VEC> struct Pooled<T, VEC, MAX> {
    uint4 best = {lowest<T>(), lowest<T>(), lowest<T>(), lowest<T>()};
    __device__ __forceinline__ void add(const uint4 &value) {
        best = {max_nan_words<T>(best.x, value.x), max_nan_words<T>(best.y, value.y), max_nan_words<T>(best.z, value.z),
                max_nan_words<T>(best.w, value.w)};
    }
    __device__ __forceinline__ void put(T *y) const { store_words(y, best); }
};

// A tile of the image in shared memory (tile.cuh); a thread pools STRIP outputs of a row for one vector of channels.
template <typename T, int VEC, int KIND, int R, int U, int TH>
__global__ void __launch_bounds__(16 * TH, (KIND == MAX ? 40 : 32) / TH) pool_tile(const PoolParams p) {
    begin();
    using Window = Tile<T, R, U, TH>;
    const int tile_q = quotient(blockIdx.x, p.by_groups), group = int(blockIdx.x) - tile_q * int(p.groups);
    const Window tile(shared_memory(), int(p.lanes), p.by_lanes, tile_q, blockIdx.y);
    const int c = (group * int(p.lanes) + tile.lane) * VEC;
    const bool owner = tile.item < Window::ITEMS && c < p.C;
    const i64 n = blockIdx.z;
    const int top = int(blockIdx.y) * TH * U - int(p.top), left = tile_q * TW * U - int(p.left);
    if (owner)
        tile.template load<KIND == MAX>(static_cast<const T *>(p.x) + n * p.x_n + c, top, left, int(p.H), int(p.W), int(p.x_h),
                                        int(p.x_w));
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    if (!owner || tile.p >= p.P) return;

    Pooled<T, VEC, KIND> pooled[STRIP];
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int column = 0; column < Window::COLUMNS; ++column) {
            const uint4 words = load_words(tile.window(r, column));
#pragma unroll
            for (int s = 0; s < R; ++s)
                if ((column - s) % U == 0 && column >= s && (column - s) / U < STRIP) pooled[(column - s) / U].add(words);
        }
    T *y = static_cast<T *>(p.y) + n * p.y_n + tile.p * p.y_h + tile.q * p.y_w + c;
#pragma unroll
    for (int j = 0; j < STRIP; ++j) {
        if (tile.q + j >= p.Q) break;
        if constexpr (KIND == AVERAGE) divide(p, pooled[j].sum, tile.p * U - int(p.top), (tile.q + j) * U - int(p.left));
        pooled[j].put(y + j * p.y_w);
    }
}

// Windows that do not overlap: nothing to share. A thread owns one output pixel and one vector, and all of its loads are in flight
// before the first is used; a tap outside the image is read from the window's nearest pixel inside, and does not count.
template <typename T, int VEC, int KIND, int R, int U> __global__ void __launch_bounds__(256) pool_window(const PoolParams p) {
    begin();
    const int i = int(blockIdx.x) * 256 + threadIdx.x, pixel = quotient(i, p.by_groups), c = (i - pixel * int(p.groups)) * VEC;
    if (pixel >= p.N * p.P * p.Q) return;
    const int row = quotient(pixel, p.by_Q), q = pixel - row * int(p.Q), n = quotient(row, p.by_P), ph = row - n * int(p.P);
    const int h0 = ph * U - int(p.top), w0 = q * U - int(p.left);
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + c;
    uint4 words[R][R];
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int s = 0; s < R; ++s)
            words[r][s] = load_words(x + min(max(h0 + r, 0), int(p.H) - 1) * p.x_h + min(max(w0 + s, 0), int(p.W) - 1) * p.x_w);
    Pooled<T, VEC, KIND> pooled;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int s = 0; s < R; ++s)
            if (unsigned(h0 + r) < unsigned(p.H) && unsigned(w0 + s) < unsigned(p.W)) pooled.add(words[r][s]);
    if constexpr (KIND == AVERAGE) divide(p, pooled.sum, h0, w0);
    pooled.put(static_cast<T *>(p.y) + n * p.y_n + ph * p.y_h + q * p.y_w + c);
}

// Every other window and layout: a thread owns one output pixel and VEC channels.
template <typename T, int VEC, int KIND, int WINNERS> __global__ void __launch_bounds__(256) pool_any(const PoolParams p) {
    begin();
    using Index = typename Winner<WINNERS>::Index;
    const auto [n, ph, q, c, valid] = place<VEC>(p.N, p.C, p.P, p.Q, p.channels_last);
    if (!valid) return;
    int h0 = ph * int(p.stride_h) - int(p.top), w0 = q * int(p.stride_w) - int(p.left);
    int rows = int(p.r1), columns = int(p.s1);
    if (KIND == ADAPTIVE || KIND == ADAPTIVE_MAX) {  // rows floor(p H / P) up to ceil((p + 1) H / P), columns likewise
        h0 = int(quotient64(ph * p.H, p.P)), w0 = int(quotient64(q * p.W, p.Q));
        rows = int(quotient64((ph + 1) * p.H + p.P - 1, p.P)) - h0, columns = int(quotient64((q + 1) * p.W + p.Q - 1, p.Q)) - w0;
    }
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + c * p.x_c;
    float best[VEC];
    fill(best, KIND == MAX || KIND == ADAPTIVE_MAX ? LOWEST : 0.0f);
    Index where[VEC] = {};
    if (WINNERS) {  // as PyTorch: before any element has won, the window's first place that is not above or left of the image
        const int d = int(p.dilation_h), e = int(p.dilation_w), r = (max(-h0, 0) + d - 1) / d, s = (max(-w0, 0) + e - 1) / e;
        const Index first = WINNERS == TAPS ? Index(r * int(p.S) + s) : Index(i64(h0 + r * d) * p.W + w0 + s * e);
#pragma unroll
        for (int i = 0; i < VEC; ++i) where[i] = first;
    }
    for (int r = int(p.r0); r < rows; ++r) {
        const int at_h = h0 + r * int(p.dilation_h);
        if (unsigned(at_h) >= unsigned(p.H)) continue;
        for (int s = int(p.s0); s < columns; ++s) {
            const int at_w = w0 + s * int(p.dilation_w);
            if (unsigned(at_w) >= unsigned(p.W)) continue;
            float value[VEC];
            load(value, x + at_h * p.x_h + at_w * p.x_w);
            if (WINNERS) {  // as PyTorch's loop: a later NaN replaces an earlier one
                const Index at = WINNERS == TAPS ? Index(r * int(p.S) + s) : Index(i64(at_h) * p.W + at_w);
#pragma unroll
                for (int i = 0; i < VEC; ++i) where[i] = value[i] > best[i] || value[i] != value[i] ? at : where[i];
            }
            take<KIND>(best, value);
        }
    }
    if (KIND == AVERAGE) divide(p, best, h0, w0);
    if (KIND == ADAPTIVE) {
#pragma unroll
        for (int e = 0; e < VEC; ++e) best[e] /= float(rows * columns);
    }
    const i64 place = n * p.y_n + ph * p.y_h + q * p.y_w + c * p.y_c;
    store(static_cast<T *>(p.y) + place, best);
    if constexpr (WINNERS != NO_WINNERS) store_winners(static_cast<typename Winner<WINNERS>::Stored *>(p.winners) + place, where);
}

// The mean or the maximum over all pixels of an image. A block owns `lanes` vectors of channels of one image; its other threads share
// each vector's pixels, IMAGE_LOADS in flight at a time. The shares' results meet in shared memory, [share][channel], where one thread
// a channel takes them in one order, so that results repeat.
constexpr int IMAGE_THREADS = 128, IMAGE_LOADS = 4;
template <typename T, int VEC, int KIND> __global__ void __launch_bounds__(IMAGE_THREADS) pool_image(const PoolParams p) {
    begin();
    const int lanes = int(p.lanes), shares = IMAGE_THREADS / lanes;  // powers of two
    const int log = 31 - count_leading_zeros(p.channels_last ? lanes : shares), outer = int(threadIdx.x) >> log;
    const int inner = int(threadIdx.x) - (outer << log);
    // In NCHW neighbouring pixels are adjacent in memory, and so must be the threads that read them.
    const int lane = p.channels_last ? inner : outer, share = p.channels_last ? outer : inner;
    const int first = int(blockIdx.x) * lanes * VEC, c = first + lane * VEC, pixels = int(p.H * p.W);
    const T *x = static_cast<const T *>(p.x) + blockIdx.y * p.x_n + c * p.x_c;
    const float START = KIND == MAX ? LOWEST : 0.0f;
    float sum[VEC];
    fill(sum, START);
    if (c < p.C) {
        for (int i = share; i < pixels; i += IMAGE_LOADS * shares) {
            float value[IMAGE_LOADS][VEC];
#pragma unroll
            for (int j = 0; j < IMAGE_LOADS; ++j) {
                const int pixel = min(i + j * shares, pixels - 1), h = quotient(pixel, p.by_W);
                load(value[j], x + h * p.x_h + (pixel - h * int(p.W)) * p.x_w);
            }
#pragma unroll
            for (int j = 0; j < IMAGE_LOADS; ++j)
                if (i + j * shares < pixels) take<KIND>(sum, value[j]);
        }
    }
    float *sums = reinterpret_cast<float *>(shared_memory());
    const int width = lanes * VEC;
#pragma unroll
    for (int e = 0; e < VEC; ++e) sums[share * width + lane * VEC + e] = sum[e];
    __syncthreads();
    const int channel = threadIdx.x;
    if (channel < width && first + channel < p.C) {
        float total[1] = {START};
#pragma unroll 16
        for (int i = 0; i < shares; ++i) {
            const float more[1] = {sums[i * width + channel]};
            take<KIND>(total, more);
        }
        if (KIND == AVERAGE) total[0] /= float(pixels);
        static_cast<T *>(p.y)[blockIdx.y * p.y_n + (first + channel) * p.y_c] = from_float<T>(total[0]);
    }
}
