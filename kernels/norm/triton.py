"""Batch normalisation at inference and local response normalisation, BM pixels x BC channels a program."""

import triton
import triton.language as tl

from convatlas.kernels.common.device import activate, begin, block_of, row_of, store_block, wide, widen


@triton.jit(do_not_specialize=["M", "H", "W"])
def batch_norm_kernel(x, mean, var, weight, bias, residual, y, M, H, W, C, eps, block, mode):
    """y = activation((x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c] + residual) (Ioffe, Szegedy 2015)."""
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    valid = m_mask[:, None] & c_mask[None, :]
    center = widen(tl.load(mean + c, mask=c_mask, other=0.0), mode.INTERPRET)
    scale = 1.0 / tl.sqrt_rn(widen(tl.load(var + c, mask=c_mask, other=1.0), mode.INTERPRET) + eps)
    if weight is not None:
        scale *= widen(tl.load(weight + c, mask=c_mask, other=0.0), mode.INTERPRET)
    place = row_of(x, n, h, w)[:, None] + (wide(c, mode.WIDE) * x.c)[None, :]
    value = (widen(tl.load(x.ptr + place, mask=valid, other=0.0), mode.INTERPRET) - center[None, :]) * scale[None, :]
    if bias is not None:
        value += widen(tl.load(bias + c, mask=c_mask, other=0.0), mode.INTERPRET)[None, :]
    if residual.ptr is not None:
        place = residual.ptr + row_of(residual, n, h, w)[:, None] + (wide(c, mode.WIDE) * residual.c)[None, :]
        value += widen(tl.load(place, mask=valid, other=0.0), mode.INTERPRET)
    store_block(y, n, h, w, c, activate(value, mode), valid, mode)


@triton.jit(do_not_specialize=["M", "H", "W"])
def local_response_norm_kernel(
    x, y, M, H, W, C, beta, k, scale, block, mode, BEFORE: tl.constexpr, AFTER: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    """y[c] = x[c] / (k + scale * sum of x[j]^2)^beta, j from c - BEFORE to c + AFTER (Krizhevsky et al. 2012, section 3.3).

    BETA ("zero", "odd", "even" or "fraction") is the kind of exponent; it says what becomes of a base that is negative or not
    finite.
    """
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    row = row_of(x, n, h, w)
    channel = wide(c, mode.WIDE)
    valid = m_mask[:, None] & c_mask[None, :]
    squares = tl.zeros((block.BM, block.BC), tl.float32)
    for j in range(-BEFORE, AFTER + 1):
        at = channel + j
        inside = valid & ((at >= 0) & (at < C))[None, :]
        value = widen(tl.load(x.ptr + row[:, None] + (at * x.c)[None, :], mask=inside, other=0.0), mode.INTERPRET)
        squares += value * value
    value = widen(tl.load(x.ptr + row[:, None] + (channel * x.c)[None, :], mask=valid, other=0.0), mode.INTERPRET)
    if BETA != "zero":
        base = k + scale * squares
        factor = tl.exp2(-beta * tl.log2(tl.abs(base)))
        if BETA == "odd":
            factor = tl.where(base < 0, -factor, factor)
        elif BETA == "fraction":
            factor = tl.where((base < 0) & (base != float("-inf")), float("nan"), factor)
        value *= factor
    store_block(y, n, h, w, c, value, valid, mode)
