"""Launchers of softmax along any dimension and of its gradient."""

from __future__ import annotations

from math import prod
from typing import Any

from convatlas.kernels.common.arguments import mode
from convatlas.kernels.common.launch import Launch, cdiv, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.softmax.triton import softmax_grad_kernel, softmax_kernel


def softmax(p: Problem) -> list[Launch]:
    """A program takes as many rows as have 1024 elements together. p.out is contiguous (backend.run sees to it)."""
    return [_launch(softmax_kernel, p, dict(x=p["input"].contiguous(), y=p.out))]


def softmax_grad(p: Problem) -> list[Launch]:
    """Rows as softmax's."""
    given = dict(g=p["grad_output"].contiguous(), y=p["output"].contiguous(), dx=p.out)
    return [_launch(softmax_grad_kernel, p, given)]


def _launch(kernel: Any, p: Problem, given: dict[str, Any]) -> Launch:
    shape, dim, unbounded = p.spec.output_shape, p.params["dim"], p.target.unbounded
    length, inner = p.spec.reduction, prod(shape[dim + 1 :])
    rows = p.out.numel() // length if length else 0
    BLOCK = min(power_of_two(length), 1 << 16 if unbounded else 1024)
    BM = min(power_of_two(rows), max((1 << 18 if unbounded else 1024) // BLOCK, 1))
    arguments = dict(**given, rows=rows, INNER=inner)
    constants = dict(LENGTH=length, BM=BM, BLOCK=BLOCK, mode=mode(p, p.out))
    return Launch(kernel, (cdiv(rows, BM),), arguments, constants)
