// Max and average pooling over R x S windows, average pooling to a given size, and the mean over a whole image.
//
// One comparison or addition for each element read: memory bandwidth is the bound, so the discipline is the depthwise kernel's.
#include "../cuda/device.cuh"

struct PoolParams {
    const void *x;
    void *y;
    i64 *indices;  // of the maxima, in y's layout; null where not asked for
    i64 N, C, H, W, P, Q, R, S;
    i64 stride_h, stride_w, dilation_h, dilation_w, top, left;
    i64 x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w;
    i64 count_include_pad, divisor;  // divisor 0: count the pixels
    i64 channels_first;              // neighbouring threads take neighbouring channels, else pixels
    i64 lanes;                       // mean kernel: threads along the channels
};

constexpr int MAX = 0, AVERAGE = 1, ADAPTIVE = 2;
#define LOWEST (-INFINITY)

template <int KIND, int VEC> __device__ __forceinline__ void take(float (&best)[VEC], const float (&value)[VEC]) {
#pragma unroll
    for (int e = 0; e < VEC; ++e) best[e] = KIND == MAX ? max_nan(best[e], value[e]) : best[e] + value[e];
}

// The sum becomes the mean. In ceil mode a window may reach past the padding; what lies there never counts. A window that lies wholly
// in the padding averages nothing: 0, not 0 / 0.
template <int VEC> __device__ __forceinline__ void divide(const PoolParams &p, float (&sum)[VEC], int h, int v) {
    const int R = int(p.R), S = int(p.S), H = int(p.H), W = int(p.W);
    const int rows = min(h + R, H) - max(h, 0), columns = min(v + S, W) - max(v, 0);
    int count = rows * columns;
    if (p.divisor)
        count = int(p.divisor);
    else if (p.count_include_pad)
        count = (min(h + R, H + int(p.top)) - h) * (min(v + S, W + int(p.left)) - v);
    const bool empty = rows <= 0 || columns <= 0;
#pragma unroll
    for (int e = 0; e < VEC; ++e) sum[e] = empty ? 0.0f : sum[e] / float(count);
}

// A thread owns a strip of STRIP outputs along a row, for one vector of channels; it reads each input vector of the strip once.
template <typename T, int VEC, int KIND, int S, int U, int STRIP>
__global__ void __launch_bounds__(256) pool_strip(const PoolParams p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    const int chunks = int(p.C / VEC), strips = int((p.Q + STRIP - 1) / STRIP);
    const i64 strip = i / chunks;
    if (strip >= p.N * p.P * strips) return;
    const int c = int(i % chunks) * VEC, q = int(strip % strips) * STRIP, ph = int(strip / strips % p.P);
    const i64 n = strip / strips / p.P;
    const int h = ph * int(p.stride_h) - int(p.top), v = q * U - int(p.left);
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + c;
    float best[STRIP][VEC];
#pragma unroll
    for (int j = 0; j < STRIP; ++j) fill(best[j], KIND == MAX ? LOWEST : 0.0f);
#pragma unroll 1
    for (int r = 0; r < p.R; ++r) {
        if (unsigned(h + r) >= unsigned(p.H)) continue;
        const T *line = x + (h + r) * p.x_h;
#pragma unroll
        for (int column = 0; column < (STRIP - 1) * U + S; ++column) {
            if (unsigned(v + column) >= unsigned(p.W)) continue;
            float value[VEC];
            load(value, line + (v + column) * p.x_w);
#pragma unroll
            for (int s = 0; s < S; ++s)
                if ((column - s) % U == 0 && column >= s && (column - s) / U < STRIP) take<KIND>(best[(column - s) / U], value);
        }
    }
#pragma unroll
    for (int j = 0; j < STRIP; ++j) {
        if (q + j >= p.Q) break;
        if (KIND == AVERAGE) divide(p, best[j], h, v + j * U);
        store(static_cast<T *>(p.y) + n * p.y_n + ph * p.y_h + (q + j) * p.y_w + c, best[j]);
    }
}

// Every other window and layout: a thread owns one output pixel and VEC channels.
template <typename T, int VEC, int KIND, bool INDICES> __global__ void __launch_bounds__(256) pool_any(const PoolParams p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x, chunks = p.C / VEC, pixels = p.N * p.P * p.Q;
    if (i >= chunks * pixels) return;
    const i64 pixel = p.channels_first ? i / chunks : i % pixels;
    const int c = int(p.channels_first ? i % chunks : i / pixels) * VEC;
    const int q = int(pixel % p.Q), ph = int(pixel / p.Q % p.P);
    const i64 n = pixel / p.Q / p.P;
    int h = ph * int(p.stride_h) - int(p.top), v = q * int(p.stride_w) - int(p.left);
    int rows = int(p.R), columns = int(p.S);
    if (KIND == ADAPTIVE) {  // rows floor(p H / P) up to ceil((p + 1) H / P), columns likewise
        h = int(ph * p.H / p.P), v = int(q * p.W / p.Q);
        rows = int(((ph + 1) * p.H + p.P - 1) / p.P) - h, columns = int(((q + 1) * p.W + p.Q - 1) / p.Q) - v;
    }
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + c * p.x_c;
    float best[VEC];
    fill(best, KIND == MAX ? LOWEST : 0.0f);
    int where = -1;
    for (int r = 0; r < rows; ++r) {
        const int at_h = h + r * int(p.dilation_h);
        if (unsigned(at_h) >= unsigned(p.H)) continue;
        for (int s = 0; s < columns; ++s) {
            const int at_w = v + s * int(p.dilation_w);
            if (unsigned(at_w) >= unsigned(p.W)) continue;
            float value[VEC];
            load(value, x + at_h * p.x_h + at_w * p.x_w);
            // As PyTorch's loop: a later NaN replaces an earlier one, and the first element counts though it be -inf.
            if (INDICES && (value[0] > best[0] || value[0] != value[0] || where < 0)) where = at_h * int(p.W) + at_w;
            take<KIND>(best, value);
        }
    }
    if (KIND == AVERAGE) divide(p, best, h, v);
    if (KIND == ADAPTIVE) {
#pragma unroll
        for (int e = 0; e < VEC; ++e) best[e] /= float(rows * columns);
    }
    const i64 place = n * p.y_n + ph * p.y_h + q * p.y_w + c * p.y_c;
    store(static_cast<T *>(p.y) + place, best);
    if (INDICES) p.indices[place] = where;
}

// The mean over all pixels of an image. A block owns `lanes` vectors of channels of one image; 256 / lanes threads share each vector's
// pixels, and a tree in shared memory adds their sums in one order, so that results repeat.
template <typename T, int VEC> __global__ void __launch_bounds__(256) pool_mean(const PoolParams p) {
    const int lanes = int(p.lanes), shares = 256 / lanes;
    // In NCHW neighbouring pixels are adjacent in memory, and so must be the threads that read them.
    const int lane = p.channels_first ? threadIdx.x % lanes : threadIdx.x / shares;
    const int share = p.channels_first ? threadIdx.x / lanes : threadIdx.x % shares;
    const int c = (int(blockIdx.x) * lanes + lane) * VEC, pixels = int(p.H * p.W);
    const T *x = static_cast<const T *>(p.x) + blockIdx.y * p.x_n + c * p.x_c;
    float sum[VEC] = {};
    if (c < p.C) {
        for (int i = share; i < pixels; i += shares) {
            float value[VEC];
            load(value, x + i / int(p.W) * p.x_h + i % int(p.W) * p.x_w);
            take<AVERAGE>(sum, value);
        }
    }
    float *sums = reinterpret_cast<float *>(shared_memory());  // [share][lane][VEC]
    float *mine = sums + (share * lanes + lane) * VEC;
#pragma unroll
    for (int e = 0; e < VEC; ++e) mine[e] = sum[e];
    for (int half = shares / 2; half; half /= 2) {
        __syncthreads();
        if (share < half) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) mine[e] += mine[half * lanes * VEC + e];
        }
    }
    if (share == 0 && c < p.C) {
#pragma unroll
        for (int e = 0; e < VEC; ++e) sum[e] = mine[e] / float(pixels);
        store(static_cast<T *>(p.y) + blockIdx.y * p.y_n + c * p.y_c, sum);
    }
}
