"""Softmax and cross-entropy as one, and its gradient: a program owns BM rows and reads them BLOCK elements at a time.

The forward pass reads a row for its maximum and, from L1 or L2, for its sum; the backward pass reads it once.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, cast, widen


@triton.jit(do_not_specialize=["rows"])
def cross_entropy_kernel(
    x, target, loss, lse, rows, ignored, smoothing,
    LENGTH: tl.constexpr, BM: tl.constexpr, BLOCK: tl.constexpr, mode, SMOOTH: tl.constexpr,
):  # fmt: skip
    """loss = lse - (1 - smoothing) * x[target] - smoothing * the mean of x, lse = log of the sum of exp(x).

    Rows lie one after another. A row whose target is `ignored` has loss 0, one whose target is no class NaN.
    """
    begin(mode)
    # Rows beyond the last repeat it: they store what it stores.
    row = tl.minimum(tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM), rows - 1)
    start = row * LENGTH
    i = tl.arange(0, BLOCK)
    if mode.WIDE:
        i = i.to(tl.int64)
    top = tl.full((BM, BLOCK), float("-inf"), tl.float32)
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = x + start[:, None] + (first + i)[None, :]
        top = tl.maximum(top, widen(tl.load(place, mask=mask, other=float("-inf")), mode.INTERPRET))
    top = tl.max(top, axis=1)
    total = tl.zeros((BM, BLOCK), tl.float32)
    plain = tl.zeros((BM, BLOCK), tl.float32)
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = x + start[:, None] + (first + i)[None, :]
        value = widen(tl.load(place, mask=mask, other=0.0), mode.INTERPRET)
        total += tl.where(mask, tl.exp(value - top[:, None]), 0.0)
        if SMOOTH:
            plain += value
    whole = top + tl.log(tl.sum(total, axis=1))
    t = tl.load(target + row)
    known = (t >= 0) & (t < LENGTH)
    own = widen(tl.load(x + start + tl.where(known, t, 0)), mode.INTERPRET)
    value = whole - own
    if SMOOTH:
        value = whole - (1.0 - smoothing) * own - smoothing * (tl.sum(plain, axis=1) / LENGTH)
    value = tl.where(known, value, float("nan"))
    tl.store(loss + row, tl.where(t == ignored, 0.0, value))
    tl.store(lse + row, whole)


@triton.jit(do_not_specialize=["rows"])
def cross_entropy_grad_kernel(
    x, target, lse, g, dx, rows, ignored, smoothing,
    LENGTH: tl.constexpr, BM: tl.constexpr, BLOCK: tl.constexpr, mode, SMOOTH: tl.constexpr,
):  # fmt: skip
    """dx = g * (exp(x - lse) - (1 - smoothing) [c = target] - smoothing / LENGTH); 0 of a row that is ignored."""
    begin(mode)
    row = tl.minimum(tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM), rows - 1)
    start = row * LENGTH
    i = tl.arange(0, BLOCK)
    if mode.WIDE:
        i = i.to(tl.int64)
    t = tl.load(target + row)
    counts, known = t != ignored, (t >= 0) & (t < LENGTH)
    factor = tl.where(known, tl.load(g + row).to(tl.float32), float("nan"))[:, None]
    whole = tl.load(lse + row).to(tl.float32)[:, None]
    for first in range(0, LENGTH, BLOCK):
        mask = (first + i < LENGTH)[None, :]
        place = start[:, None] + (first + i)[None, :]
        value = tl.exp(widen(tl.load(x + place, mask=mask, other=0.0), mode.INTERPRET) - whole)
        if SMOOTH:
            value -= smoothing / LENGTH
            value = tl.where((first + i)[None, :] == t[:, None], value - (1.0 - smoothing), value)
        else:
            value = tl.where((first + i)[None, :] == t[:, None], value - 1.0, value)
        value = tl.where(counts[:, None], value * factor, 0.0)
        tl.store(dx + place, cast(value, dx.dtype.element_ty, mode.INTERPRET), mask=mask)
