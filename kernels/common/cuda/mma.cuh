// Tensor cores and asynchronous copies (sm_80 and newer), and what they do on a CPU.
//
// Operands are read from shared memory in 16-byte chunks: 8 halves or 4 floats. One MMA step takes two chunks of every row, which is
// k = 16 for halves (mma.m16n8k16) and k = 8 for TF32 (mma.m16n8k8), and ldmatrix gives each lane the same registers for both:
// a lane of an 8x8 matrix of b16 holds 4 bytes, two halves or one float.
// Source of the fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16" and "... mma.m16n8k8".
#pragma once
#include "device.cuh"

// ---- asynchronous copies of 16 bytes from global to shared memory; with `present` false the chunk is zeros and nothing is read

__device__ __forceinline__ void copy_async(void *to, const void *from, bool present) {
#if ON_GPU
    const unsigned place = unsigned(__cvta_generic_to_shared(to));
    const int bytes = present ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes) : "memory");
#else
    host::aligned(to, "cp.async to a misaligned address");
    if (present) host::aligned(from, "cp.async from a misaligned address");
    host::Thread *self = host::block->self;
    if (self->pending == host::COPIES) host::fail("more asynchronous copies in flight than host::COPIES");
    memset(to, 0xFF, 16);  // NaN until it is waited for
    host::copy_begins(to, present ? from : nullptr);
    self->copies[self->pending++] = {to, from, present ? 16u : 0u, present ? 0u : 16u};
#endif
}

__device__ __forceinline__ void commit_copies() {
#if ON_GPU
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    host::Thread *self = host::block->self;
    if (self->groups == host::COPIES) host::fail("more groups of copies in flight than host::COPIES");
    self->ends[self->groups++] = self->pending;
#endif
}

// Waits until at most the LATEST committed groups are still in flight.
template <int LATEST> __device__ __forceinline__ void wait_copies() {
#if ON_GPU
    asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
#else
    host::Thread *self = host::block->self;
    const int over = self->groups - LATEST;
    if (over <= 0) return;
    const int count = self->ends[over - 1];
    for (int i = 0; i < count; ++i) {
        const host::Copy &c = self->copies[i];
        host::copy_ends(c.to);
        if (c.bytes) memcpy(c.to, c.from, c.bytes);
        if (c.zeros) memset(static_cast<char *>(c.to) + c.bytes, 0, c.zeros);
    }
    memmove(self->copies, self->copies + count, sizeof(host::Copy) * (self->pending - count));
    for (int g = 0; g < LATEST; ++g) self->ends[g] = self->ends[over + g] - count;
    self->pending -= count, self->groups = LATEST;
#endif
}

// ---- ldmatrix: four 8x8 matrices of 16-byte rows; lanes 8i .. 8i+7 give the row addresses of matrix i

__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void *row) {
#if ON_GPU
    const unsigned place = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(place)
                 : "memory");
#else
    host::aligned(row, "ldmatrix of a misaligned row");
    const int lane = host::block->self->lane;
    // The rows of all lanes, then those of the four matrices in this lane's place: one exchange, four reads of it.
    const unsigned set = host::block->self->warp->gate.epoch & 1;
    host::exchange(row, lane, 0);
    for (int i = 0; i < 4; ++i) {
        const char *from;
        memcpy(&from, host::block->self->warp->value[set][8 * i + lane / 4], sizeof from);
        memcpy(&r[i], from + lane % 4 * 4, 4);
    }
#endif
}

// The same of the transposed matrices, whose elements are halves: a lane's register holds two neighbours of a column.
__device__ __forceinline__ void load_transposed(unsigned (&r)[4], const void *row) {
#if ON_GPU
    const unsigned place = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(place)
                 : "memory");
#else
    host::aligned(row, "ldmatrix of a misaligned row");
    const int lane = host::block->self->lane;
    const unsigned set = host::block->self->warp->gate.epoch & 1;
    host::exchange(row, lane, 0);
    for (int i = 0; i < 4; ++i)
        for (int e = 0; e < 2; ++e) {
            const char *from;
            memcpy(&from, host::block->self->warp->value[set][8 * i + lane % 4 * 2 + e], sizeof from);
            memcpy(reinterpret_cast<char *>(&r[i]) + 2 * e, from + lane / 4 * 2, 2);
        }
#endif
}

// ---- acc += a b for MI x NJ tiles of 16 x 8; a holds MI, b holds NJ fragments of one MMA step

template <typename T, int MI, int NJ>
__device__ __forceinline__ void multiply(float (&acc)[MI][NJ][4], unsigned (&a)[MI][4], unsigned (&b)[NJ][2]) {
#if ON_GPU
    if constexpr (sizeof(T) == 4) {  // TF32 keeps 10 bits of the mantissa; rounded here, the hardware would cut
#pragma unroll
        for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) asm("cvt.rna.tf32.f32 %0, %0;" : "+r"(a[i][j]));
#pragma unroll
        for (int i = 0; i < NJ; ++i)
#pragma unroll
            for (int j = 0; j < 2; ++j) asm("cvt.rna.tf32.f32 %0, %0;" : "+r"(b[i][j]));
    }
#define OPERANDS                                                                                            \
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), \
      "r"(b[j][0]), "r"(b[j][1])
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int j = 0; j < NJ; ++j) {
            float(&c)[4] = acc[i][j];
            if constexpr (sizeof(T) == 4)
                asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" OPERANDS);
            else if constexpr (T::BFLOAT)
                asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" OPERANDS);
            else
                asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" OPERANDS);
        }
#undef OPERANDS
#else
    // The last lane to come computes the whole warp's product: fragments to matrices, one small GEMM, and back.
    host::together(acc, a, b, 0, [](void *operands[][3]) UNWATCHED {
        constexpr int PER = 4 / sizeof(T), KS = 8 * PER, M = 16 * MI, N = 8 * NJ;  // elements a register; k of a step
        alignas(64) float A[M][KS], B[KS][N], C[M][N];
        auto element = [](unsigned word, int half) {
            if constexpr (sizeof(T) == 4) {
                // Round to nearest, ties away, to 10 bits of mantissa, as cvt.rna.tf32 does.
                const bool finite = (word & 0x7F800000u) != 0x7F800000u;
                return bits_to_float(finite ? (word + 0x1000u) & 0xFFFFE000u : word);
            } else {
                T item;
                item.bits = (unsigned short)(word >> (16 * half));
                return to_float(item);
            }
        };
        for (int lane = 0; lane < 32; ++lane) {
            const int g = lane / 4, t = lane % 4;
            auto &c = *static_cast<float(*)[MI][NJ][4]>(operands[lane][0]);
            auto &fa = *static_cast<unsigned(*)[MI][4]>(operands[lane][1]);
            auto &fb = *static_cast<unsigned(*)[NJ][2]>(operands[lane][2]);
            for (int i = 0; i < MI; ++i)
                for (int r = 0; r < 4; ++r)
                    for (int e = 0; e < PER; ++e)
                        A[16 * i + g + r % 2 * 8][(t + r / 2 * 4) * PER + e] = element(fa[i][r], e);
            for (int j = 0; j < NJ; ++j)
                for (int r = 0; r < 2; ++r)
                    for (int e = 0; e < PER; ++e) B[(t + r * 4) * PER + e][8 * j + g] = element(fb[j][r], e);
            for (int i = 0; i < MI; ++i)
                for (int j = 0; j < NJ; ++j)
                    for (int r = 0; r < 4; ++r) C[16 * i + g + r / 2 * 8][8 * j + 2 * t + r % 2] = c[i][j][r];
        }
        for (int m = 0; m < M; ++m)
            for (int k = 0; k < KS; ++k)
                for (int n = 0; n < N; ++n) C[m][n] += A[m][k] * B[k][n];
        for (int lane = 0; lane < 32; ++lane) {
            const int g = lane / 4, t = lane % 4;
            auto &c = *static_cast<float(*)[MI][NJ][4]>(operands[lane][0]);
            for (int i = 0; i < MI; ++i)
                for (int j = 0; j < NJ; ++j)
                    for (int r = 0; r < 4; ++r) c[i][j][r] = C[16 * i + g + r / 2 * 8][8 * j + 2 * t + r % 2];
        }
    });
#endif
}
