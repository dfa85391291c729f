// A ladder: y[m, n] = sum over k of a[m, k] w[n, k] in four steps, halves. Run it: python docs/ladders/run.py gemm
//
// 2 K FLOPs an output and 2 K operands read for it if nothing is shared: a GEMM is fast when an operand, once read, is used many times.
// M and N are multiples of 64 here and K one of 64, so that only the idea is left.
#include "../../kernels/common/cuda/mma.cuh"

struct GemmLadder {
    const void *a, *w;
    void *y;
    i64 M, N, K;
};

// Step 1, naive: a thread owns one output and reads 2 K operands for it. 1 FLOP a load: the load units are the bound.
template <int STEP> __global__ void __launch_bounds__(256) gemm_1_naive(const GemmLadder p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= p.M * p.N) return;
    const half_t *a = static_cast<const half_t *>(p.a) + i / p.N * p.K, *w = static_cast<const half_t *>(p.w) + i % p.N * p.K;
    float sum = 0.0f;
    for (i64 k = 0; k < p.K; ++k) sum = fmaf(to_float(a[k]), to_float(w[k]), sum);
    static_cast<half_t *>(p.y)[i] = from_float<half_t>(sum);
}

// Step 2, tiled: a block owns 16 x 16 outputs and brings 16 x 16 operands of each side to shared memory, so that each is read from
// global memory once a block instead of 16 times. Now 2 loads from shared memory for 2 FLOPs: that is the bound.
template <int STEP> __global__ void __launch_bounds__(256) gemm_2_tiled(const GemmLadder p) {
    float *a = reinterpret_cast<float *>(shared_memory()), *w = a + 16 * 17;  // a pitch of 17: a column's 16 rows on 16 banks
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const i64 m = blockIdx.y * 16, n = blockIdx.x * 16;
    float sum = 0.0f;
    for (i64 k = 0; k < p.K; k += 16) {
        a[ty * 17 + tx] = to_float(static_cast<const half_t *>(p.a)[(m + ty) * p.K + k + tx]);
        w[ty * 17 + tx] = to_float(static_cast<const half_t *>(p.w)[(n + ty) * p.K + k + tx]);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 16; ++j) sum = fmaf(a[ty * 17 + j], w[tx * 17 + j], sum);
        __syncthreads();
    }
    static_cast<half_t *>(p.y)[(m + ty) * p.N + n + tx] = from_float<half_t>(sum);
}

// Step 3, registers: a block owns 64 x 64 outputs, a thread 4 x 4 of them. 8 loads from shared memory for 32 FLOPs, and each operand
// is read from global memory by 4 times fewer blocks. Up to the FP32 units' 67 TFLOP/s of an H100, 15 times less than its tensor cores.
template <int STEP> __global__ void __launch_bounds__(256) gemm_3_registers(const GemmLadder p) {
    float *a = reinterpret_cast<float *>(shared_memory()), *w = a + 64 * 17;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const i64 m = blockIdx.y * 64, n = blockIdx.x * 64;
    float sum[4][4] = {};
    for (i64 k = 0; k < p.K; k += 16) {
        for (int i = threadIdx.x; i < 64 * 16; i += 256) {
            a[i / 16 * 17 + i % 16] = to_float(static_cast<const half_t *>(p.a)[(m + i / 16) * p.K + k + i % 16]);
            w[i / 16 * 17 + i % 16] = to_float(static_cast<const half_t *>(p.w)[(n + i / 16) * p.K + k + i % 16]);
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 16; ++j)
#pragma unroll
            for (int r = 0; r < 4; ++r)
#pragma unroll
                for (int c = 0; c < 4; ++c) sum[r][c] = fmaf(a[(ty + 16 * r) * 17 + j], w[(tx + 16 * c) * 17 + j], sum[r][c]);
        __syncthreads();
    }
    for (int r = 0; r < 4; ++r)
        for (int c = 0; c < 4; ++c) static_cast<half_t *>(p.y)[(m + ty + 16 * r) * p.N + n + tx + 16 * c] = from_float<half_t>(sum[r][c]);
}

// Step 4, tensor cores: 4 warps of 32 x 32 outputs. Operands stay halves; they come by 16-byte asynchronous copies, lie in rows of 128
// bytes whose chunks are swizzled (chunk ^ row % 8) so that ldmatrix meets no bank twice, and one mma.sync does 4096 FLOPs. What
// is left to hide is the wait for each step's copies: the product (kernels/gemm/implicit_gemm.cu) keeps three steps in flight, uses
// tiles up to 128 x 128, and reads the windows of a convolution where this reads rows of a.
template <int STEP> __global__ void __launch_bounds__(128) gemm_4_tensor_cores(const GemmLadder p) {
    char *shared = shared_memory();
    auto place = [](int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); };
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const i64 m = blockIdx.y * 64, n = blockIdx.x * 64;
    float acc[2][4][4] = {};
    for (i64 k = 0; k < p.K; k += 64) {
        for (int i = tid; i < 128 * 8; i += 128) {  // 64 rows of a, then 64 of w, 8 chunks of 8 halves each
            const int row = i / 8, chunk = i % 8;
            const half_t *a = static_cast<const half_t *>(p.a), *w = static_cast<const half_t *>(p.w);
            const half_t *from = row < 64 ? a + (m + row) * p.K : w + (n + row - 64) * p.K;
            copy_async(shared + place(row, chunk), from + k + chunk * 8, true);
        }
        commit_copies();
        wait_copies<0>();
        __syncthreads();
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            unsigned a[2][4], b[4][2], both[4];
#pragma unroll
            for (int i = 0; i < 2; ++i) load_matrices(a[i], shared + place(warp / 2 * 32 + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                load_matrices(both, shared + place(64 + warp % 2 * 32 + j * 8 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
                b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
            }
            multiply<half_t>(acc, a, b);
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j)
            for (int e = 0; e < 4; ++e) {
                const i64 row = m + warp / 2 * 32 + i * 16 + lane / 4 + e / 2 * 8;
                const i64 column = n + warp % 2 * 32 + j * 8 + lane % 4 * 2 + e % 2;
                static_cast<half_t *>(p.y)[row * p.N + column] = from_float<half_t>(acc[i][j][e]);
            }
}
