"""softmax along any dimension."""

from __future__ import annotations

from math import prod

from torch import Tensor

from convatlas.kernels.common.launch import Launch, cdiv, is_wide, power_of_two
from convatlas.kernels.common.target import Target
from convatlas.kernels.softmax.triton import softmax_kernel
from convatlas.ops.observe import Call


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """A program takes rows of 1024 elements in all. `out` is contiguous (backend.run sees to it)."""
    shape, dim = call.spec.shape, call.params["dim"]
    length, inner = call.spec.reduction, prod(shape[dim + 1 :])
    rows = out.numel() // length if length else 0
    BLOCK = min(power_of_two(length), 1 << 16 if target.unbounded else 1024)
    BM = min(power_of_two(rows), max((1 << 18 if target.unbounded else 1024) // BLOCK, 1))
    arguments = dict(x=tensors["input"].contiguous(), y=out, rows=rows, INNER=inner)
    constants = dict(LENGTH=length, BM=BM, BLOCK=BLOCK, WIDE=is_wide(out), INTERPRET=target.interpreted)
    return [Launch(softmax_kernel, (cdiv(rows, BM),), arguments, constants)]
