"""Softmax and its gradient: y = exp(x - max) / sum(exp(x - max)) along one dimension.

A program owns BM rows and reads them BLOCK elements at a time.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, cast, widen


@triton.jit(do_not_specialize=["rows"])
def softmax_kernel(
    x,
    y,
    rows,
    INNER,
    LENGTH: tl.constexpr,
    BM: tl.constexpr,
    BLOCK: tl.constexpr,
    mode,
):
    """Row number outer*INNER + inner has its elements INNER apart. One NaN makes the whole row NaN, as in PyTorch."""
    begin(mode)
    # Rows beyond the last repeat it: they store what it stores.
    row = tl.minimum(tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM), rows - 1)
    start = row // INNER * LENGTH * INNER + row % INNER
    i = tl.arange(0, BLOCK)
    if mode.WIDE:
        i = i.to(tl.int64)
    top = tl.full((BM, BLOCK), float("-inf"), tl.float32)
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = x + start[:, None] + ((first + i) * INNER)[None, :]
        value = widen(tl.load(place, mask=mask, other=float("-inf")), mode.INTERPRET)
        top = tl.maximum(top, value, propagate_nan=tl.PropagateNan.ALL)
    unordered = tl.max(tl.where(top != top, 1, 0), axis=1)
    top = tl.max(top, axis=1)[:, None]
    total = tl.zeros((BM, BLOCK), tl.float32)
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = x + start[:, None] + ((first + i) * INNER)[None, :]
        value = widen(tl.load(place, mask=mask, other=0.0), mode.INTERPRET)
        total += tl.where(mask, tl.exp(value - top), 0.0)
    scale = 1.0 / tl.sum(total, axis=1)
    scale = tl.where(unordered > 0, float("nan"), scale)[:, None]
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = start[:, None] + ((first + i) * INNER)[None, :]
        value = widen(tl.load(x + place, mask=mask, other=0.0), mode.INTERPRET)
        tl.store(y + place, cast(tl.exp(value - top) * scale, y.dtype.element_ty, mode.INTERPRET), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def softmax_grad_kernel(
    g, y, dx, rows, INNER, LENGTH: tl.constexpr, BM: tl.constexpr, BLOCK: tl.constexpr, mode,
):  # fmt: skip
    """dx = y * (g - the sum of g * y over the row); rows as softmax_kernel's."""
    begin(mode)
    row = tl.minimum(tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM), rows - 1)
    start = row // INNER * LENGTH * INNER + row % INNER
    i = tl.arange(0, BLOCK)
    if mode.WIDE:
        i = i.to(tl.int64)
    total = tl.zeros((BM, BLOCK), tl.float32)
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = start[:, None] + ((first + i) * INNER)[None, :]
        value = widen(tl.load(g + place, mask=mask, other=0.0), mode.INTERPRET)
        total += value * widen(tl.load(y + place, mask=mask, other=0.0), mode.INTERPRET)
    whole = tl.sum(total, axis=1)[:, None]
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = start[:, None] + ((first + i) * INNER)[None, :]
        value = widen(tl.load(g + place, mask=mask, other=0.0), mode.INTERPRET) - whole
        value *= widen(tl.load(y + place, mask=mask, other=0.0), mode.INTERPRET)
        tl.store(dx + place, cast(value, dx.dtype.element_ty, mode.INTERPRET), mask=mask)
