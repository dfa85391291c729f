"""The weight gradient by tensor memory access (TMA), for Hopper and later, in half precision.

A step of the reduction is one pixel (p, q) of BK images. Seen as matrices with an image a row, [N, H*W*C], the gradients of that
pixel are the box at column (p*Q + q)*K + k, and what tap (r, s) meets there is the box at column (h*W + w)*C + c: whatever stride,
dilation and padding are, both are boxes, and the copy engine needs no more than their corners. A pixel outside the image is asked
for from an image behind the last, which gives zeros. A 1x1 convolution without padding on a dense image takes each pixel for an
image.

Neither box is reshaped on its way into the tensor core, which reads both transposed from shared memory (docs/tuning/triton.md, "A
wgmma reads registers").
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, operand, widen
from convatlas.kernels.weight_grad.triton import place_of, store_bias, store_weights


@triton.jit
def _images(i, images, total, N, BK: tl.constexpr):
    """The first image of a step, and its pixel. A step beyond the last is one of images behind the last."""
    return tl.where(i < total, i % images * BK, N), i // images


@triton.jit
def _bias(dy, bias, partial, dy_h, dy_w, N, Q, K, images, total, split, k0, steps, tile, mode, STEPS: tl.constexpr):
    """The sums of dy alone, a filter's each."""
    sums = tl.zeros((tile.BM,), tl.float32)
    for i in range(STEPS if STEPS > 0 else steps):
        n, pixel = _images(split * steps + i, images, total, N, tile.BK)
        a = dy.load([n, pixel // Q * dy_h + pixel % Q * dy_w + k0])
        sums += tl.sum(widen(a, mode.INTERPRET), axis=0)
    k = k0 + tl.arange(0, tile.BM)
    store_bias(bias, partial, K, split, k, k < K, sums, tile, mode)


@triton.jit
def _weights(
    dy, x, y, partial, dy_h, dy_w, x_h, x_w, N, H, W, Q, C, K, images, total, split, tile_c, k0, steps, window, tile, mode,
    STEPS: tl.constexpr,
):  # fmt: skip
    """The products of a tile of filters and a tile of columns."""
    blocks = tl.cdiv(C, tile.BN)
    tap = tile_c // blocks
    r = tap // window.S
    s = tap % window.S
    c0 = tile_c % blocks * tile.BN
    dh = r * window.DILATION_H - window.TOP
    dw = s * window.DILATION_W - window.LEFT
    acc = tl.zeros((tile.BM, tile.BN), tl.float32)
    for i in range(STEPS if STEPS > 0 else steps):
        n, pixel = _images(split * steps + i, images, total, N, tile.BK)
        p = pixel // Q
        q = pixel % Q
        h = p * window.STRIDE_H + dh
        w = q * window.STRIDE_W + dw
        inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
        a = operand(dy.load([n, p * dy_h + q * dy_w + k0]), mode.INTERPRET)
        b = operand(x.load([tl.where(inside, n, N), h * x_h + w * x_w + c0]), mode.INTERPRET)
        acc = tl.dot(a.T, b, acc, input_precision=mode.PRECISION)
    k = k0 + tl.arange(0, tile.BM)
    c = c0 + tl.arange(0, tile.BN)
    mask = (k < K)[:, None] & (c < C)[None, :]
    store_weights(y, partial, K, C, split, k, c, r, s, mask, acc, window, tile, mode)


@triton.jit(do_not_specialize=["N", "H", "W", "Q", "images", "total", "steps"])
def weight_grad_tma_kernel(
    dy, x, y, partial, bias, bias_partial, dy_h, dy_w, x_h, x_w, N, H, W, Q, C, K, images, total, steps, window, tile, mode,
    BIAS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    begin(mode)
    columns = tl.cdiv(C, tile.BN) * window.R * window.S
    tile_c, tile_k, split, _ = place_of(columns, tl.cdiv(K, tile.BM), tile, BIAS)
    k0 = tile_k * tile.BM
    if BIAS:
        if tile_c == columns:
            _bias(dy, bias, bias_partial, dy_h, dy_w, N, Q, K, images, total, split, k0, steps, tile, mode, STEPS)
        else:
            _weights(
                dy, x, y, partial, dy_h, dy_w, x_h, x_w, N, H, W, Q, C, K, images, total, split, tile_c, k0, steps, window,
                tile, mode, STEPS,
            )  # fmt: skip
    else:
        _weights(
            dy, x, y, partial, dy_h, dy_w, x_h, x_w, N, H, W, Q, C, K, images, total, split, tile_c, k0, steps, window,
            tile, mode, STEPS,
        )  # fmt: skip
