"""Launcher of softmax along any dimension."""

from __future__ import annotations

from math import prod

from convatlas.kernels.common.launch import Launch, cdiv, is_wide, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.softmax.triton import softmax_kernel


def softmax(p: Problem) -> list[Launch]:
    """A program takes as many rows as have 1024 elements together. p.out is contiguous (backend.run sees to it)."""
    shape, dim, unbounded = p.spec.shape, p.params["dim"], p.target.unbounded
    length, inner = p.spec.reduction, prod(shape[dim + 1 :])
    rows = p.out.numel() // length if length else 0
    BLOCK = min(power_of_two(length), 1 << 16 if unbounded else 1024)
    BM = min(power_of_two(rows), max((1 << 18 if unbounded else 1024) // BLOCK, 1))
    arguments = dict(x=p["input"].contiguous(), y=p.out, rows=rows, INNER=inner)
    constants = dict(LENGTH=length, BM=BM, BLOCK=BLOCK, WIDE=is_wide(p.out), INTERPRET=p.target.interpreted)
    return [Launch(softmax_kernel, (cdiv(rows, BM),), arguments, constants)]
