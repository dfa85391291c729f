"""The second kernel of a split weight gradient: adds the parts of every weight, and of every bias, in one order.

All parts of a weight lie FILTERS*R*S*CHANNELS numbers apart. A program loads ROWS of them at once, since one after another would
take a memory latency each, keeps ROWS sums, and adds these at last.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, cast, wide


@triton.jit
def _sum_of_parts(
    partial,
    at,
    mask,
    size,
    parts,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INTERPRET: tl.constexpr,
    PARTS: tl.constexpr,
):
    row = tl.arange(0, ROWS)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, PARTS if INTERPRET else parts, ROWS):
        part = first + row
        place = partial + part.to(tl.int64)[:, None] * size + at[None, :]
        sums += tl.load(place, mask=(part < parts)[:, None] & mask[None, :], other=0.0)
    return tl.sum(sums, axis=0)


@triton.jit(do_not_specialize=["parts"])
def weight_reduce_kernel(
    partial, y, bias, bias_partial, FILTERS, CHANNELS, parts, window, mode,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    begin(mode)
    weights = FILTERS * window.R * window.S * CHANNELS
    blocks = tl.cdiv(weights, BLOCK)
    pid = tl.program_id(0)
    if pid < blocks:
        at = pid * BLOCK + tl.arange(0, BLOCK)
        total = _sum_of_parts(partial, at, at < weights, weights, parts, ROWS, BLOCK, mode.INTERPRET, PARTS)
        c = at % CHANNELS
        s = at // CHANNELS % window.S
        r = at // CHANNELS // window.S % window.R
        k = at // CHANNELS // window.S // window.R
        place = y.ptr + wide(k, mode.WIDE) * y.n + c * y.c + r * y.h + s * y.w
        tl.store(place, cast(total, y.ptr.dtype.element_ty, mode.INTERPRET), mask=at < weights)
    elif bias is not None:
        k = (pid - blocks) * BLOCK + tl.arange(0, BLOCK)
        total = _sum_of_parts(bias_partial, k, k < FILTERS, FILTERS, parts, ROWS, BLOCK, mode.INTERPRET, PARTS)
        tl.store(bias + k, cast(total, bias.dtype.element_ty, mode.INTERPRET), mask=k < FILTERS)
