"""Batch norm while training: a channel's statistics, the sums of its backward pass, and the gradient of its input.

Statistics and sums are reductions over N*H*W pixels in two steps: SPLIT programs of each block of channels leave a part each, and a
second kernel joins the parts in a fixed order, so that two runs give the same bits. Bandwidth is the bound.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import (
    begin,
    block_of,
    cast,
    gradient,
    row_of,
    store_block,
    unravel,
    wide,
    widen,
)


@triton.jit
def channels_of(C, block):
    """The channels of a program of a reduction, and which exist."""
    c = tl.program_id(0) * block.BC + tl.arange(0, block.BC)
    return c, c < C


@triton.jit(do_not_specialize=["M", "H", "W", "PART"])
def stats_kernel(x, part, M, H, W, C, PART, block, mode):
    """The mean and the sum of squares about it of pixels split*PART to (split+1)*PART, into part[0 or 1, split, c].

    Each of BM lanes keeps a running mean and sum of squares (Welford 1962), all of as many pixels; then they are joined about the
    common mean (Chan, Golub, LeVeque 1979). No large numbers are subtracted, whatever the mean is.
    """
    begin(mode)
    c, c_mask = channels_of(C, block)
    split = tl.program_id(1)
    channel = wide(c, mode.WIDE) * x.c
    stop = tl.minimum((split + 1) * PART, M)
    lane = split * PART + tl.arange(0, block.BM)
    mean = tl.zeros((block.BM, block.BC), tl.float32)
    squares = tl.zeros((block.BM, block.BC), tl.float32)
    count = tl.zeros((block.BM,), tl.float32)
    for first in range(0, PART, block.BM):
        m = lane + first
        inside = m < stop
        n, h, w = unravel(m, H, W, mode.WIDE)
        place = row_of(x, n, h, w)[:, None] + channel[None, :]
        value = widen(tl.load(x.ptr + place, mask=inside[:, None] & c_mask[None, :], other=0.0), mode.INTERPRET)
        count += tl.where(inside, 1.0, 0.0)
        off = value - mean
        moved = mean + off / tl.maximum(count, 1.0)[:, None]
        squares = tl.where(inside[:, None], squares + off * (value - moved), squares)
        mean = tl.where(inside[:, None], moved, mean)
    total = tl.maximum(tl.sum(count, axis=0), 1.0)
    middle = tl.sum(mean * count[:, None], axis=0) / total
    off = mean - middle[None, :]
    spread = tl.sum(squares + off * off * count[:, None], axis=0)
    at = split * C + c
    tl.store(part + at, middle, mask=c_mask)
    tl.store(part + tl.num_programs(1) * C + at, spread, mask=c_mask)


@triton.jit(do_not_specialize=["M", "PART"])
def join_stats_kernel(part, y, M, C, PART, block, SPLIT: tl.constexpr):
    """The mean and the biased variance of all pixels, from those of the parts, joined one after another."""
    c, c_mask = channels_of(C, block)
    mean = tl.zeros((block.BC,), tl.float32)
    squares = tl.zeros((block.BC,), tl.float32)
    for split in range(SPLIT):
        before = tl.minimum(split * PART, M).to(tl.float32)
        count = tl.minimum((split + 1) * PART, M).to(tl.float32) - before
        off = tl.load(part + split * C + c, mask=c_mask, other=0.0) - mean
        share = count / tl.maximum(before + count, 1.0)
        squares += tl.load(part + (SPLIT + split) * C + c, mask=c_mask, other=0.0) + off * off * (before * share)
        mean += off * share
    tl.store(y + c, mean, mask=c_mask)
    tl.store(y + C + c, squares / tl.maximum(M, 1).to(tl.float32), mask=c_mask)


@triton.jit
def normal_of(x, mean, var, place, c, mask, c_mask, eps, mode):
    """(x - mean) / sqrt(var + eps), and 1 / sqrt(var + eps)."""
    value = widen(tl.load(x.ptr + place, mask=mask, other=0.0), mode.INTERPRET)
    inverse = 1.0 / tl.sqrt_rn(widen(tl.load(var + c, mask=c_mask, other=1.0), mode.INTERPRET) + eps)
    centre = widen(tl.load(mean + c, mask=c_mask, other=0.0), mode.INTERPRET)
    return (value - centre[None, :]) * inverse[None, :], inverse


@triton.jit
def before_activation(g, output, n, h, w, channel, mask, mode):
    """The gradient g, or where `output` tells the derivative of an activation behind the norm, that before it."""
    place = row_of(g, n, h, w)[:, None] + (channel * g.c)[None, :]
    value = widen(tl.load(g.ptr + place, mask=mask, other=0.0), mode.INTERPRET)
    if output.ptr is not None:
        place = row_of(output, n, h, w)[:, None] + (channel * output.c)[None, :]
        value = gradient(value, widen(tl.load(output.ptr + place, mask=mask, other=0.0), mode.INTERPRET), mode)
    return value


@triton.jit(do_not_specialize=["M", "H", "W", "PART"])
def sums_kernel(g, x, output, masked, mean, var, part, M, H, W, C, PART, eps, block, mode):
    """The sums of g and of g * (x - mean) / sqrt(var + eps) over a part of the pixels, into part[0 or 1, split, c].

    g is the gradient before the activation; `masked` gets it where it is given.
    """
    begin(mode)
    c, c_mask = channels_of(C, block)
    split = tl.program_id(1)
    channel = wide(c, mode.WIDE)
    stop = tl.minimum((split + 1) * PART, M)
    lane = split * PART + tl.arange(0, block.BM)
    plain = tl.zeros((block.BM, block.BC), tl.float32)
    scaled = tl.zeros((block.BM, block.BC), tl.float32)
    for first in range(0, PART, block.BM):
        m = lane + first
        mask = (m < stop)[:, None] & c_mask[None, :]
        n, h, w = unravel(m, H, W, mode.WIDE)
        value = before_activation(g, output, n, h, w, channel, mask, mode)
        if masked.ptr is not None:
            place = masked.ptr + row_of(masked, n, h, w)[:, None] + (channel * masked.c)[None, :]
            tl.store(place, cast(value, masked.ptr.dtype.element_ty, mode.INTERPRET), mask=mask)
        at = row_of(x, n, h, w)[:, None] + (channel * x.c)[None, :]
        normal, _ = normal_of(x, mean, var, at, c, mask, c_mask, eps, mode)
        plain += value
        scaled += tl.where(mask, value * normal, 0.0)
    at = split * C + c
    tl.store(part + at, tl.sum(plain, axis=0), mask=c_mask)
    tl.store(part + tl.num_programs(1) * C + at, tl.sum(scaled, axis=0), mask=c_mask)


@triton.jit
def join_sums_kernel(part, y, C, block, SPLIT: tl.constexpr):
    """The sums of all parts, in their order."""
    c, c_mask = channels_of(C, block)
    for row in range(2):
        total = tl.zeros((block.BC,), tl.float32)
        for split in range(SPLIT):
            total += tl.load(part + (row * SPLIT + split) * C + c, mask=c_mask, other=0.0)
        tl.store(y + row * C + c, total, mask=c_mask)


@triton.jit(do_not_specialize=["M", "H", "W"])
def input_grad_kernel(g, x, output, mean, var, weight, sums, dx, M, H, W, C, eps, block, mode):
    """dx = weight / sqrt(var + eps) * (g - (sums[0] + x' * sums[1]) / M), x' the normalised input; without sums, of g alone.

    g is the gradient before the activation.
    """
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    valid = m_mask[:, None] & c_mask[None, :]
    channel = wide(c, mode.WIDE)
    value = before_activation(g, output, n, h, w, channel, valid, mode)
    inverse = 1.0 / tl.sqrt_rn(widen(tl.load(var + c, mask=c_mask, other=1.0), mode.INTERPRET) + eps)
    if sums is not None:
        place = row_of(x, n, h, w)[:, None] + (channel * x.c)[None, :]
        normal, _ = normal_of(x, mean, var, place, c, valid, c_mask, eps, mode)
        first = widen(tl.load(sums + c, mask=c_mask, other=0.0), mode.INTERPRET)
        second = widen(tl.load(sums + C + c, mask=c_mask, other=0.0), mode.INTERPRET)
        value -= (first[None, :] + normal * second[None, :]) / tl.maximum(M, 1).to(tl.float32)
    if weight is not None:
        inverse *= widen(tl.load(weight + c, mask=c_mask, other=0.0), mode.INTERPRET)
    store_block(dx, n, h, w, c, value * inverse[None, :], valid, mode)


@triton.jit(do_not_specialize=["M", "H", "W"])
def response_norm_grad_kernel(
    g, x, dx, M, H, W, C, beta, k, scale, block, mode, BEFORE: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """dx[j] = g[j] b[j]^-beta - 2 beta scale x[j] * sum of g[i] x[i] b[i]^(-beta-1) over channels i from j - AFTER to j + BEFORE.

    b[i] = k + scale * the sum of squares over i's window, computed anew for each i from what L1 holds.
    """
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    row, grad_row = row_of(x, n, h, w)[:, None], row_of(g, n, h, w)[:, None]
    channel = wide(c, mode.WIDE)
    valid = m_mask[:, None] & c_mask[None, :]
    back = tl.zeros((block.BM, block.BC), tl.float32)
    own = tl.zeros((block.BM, block.BC), tl.float32)
    for d in range(-AFTER, BEFORE + 1):
        i = channel + d
        there = valid & ((i >= 0) & (i < C))[None, :]
        squares = tl.zeros((block.BM, block.BC), tl.float32)
        for j in range(-BEFORE, AFTER + 1):
            at = i + j
            inside = valid & ((at >= 0) & (at < C))[None, :]
            value = widen(tl.load(x.ptr + row + (at * x.c)[None, :], mask=inside, other=0.0), mode.INTERPRET)
            squares += value * value
        base = k + scale * squares
        value = widen(tl.load(x.ptr + row + (i * x.c)[None, :], mask=there, other=0.0), mode.INTERPRET)
        gradient = widen(tl.load(g.ptr + grad_row + (i * g.c)[None, :], mask=there, other=0.0), mode.INTERPRET)
        power = gradient * tl.exp2(-beta * tl.log2(base))
        back += tl.where(there, value * power / base, 0.0)
        if d == 0:
            own = power
    value = widen(tl.load(x.ptr + row + (channel * x.c)[None, :], mask=valid, other=0.0), mode.INTERPRET)
    store_block(dx, n, h, w, c, own - 2.0 * beta * scale * value * back, valid, mode)
