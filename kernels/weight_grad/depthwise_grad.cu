// The gradient of a depthwise convolution by its weight: dw[k, r, s] = sum over n, p, q of dy[n, p, q, k] * x[window of (p, q), k].
//
// Few operations an element: memory bandwidth is the bound, and behind it L1, of which each window row reads x once. A thread owns VEC
// channels of one row r of the window and a share of the output's rows, which it walks in strips of STRIP pixels: a column of x is read
// once for all taps of the strip that meet it. The threads of the R rows read the same dy, which L1 serves. What the shares found
// meets in shared memory by a tree, one tap after another, and weight_reduce (weight_grad.cu) adds the parts; all orders are fixed.
#include "../common/cuda/device.cuh"

struct DepthwiseGradParams {
    const void *dy, *x;
    void *y, *bias;
    float *partial;              // [split, K, R*S], and behind it [split, K] for the bias; null where there is one part
    i64 K, H, W, P, Q, rows;     // rows = N*P
    i64 top, left;
    i64 dy_n, dy_c, dy_h, dy_w, x_n, x_c, x_h, x_w, y_n, y_h, y_w;
    i64 lanes, shares, size, split;  // vectors of channels a block, shares of its rows, rows of a part, parts
    i64 by_P;
};

template <typename T, int VEC, int R, int U>
__global__ void __launch_bounds__(256, R == 3 ? 2 : 1) depthwise_grad(const DepthwiseGradParams p) {
    begin();
    // With stride 2 a longer strip shares little more, and its registers are others' loads on their way.
    constexpr int STRIP = U == 1 ? 4 : 2, COLUMNS = (STRIP - 1) * U + R, TAPS = R + 1;  // one more sum: of dy, the bias's
    const int lanes = int(p.lanes), shares = int(p.shares), lane = int(threadIdx.x) % lanes, rest = int(threadIdx.x) / lanes;
    const int r = rest % R, share = rest / R, k = (int(blockIdx.x) * lanes + lane) * VEC;
    float sums[TAPS][VEC] = {};
    const int stop = int(min(i64(blockIdx.y + 1) * p.size, p.rows));
    if (k < p.K)
        for (int row = int(blockIdx.y * p.size) + share; row < stop; row += shares) {
            const int n = quotient(row, p.by_P), ph = row - n * int(p.P), h = ph * U - int(p.top) + r;
            const bool inside = unsigned(h) < unsigned(p.H);
            if (!inside && r) continue;  // row 0 sums dy all the same
            const T *dy = static_cast<const T *>(p.dy) + n * p.dy_n + ph * p.dy_h + k * p.dy_c;
            const T *x = static_cast<const T *>(p.x) + n * p.x_n + h * p.x_h + k * p.x_c;
            for (int q = 0; q < p.Q; q += STRIP) {
                float d[STRIP][VEC];
#pragma unroll
                for (int j = 0; j < STRIP; ++j) {
                    fill(d[j], 0.0f);
                    if (q + j < p.Q) load(d[j], dy + (q + j) * p.dy_w);
#pragma unroll
                    for (int e = 0; e < VEC; ++e) sums[R][e] += d[j][e];
                }
                if (!inside) continue;
#pragma unroll
                for (int column = 0; column < COLUMNS; ++column) {
                    const int w = q * U - int(p.left) + column;
                    float value[VEC];
                    fill(value, 0.0f);
                    if (unsigned(w) < unsigned(p.W)) load(value, x + w * p.x_w);
#pragma unroll
                    for (int s = 0; s < R; ++s)
                        if ((column - s) % U == 0 && column >= s && (column - s) / U < STRIP)
#pragma unroll
                            for (int e = 0; e < VEC; ++e) sums[s][e] = fmaf(d[(column - s) / U][e], value[e], sums[s][e]);
                }
            }
        }

    // [share][row of the window][channel], of one tap at a time; only row 0 has the bias's sums.
    float *all = reinterpret_cast<float *>(shared_memory());
    const int width = lanes * VEC, line = R * width;
#pragma unroll
    for (int s = 0; s < TAPS; ++s) {
        if (s == R && !p.bias) break;
        __syncthreads();
#pragma unroll
        for (int e = 0; e < VEC; ++e) all[(share * R + r) * width + lane * VEC + e] = sums[s][e];
        __syncthreads();
        for (int half = shares / 2; half; half /= 2) {
            for (int i = threadIdx.x; i < half * line; i += int(blockDim.x)) all[i] += all[i + half * line];
            __syncthreads();
        }
        for (int i = threadIdx.x; i < (s == R ? width : line); i += int(blockDim.x)) {
            const int tap = i / width, channel = int(blockIdx.x) * width + i - tap * width;
            if (channel >= p.K) continue;
            const float sum = all[i];
            if (s == R) {
                if (p.partial)
                    p.partial[p.split * p.K * R * R + blockIdx.y * p.K + channel] = sum;
                else
                    static_cast<T *>(p.bias)[channel] = from_float<T>(sum);
            } else if (p.partial) {
                p.partial[(blockIdx.y * p.K + channel) * R * R + tap * R + s] = sum;
            } else {
                static_cast<T *>(p.y)[channel * p.y_n + tap * p.y_h + s * p.y_w] = from_float<T>(sum);
            }
        }
    }
}
