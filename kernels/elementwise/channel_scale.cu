// y = activation(x * gate(scale[n, c]) + residual): the last step of squeeze and excitation (Hu, Shen, Sun 2017).
//
// Two elements moved for one multiplication: memory bandwidth is the bound. A thread owns VEC channels of PIXELS pixels of one image:
// it makes its factors once, and all of its loads are in flight before the first is used.
#include "../common/cuda/device.cuh"

struct ChannelScaleParams {
    const void *x, *scale, *residual;
    void *y;
    i64 count, C, pixels;            // threads; channels; pixels of an image
    i64 parts, by_W, W;              // ceil(pixels / PIXELS); the width
    i64 x_n, x_c, x_h, x_w, r_n, r_c, r_h, r_w, y_n, y_c, y_h, y_w, scale_n, scale_c;
    i64 channels_last;               // neighbouring threads take neighbouring channels, else pixels
    i64 gate, activation;
};

// No __restrict__: y may be x or residual.
template <typename T, int VEC, int PIXELS> __global__ void __launch_bounds__(256) channel_scale(const ChannelScaleParams p) {
    begin();
    const i64 i = i64(blockIdx.x) * 256 + threadIdx.x, chunks = p.C / VEC;
    if (i >= p.count) return;
    const i64 inner_size = p.channels_last ? chunks : p.parts, rest = quotient64(i, inner_size), inner = i - rest * inner_size;
    const i64 outer_size = p.channels_last ? p.parts : chunks, n = quotient64(rest, outer_size), outer = rest - n * outer_size;
    const int part = int(p.channels_last ? outer : inner);
    const i64 c = (p.channels_last ? inner : outer) * VEC;
    const T *x = static_cast<const T *>(p.x) + n * p.x_n + c * p.x_c;
    const T *residual = static_cast<const T *>(p.residual) + n * p.r_n + c * p.r_c;
    T *y = static_cast<T *>(p.y) + n * p.y_n + c * p.y_c;

    float factor[VEC], value[PIXELS][VEC];
    int h[PIXELS], w[PIXELS];
#pragma unroll
    for (int j = 0; j < PIXELS; ++j) {  // of the last thread's, those beyond the image are its last pixel once more
        const int pixel = min(part + j * int(p.parts), int(p.pixels) - 1);
        h[j] = quotient(pixel, p.by_W), w[j] = pixel - h[j] * int(p.W);
        load(value[j], x + h[j] * p.x_h + w[j] * p.x_w);
    }
    load(factor, static_cast<const T *>(p.scale) + n * p.scale_n + c * p.scale_c);
    activate(factor, p.gate);
#pragma unroll
    for (int j = 0; j < PIXELS; ++j) {
        if (part + j * p.parts >= p.pixels) break;
#pragma unroll
        for (int e = 0; e < VEC; ++e) value[j][e] *= factor[e];
        if (p.residual) add(value[j], residual + h[j] * p.r_h + w[j] * p.r_w);
        activate(value[j], p.activation);
        store(y + h[j] * p.y_h + w[j] * p.y_w, value[j]);
    }
}
