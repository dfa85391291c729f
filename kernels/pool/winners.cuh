// Where a maximum was found: its place h*W + w in the image, eight bytes, or its number r*S + s in the window, one byte.
#pragma once
#include "../common/cuda/device.cuh"

constexpr int NO_WINNERS = 0, PLACES = 1, TAPS = 2;
template <int WINNERS> struct Winner {
    using Index = int;  // in registers
    using Stored = unsigned char;
};
template <> struct Winner<PLACES> {
    using Index = i64;
    using Stored = i64;
};

// The bytes of VEC neighbouring channels as one access of 4 or 8 bytes; places one by one.
template <int VEC> __device__ __forceinline__ void load_winners(int (&v)[VEC], const unsigned char *p) {
#pragma unroll
    for (int i = 0; i < VEC; i += 4) {
        if constexpr (VEC == 1) {
            v[0] = *p;
        } else {
            const unsigned word = reinterpret_cast<const unsigned *>(p)[i / 4];
#pragma unroll
            for (int j = 0; j < 4; ++j) v[i + j] = int(word >> 8 * j & 255);
        }
    }
}
template <int VEC> __device__ __forceinline__ void load_winners(i64 (&v)[VEC], const i64 *p) {
#pragma unroll
    for (int e = 0; e < VEC; ++e) v[e] = p[e];
}
template <int VEC> __device__ __forceinline__ void store_winners(unsigned char *p, const int (&v)[VEC]) {
#pragma unroll
    for (int i = 0; i < VEC; i += 4) {
        if constexpr (VEC == 1)
            *p = (unsigned char)v[0];
        else
            reinterpret_cast<unsigned *>(p)[i / 4] = unsigned(v[i]) | unsigned(v[i + 1]) << 8 | unsigned(v[i + 2]) << 16 | unsigned(v[i + 3]) << 24;
    }
}
template <int VEC> __device__ __forceinline__ void store_winners(i64 *p, const i64 (&v)[VEC]) {
#pragma unroll
    for (int e = 0; e < VEC; ++e) p[e] = v[e];
}
