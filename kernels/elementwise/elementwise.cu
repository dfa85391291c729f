// y = activation(x + shortcut), element by element, any strides: residual_add, relu, relu6 and the copies of concat.
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

// A thread owns VEC neighbouring elements. No __restrict__: y may be x or shortcut.
template <typename T, int VEC> __global__ void __launch_bounds__(256) elementwise(const ElementwiseParams p) {
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x;
    if (i >= p.count) return;
    i64 i0 = 0, i1 = 0, i2 = 0, i3 = i;
    if (p.rank > 1) {
        i3 = i % p.D3, i2 = i / p.D3;
        i1 = i2 / p.D2, i2 %= p.D2;
        i0 = i1 / p.D1, i1 %= p.D1;
    }
    i3 *= VEC;
    float value[VEC];
    load(value, static_cast<const T *>(p.x) + i0 * p.x_0 + i1 * p.x_1 + i2 * p.x_2 + i3 * p.x_3);
    if (p.shortcut) add(value, static_cast<const T *>(p.shortcut) + i0 * p.s_0 + i1 * p.s_1 + i2 * p.s_2 + i3 * p.s_3);
    activate(value, p.activation);
    store(static_cast<T *>(p.y) + i0 * p.y_0 + i1 * p.y_1 + i2 * p.y_2 + i3 * p.y_3, value);
}
