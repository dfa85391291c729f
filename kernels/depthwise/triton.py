"""Depthwise convolution: y[n, k, p, q] = activation(sum over r, s of x[n, k // MULTIPLIER, .., ..] * w[k, r, s] + bias + residual).

Each output needs R*S products of one channel: nothing for a tensor core to share, and 2*R*S FLOPs for each element moved, so memory
bandwidth is the bound. A program owns BM pixels x BC channels, channels innermost so that loads are whole vectors; the
R*S windows of neighbouring pixels overlap and are served by L1.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import cast, finish, unravel, widen


@triton.jit
def product(
    x,
    w,
    origin,
    h,
    v,
    k,
    m_mask,
    k_mask,
    H,
    W,
    x_h,
    x_w,
    w_k,
    w_r,
    w_s,
    r,
    s,
    DILATION_H,
    DILATION_W,
    INTERPRET: tl.constexpr,
):
    """One tap of the window: x shifted by (r, s) times w[:, r, s], in float32."""
    at_h = h + r * DILATION_H
    at_w = v + s * DILATION_W
    inside = m_mask & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
    shift = r * DILATION_H * x_h + s * DILATION_W * x_w
    a = tl.load(x + origin + shift, mask=inside[:, None] & k_mask[None, :], other=0.0)
    b = tl.load(w + k * w_k + r * w_r + s * w_s, mask=k_mask, other=0.0)
    return widen(a, INTERPRET) * widen(b, INTERPRET)[None, :]


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def depthwise_kernel(
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
    w_k,
    w_r,
    w_s,
    y_n,
    y_c,
    y_h,
    y_w,
    res_n,
    res_c,
    res_h,
    res_w,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    # Channel blocks vary fastest: programs that run together read whole pixels.
    tiles_k = tl.cdiv(K, BC)
    pid = tl.program_id(0)
    m = pid // tiles_k * BM + tl.arange(0, BM)
    k = pid % tiles_k * BC + tl.arange(0, BC)
    m_mask = m < M
    k_mask = k < K
    n, p, q = unravel(m, P, Q, WIDE)
    column = k.to(tl.int64) if WIDE else k
    if MULTIPLIER == 1:
        channel = column
    else:
        channel = column // MULTIPLIER
    h = p * STRIDE_H - TOP
    v = q * STRIDE_W - LEFT
    origin = (n * x_n + h * x_h + v * x_w)[:, None] + channel[None, :] * x_c

    # A row of the window is unrolled, so that its loads are all in flight at once; a whole window spilled registers.
    acc = tl.zeros((BM, BC), tl.float32)
    for r in range(R):
        if S <= 8:
            for s in tl.static_range(S):
                acc += product(
                    x, w, origin, h, v, k, m_mask, k_mask, H, W, x_h, x_w, w_k, w_r, w_s, r, s, DILATION_H, DILATION_W,
                    INTERPRET,
                )  # fmt: skip
        else:
            for s in range(S):
                acc += product(
                    x, w, origin, h, v, k, m_mask, k_mask, H, W, x_h, x_w, w_k, w_r, w_s, r, s, DILATION_H, DILATION_W,
                    INTERPRET,
                )  # fmt: skip

    mask = m_mask[:, None] & k_mask[None, :]
    res_offset = (n * res_n + p * res_h + q * res_w)[:, None] + column[None, :] * res_c
    out = finish(acc, bias, residual, k, k_mask, res_offset, mask, ACTIVATION, INTERPRET)
    offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
    tl.store(y + offset, cast(out, y.dtype.element_ty, INTERPRET), mask=mask)
