// y = activation(x + shortcut), element by element, any strides: residual_add, relu, relu6 and the copies of concat; and the gradient
// of an activation, y = x times the derivative that `shortcut` tells.
//
// Two or three elements moved for one addition: memory bandwidth is the bound. Elements are numbered in y's memory order after
// neighbouring dimensions were merged (see the launcher), so dense tensors are one long run of vectors.
#include "../common/cuda/device.cuh"

struct ElementwiseParams {
    const void *x, *shortcut;
    void *y;
    i64 count;       // vectors
    i64 rank;        // 1: one run; else four dimensions, of which D1 .. D3 count (D3 in vectors)
    i64 D1, D2, D3;
    i64 x_0, x_1, x_2, x_3, s_0, s_1, s_2, s_3, y_0, y_1, y_2, y_3;
    i64 activation;
};

// What a thread owns: VEC neighbouring elements, by their places in the three operands.
struct Vector {
    i64 x, s, y;
    bool valid;
};
template <int VEC> __device__ __forceinline__ Vector vector(const ElementwiseParams &p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    i64 i0 = 0, i1 = 0, i2 = 0, i3 = i;
    if (p.rank > 1 && i < p.count) {
        i3 = i % p.D3, i2 = i / p.D3;
        i1 = i2 / p.D2, i2 %= p.D2;
        i0 = i1 / p.D1, i1 %= p.D1;
    }
    i3 *= VEC;
    return {i0 * p.x_0 + i1 * p.x_1 + i2 * p.x_2 + i3 * p.x_3, i0 * p.s_0 + i1 * p.s_1 + i2 * p.s_2 + i3 * p.s_3,
            i0 * p.y_0 + i1 * p.y_1 + i2 * p.y_2 + i3 * p.y_3, i < p.count};
}

// No __restrict__: y may be x or shortcut.
template <typename T, int VEC> __global__ void __launch_bounds__(256) elementwise(const ElementwiseParams p) {
    begin();
    const Vector at = vector<VEC>(p);
    if (!at.valid) return;
    float value[VEC];
    load(value, static_cast<const T *>(p.x) + at.x);
    if (p.shortcut) add(value, static_cast<const T *>(p.shortcut) + at.s);
    activate(value, p.activation);
    store(static_cast<T *>(p.y) + at.y, value);
}

template <typename T, int VEC> __global__ void __launch_bounds__(256) activation_grad(const ElementwiseParams p) {
    begin();
    const Vector at = vector<VEC>(p);
    if (!at.valid) return;
    float value[VEC], told[VEC];
    load(value, static_cast<const T *>(p.x) + at.x);
    load(told, static_cast<const T *>(p.shortcut) + at.s);
#pragma unroll
    for (int e = 0; e < VEC; ++e) value[e] = gradient(value[e], told[e], p.activation);
    store(static_cast<T *>(p.y) + at.y, value);
}
