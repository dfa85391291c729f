"""The few-channel convolution (an image's 3 channels): y[m, k] = sum over j of x[window of m, j] * w[k, j], j = (r*S + s)*C + c.

With C = 3 a tap is far narrower than an MMA's 16 products, so taps and channels are flattened into one GEMM K of R*S*C (147
for 7x7x3, padded to 160 by steps of 32) instead of R*S taps of 16. Any input layout is read in place: an image
usually comes as NCHW, and a copy would cost more than its gather.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import cast, finish, operand, tile_order, unravel


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def conv2d_stem_kernel(
    x,
    w,
    bias,
    residual,
    y,
    M,
    H,
    W,
    P,
    Q,
    K,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    res_n,
    res_c,
    res_h,
    res_w,
    C: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    tile_m, tile_k = tile_order(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(K, BN), GROUP)
    m = tile_m * BM + tl.arange(0, BM)
    k = tile_k * BN + tl.arange(0, BN)
    m_mask = m < M
    k_mask = k < K
    n, p, q = unravel(m, P, Q, WIDE)
    h = p * STRIDE_H - TOP
    v = q * STRIDE_W - LEFT
    origin = n * x_n + h * x_h + v * x_w

    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(0, R * S * C, BK):
        j = step + tl.arange(0, BK)
        j_mask = j < R * S * C
        c = j % C
        tap = j // C
        dh = tap // S * DILATION_H
        dw = tap % S * DILATION_W
        at_h = h[:, None] + dh[None, :]
        at_w = v[:, None] + dw[None, :]
        inside = (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
        a_place = x + origin[:, None] + (dh * x_h + dw * x_w + c * x_c)[None, :]
        a = tl.load(a_place, mask=inside & m_mask[:, None] & j_mask[None, :], other=0.0)
        b_place = w + k[None, :] * (R * S * C) + j[:, None]
        b = tl.load(b_place, mask=k_mask[None, :] & j_mask[:, None], other=0.0)
        acc = tl.dot(operand(a, INTERPRET), operand(b, INTERPRET), acc, input_precision=PRECISION)

    mask = m_mask[:, None] & k_mask[None, :]
    column = k.to(tl.int64) if WIDE else k
    res_offset = (n * res_n + p * res_h + q * res_w)[:, None] + column[None, :] * res_c
    out = finish(acc, bias, residual, k, k_mask, res_offset, mask, ACTIVATION, INTERPRET)
    offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
    tl.store(y + offset, cast(out, y.dtype.element_ty, INTERPRET), mask=mask)
