// What every kernel shares: storage types, 16-byte vectors, conversions, activations, the epilogue's arithmetic.
//
// Half types are storage only; arithmetic is float32. Their conversions are PTX here and bit arithmetic on a CPU, so that no
// header of CUDA's is needed: NVRTC compiles these files as they stand.
#pragma once
#ifdef __CUDACC__
#define ON_GPU 1
#else
#define ON_GPU 0
#include "host.hpp"
#endif

#ifndef INFINITY
#define INFINITY bits_to_float(0x7F800000u)
#endif

typedef long long i64;

// The first line of every kernel, or in front of its first access. A kernel that is compiled with DEPENDENT is launched by
// programmatic dependent launch (kernels/common/device.py has the rule and its reason): nothing is read or written before the kernel
// in front of it has ended.
__device__ __forceinline__ void begin() {
#ifdef DEPENDENT
    asm volatile("griddepcontrol.wait;\n\tgriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct half_t {
    static constexpr bool BFLOAT = false;
    unsigned short bits;
};
struct bf16_t {
    static constexpr bool BFLOAT = true;
    unsigned short bits;
};

// ---- conversions: exact to float32; from it, to nearest even, as torch rounds

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float bits_to_float(unsigned bits) {
#if ON_GPU
    return __uint_as_float(bits);
#else
    float v;
    memcpy(&v, &bits, 4);
    return v;
#endif
}
__device__ __forceinline__ unsigned float_to_bits(float v) {
#if ON_GPU
    return __float_as_uint(v);
#else
    unsigned bits;
    memcpy(&bits, &v, 4);
    return bits;
#endif
}
__device__ __forceinline__ float to_float(bf16_t v) { return bits_to_float(unsigned(v.bits) << 16); }
__device__ __forceinline__ float to_float(half_t v) {
#if ON_GPU
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
    return r;
#else
    _Float16 h;
    memcpy(&h, &v, 2);
    return float(h);
#endif
}

template <typename T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ half_t from_float<half_t>(float v) {
    half_t r;
#if ON_GPU
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
#else
    const _Float16 h = _Float16(v);
    memcpy(&r, &h, 2);
#endif
    return r;
}
template <> __device__ __forceinline__ bf16_t from_float<bf16_t>(float v) {
    bf16_t r;
#if ON_GPU
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
#else
    const unsigned bits = float_to_bits(v);
    r.bits = v != v ? 0x7FFF : (unsigned short)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
#endif
    return r;
}

// ---- vectors: N elements in 16 bytes, moved by one instruction; N = 1 is the element itself, for layouts without vectors

template <typename T> struct Chunk {
    static constexpr int N = 16 / sizeof(T);
};

template <typename T> __device__ __forceinline__ uint4 load_words(const T *p) {
#if ON_GPU
    return *reinterpret_cast<const uint4 *>(p);  // no __ldg: p may be the output
#else
    return *host::aligned(reinterpret_cast<const uint4 *>(p), "a misaligned 16-byte load");
#endif
}
template <typename T> __device__ __forceinline__ void unpack(float *v, const uint4 &raw) {
    const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int j = 0; j < Chunk<T>::N; ++j) {
        if constexpr (sizeof(T) == 4) {
            v[j] = bits_to_float(words[j]);
        } else {
            T item;
            item.bits = (unsigned short)(words[j / 2] >> (j % 2 * 16));
            v[j] = to_float(item);
        }
    }
}
template <typename T, int N> __device__ __forceinline__ void load(float (&v)[N], const T *p) {
    if constexpr (N == 1) {
        v[0] = to_float(*p);
    } else {
        static_assert(N % Chunk<T>::N == 0, "whole 16-byte vectors");
#pragma unroll
        for (int i = 0; i < N; i += Chunk<T>::N) unpack<T>(v + i, load_words(p + i));
    }
}

// To global memory.
template <typename T> __device__ __forceinline__ void store_words(T *p, const uint4 &words) {
#if ON_GPU
    // Spelt out: from an assignment the compiler made four 4-byte stores in one kernel.
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w) : "memory");
#else
    *host::aligned(reinterpret_cast<uint4 *>(p), "a misaligned 16-byte store") = words;
#endif
}

template <typename T, int N> __device__ __forceinline__ void store(T *p, const float (&v)[N]) {
    if constexpr (N == 1) {
        *p = from_float<T>(v[0]);
    } else {
        static_assert(N % Chunk<T>::N == 0, "whole 16-byte vectors");
#pragma unroll
        for (int i = 0; i < N; i += Chunk<T>::N) {
            unsigned words[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if constexpr (sizeof(T) == 4)
                    words[j] = float_to_bits(v[i + j]);
                else
                    words[j] = from_float<T>(v[i + 2 * j]).bits | unsigned(from_float<T>(v[i + 2 * j + 1]).bits) << 16;
            }
            store_words(p + i, {words[0], words[1], words[2], words[3]});
        }
    }
}

template <int N> __device__ __forceinline__ void fill(float (&v)[N], float value) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = value;
}

// ---- division of indices by sizes that only the launcher knows

// n / d for 0 <= n < 2^31, `by` = reciprocal(d) of the launcher (kernels/common/cuda/launch.py): a multiplication and a shift, where the
// compiler's 32-bit division takes about 20 dependent instructions, and its 64-bit one is a call of about 100.
// Granlund and Montgomery, "Division by Invariant Integers using Multiplication", PLDI 1994, theorem 4.2.
__device__ __forceinline__ int quotient(int n, i64 by) {
    return int((unsigned long long)unsigned(n) * (unsigned long long)(by >> 6) >> (32 + int(by & 63)));
}
// n / d for any n and d >= 0: in 32 bits where both fit.
__device__ __forceinline__ i64 quotient64(i64 n, i64 d) { return (n | d) >> 32 ? n / d : i64(unsigned(n) / unsigned(d)); }

// What a thread of a one-dimensional grid of 256-thread blocks owns of maps (N, C, P, Q): one pixel, and VEC channels from c on.
// Neighbouring threads take neighbouring channels where those are adjacent (channels_last), else neighbouring pixels.
struct Place {
    i64 n;
    int p, q, c;
    bool valid;
};
template <int VEC> __device__ __forceinline__ Place place(i64 N, i64 C, i64 P, i64 Q, bool channels_last) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x, chunks = C / VEC, pixels = N * P * Q;
    if (i >= chunks * pixels) return {0, 0, 0, 0, false};
    const i64 inner_size = channels_last ? chunks : pixels, outer = quotient64(i, inner_size), inner = i - outer * inner_size;
    const i64 pixel = channels_last ? outer : inner, row = quotient64(pixel, Q), n = quotient64(row, P);
    return {n, int(row - n * P), int(pixel - row * Q), int(channels_last ? inner : outer) * VEC, true};
}

__device__ __forceinline__ int count_leading_zeros(int v) {
#if ON_GPU
    return __clz(v);
#else
    return __builtin_clz(unsigned(v));
#endif
}

// ---- arithmetic

// The larger, NaN if either is: fmaxf would drop a NaN, torch's relu and max_pool2d keep it.
__device__ __forceinline__ float max_nan(float a, float b) {
#if ON_GPU
    float r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
#else
    return a != a || a > b ? a : b;
#endif
}
__device__ __forceinline__ float min_nan(float a, float b) {
#if ON_GPU
    float r;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
#else
    return a != a || a < b ? a : b;
#endif
}

// The same on a word of storage: one float or two halves.
template <typename T> __device__ __forceinline__ unsigned max_nan_words(unsigned a, unsigned b) {
    if constexpr (sizeof(T) == 4) {
        return float_to_bits(max_nan(bits_to_float(a), bits_to_float(b)));
    } else {
#if ON_GPU
        unsigned r;
        if constexpr (T::BFLOAT)
            asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
        else
            asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
        return r;
#else
        unsigned r = 0;
        for (int shift = 0; shift < 32; shift += 16) {
            const T left{(unsigned short)(a >> shift)}, right{(unsigned short)(b >> shift)};
            r |= unsigned(from_float<T>(max_nan(to_float(left), to_float(right))).bits) << shift;
        }
        return r;
#endif
    }
}
// -infinity in every element of a word.
template <typename T> __device__ __forceinline__ constexpr unsigned lowest() {
    if constexpr (sizeof(T) == 4)
        return 0xFF800000u;
    else
        return T::BFLOAT ? 0xFF80FF80u : 0xFC00FC00u;
}

// Numbers that launchers pass. A run-time value: the branch is uniform, and costs nothing beside a memory access.
constexpr int NONE = 0, RELU = 1, RELU6 = 2;
#ifndef ALL_ACTIVATIONS
__device__ __forceinline__ float activate(float v, i64 activation) {
    if (int(activation) != NONE) v = max_nan(v, 0.0f);
    if (int(activation) == RELU6) v = min_nan(v, 6.0f);
    return v;
}
#else
// <name>_activations.cu includes <name>.cu with these, so that kernels of relu alone stay without their code. The upper half of
// `activation` is leaky_relu's slope. The formulas are those of reference/activation.py.
constexpr int LEAKY_RELU = 3, SIGMOID = 4, HARDSIGMOID = 5, SILU = 6, HARDSWISH = 7;
// a / (1 + e^-v) by the special function unit: 2 units in the last place each, and 0 where e^-v is beyond 2^126.
__device__ __forceinline__ float over_sigmoid(float a, float v) {
#if ON_GPU
    return __fdividef(a, 1.0f + __expf(-v));
#else
    return a / (1.0f + expf(-v));
#endif
}
__device__ __forceinline__ float activate(float v, i64 activation) {
    const float ramp = min_nan(max_nan(v + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f);
    switch (int(activation)) {
    case RELU: return max_nan(v, 0.0f);
    case RELU6: return min_nan(max_nan(v, 0.0f), 6.0f);
    case LEAKY_RELU: return v > 0.0f ? v : v * bits_to_float(unsigned((unsigned long long)activation >> 32));
    case SIGMOID: return over_sigmoid(1.0f, v);
    case HARDSIGMOID: return ramp;
    case SILU: return over_sigmoid(v, v);
    case HARDSWISH: return v * ramp;
    }
    return v;
}
#endif

// g times the derivative of an activation; v is its value or its argument (reference/grad.py has the formulas). Where v is NaN a
// comparison is false: relu lets g through, relu6 does not.
#ifndef ALL_ACTIVATIONS
__device__ __forceinline__ float gradient(float g, float v, i64 activation) {
    if (int(activation) == RELU) return v <= 0.0f ? 0.0f : g;
    return int(activation) == NONE || (v > 0.0f && v < 6.0f) ? g : 0.0f;
}
#else
__device__ __forceinline__ float gradient(float g, float v, i64 activation) {
    switch (int(activation)) {
    case RELU: return v <= 0.0f ? 0.0f : g;
    case RELU6: return v > 0.0f && v < 6.0f ? g : 0.0f;
    case LEAKY_RELU: return v > 0.0f ? g : g * bits_to_float(unsigned((unsigned long long)activation >> 32));
    case SIGMOID: return g * (1.0f - v) * v;
    case HARDSIGMOID: return v > -3.0f && v < 3.0f ? g * (1.0f / 6.0f) : 0.0f;
    case SILU: {
        const float e = expf(-fabsf(v)), s = (v < 0.0f ? e : 1.0f) / (1.0f + e);
        return g * s * (1.0f + v * (1.0f - s));
    }
    case HARDSWISH: return v <= -3.0f ? 0.0f : v >= 3.0f ? g : g * (v * (1.0f / 3.0f) + 0.5f);
    }
    return g;
}
#endif
template <int N> __device__ __forceinline__ void activate(float (&v)[N], i64 activation) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = activate(v[i], activation);
}

// v plus the N elements at p: what an epilogue adds, a bias or a residual.
template <typename T, int N> __device__ __forceinline__ void add(float (&v)[N], const T *p) {
    float more[N];
    load(more, p);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] += more[i];
}

// Infinite or NaN.
__device__ __forceinline__ bool unbounded(float v) { return (float_to_bits(v) & 0x7F800000u) == 0x7F800000u; }

// The block's dynamic shared memory. All shared memory is dynamic: a CPU allocates it to the byte, and the sanitizer guards it.
__device__ __forceinline__ char *shared_memory() {
#if ON_GPU
    extern __shared__ __align__(128) char dynamic[];
    return dynamic;
#else
    return host::block->shared;
#endif
}
