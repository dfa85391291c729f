"""Batch normalisation at inference and local response normalisation, BM pixels x BC channels a program."""

import triton
import triton.language as tl

from convatlas.kernels.common.device import activate, cast, unravel, widen


@triton.jit(do_not_specialize=["M", "H", "W"])
def batch_norm_kernel(
    x,
    mean,
    var,
    weight,
    bias,
    y,
    M,
    H,
    W,
    C,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    eps,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """y = activation((x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]) (Ioffe, Szegedy 2015)."""
    tiles_c = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    m = pid // tiles_c * BM + tl.arange(0, BM)
    c = pid % tiles_c * BC + tl.arange(0, BC)
    n, h, v = unravel(m, H, W, WIDE)
    column = c.to(tl.int64) if WIDE else c
    c_mask = c < C
    valid = (m < M)[:, None] & c_mask[None, :]
    center = widen(tl.load(mean + c, mask=c_mask, other=0.0), INTERPRET)
    scale = 1.0 / tl.sqrt_rn(widen(tl.load(var + c, mask=c_mask, other=1.0), INTERPRET) + eps)
    if weight is not None:
        scale *= widen(tl.load(weight + c, mask=c_mask, other=0.0), INTERPRET)
    place = (n * x_n + h * x_h + v * x_w)[:, None] + (column * x_c)[None, :]
    value = (widen(tl.load(x + place, mask=valid, other=0.0), INTERPRET) - center[None, :]) * scale[None, :]
    if bias is not None:
        value += widen(tl.load(bias + c, mask=c_mask, other=0.0), INTERPRET)[None, :]
    offset = (n * y_n + h * y_h + v * y_w)[:, None] + (column * y_c)[None, :]
    tl.store(y + offset, cast(activate(value, ACTIVATION), y.dtype.element_ty, INTERPRET), mask=valid)


@triton.jit(do_not_specialize=["M", "H", "W"])
def local_response_norm_kernel(
    x,
    y,
    M,
    H,
    W,
    C,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    beta,
    k,
    scale,
    BEFORE: tl.constexpr,
    AFTER: tl.constexpr,
    BETA: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """y[c] = x[c] / (k + scale * sum of x[j]^2)^beta, j from c - BEFORE to c + AFTER (Krizhevsky et al. 2012, section 3.3).

    BETA, "zero", "odd", "even" or "fraction", says what becomes of a base that is negative or not finite.
    """
    tiles_c = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    m = pid // tiles_c * BM + tl.arange(0, BM)
    c = pid % tiles_c * BC + tl.arange(0, BC)
    n, h, v = unravel(m, H, W, WIDE)
    column = c.to(tl.int64) if WIDE else c
    row = n * x_n + h * x_h + v * x_w
    valid = (m < M)[:, None] & (c < C)[None, :]
    squares = tl.zeros((BM, BC), tl.float32)
    for j in range(-BEFORE, AFTER + 1):
        at = column + j
        inside = valid & ((at >= 0) & (at < C))[None, :]
        value = widen(tl.load(x + row[:, None] + (at * x_c)[None, :], mask=inside, other=0.0), INTERPRET)
        squares += value * value
    value = widen(tl.load(x + row[:, None] + (column * x_c)[None, :], mask=valid, other=0.0), INTERPRET)
    if BETA != "zero":
        base = k + scale * squares
        factor = tl.exp2(-beta * tl.log2(tl.abs(base)))
        if BETA == "odd":
            factor = tl.where(base < 0, -factor, factor)
        elif BETA == "fraction":
            factor = tl.where((base < 0) & (base != float("-inf")), float("nan"), factor)
        value *= factor
    offset = (n * y_n + h * y_h + v * y_w)[:, None] + (column * y_c)[None, :]
    tl.store(y + offset, cast(value, y.dtype.element_ty, INTERPRET), mask=valid)
