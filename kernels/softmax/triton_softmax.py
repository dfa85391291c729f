"""y = exp(x - max) / sum(exp(x - max)) along one dimension; a program owns one row."""

import triton
import triton.language as tl

from convatlas.kernels.device import cast


@triton.jit
def softmax_kernel(x, y, INNER, LENGTH: tl.constexpr, BLOCK: tl.constexpr, INTERPRET: tl.constexpr):
    """Row = outer*INNER + inner, its elements INNER apart. One NaN makes the whole row NaN, as PyTorch's."""
    row = tl.program_id(0).to(tl.int64)
    start = row // INNER * LENGTH * INNER + row % INNER
    i = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    for first in range(0, LENGTH, BLOCK):
        value = tl.load(x + start + (first + i) * INNER, mask=first + i < LENGTH, other=float("-inf")).to(tl.float32)
        top = tl.maximum(top, value, propagate_nan=tl.PropagateNan.ALL)
    unordered = tl.max(tl.where(top != top, 1, 0))
    top = tl.max(top, axis=0)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, LENGTH, BLOCK):
        value = tl.load(x + start + (first + i) * INNER, mask=first + i < LENGTH, other=float("-inf")).to(tl.float32)
        total += tl.where(first + i < LENGTH, tl.exp(value - top), 0.0)
    scale = 1.0 / tl.sum(total, axis=0)
    scale = tl.where(unordered > 0, float("nan"), scale)
    for first in range(0, LENGTH, BLOCK):
        value = tl.load(x + start + (first + i) * INNER, mask=first + i < LENGTH, other=float("-inf")).to(tl.float32)
        out = tl.exp(value - top) * scale
        tl.store(y + start + (first + i) * INNER, cast(out, y.dtype.element_ty, INTERPRET), mask=first + i < LENGTH)
