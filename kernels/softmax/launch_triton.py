"""Launchers of softmax along any dimension, of cross-entropy, and of their gradients."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from convatlas.kernels.common.arguments import mode
from convatlas.kernels.common.launch import Launch, cdiv, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.softmax.triton import softmax_grad_kernel, softmax_kernel
from convatlas.kernels.softmax.triton_loss import cross_entropy_grad_kernel, cross_entropy_kernel


def softmax(p: Problem) -> list[Launch]:
    """A program takes as many rows as have 1024 elements together. p.out is contiguous (backend.run sees to it)."""
    return [_launch(softmax_kernel, p, dict(x=p["input"].contiguous(), y=p.out))]


def softmax_grad(p: Problem) -> list[Launch]:
    """Rows as softmax's."""
    given = dict(g=p["grad_output"].contiguous(), y=p["output"].contiguous(), dx=p.out)
    return [_launch(softmax_grad_kernel, p, given)]


def _options(p: Problem) -> dict[str, Any]:
    return dict(ignored=p.params["ignore_index"], smoothing=float(p.params["label_smoothing"]))


def cross_entropy_rows(p: Problem) -> list[Launch]:
    """Rows as softmax's."""
    given = dict(x=p["input"].contiguous(), target=p["target"].contiguous(), loss=p.out, lse=p["lse"])
    return [_rows(cross_entropy_kernel, p, given)]


def cross_entropy_grad(p: Problem) -> list[Launch]:
    """Rows as softmax's."""
    names = ("target", "lse", "grad_output")
    target, lse, g = (p[name].contiguous() for name in names)
    return [_rows(cross_entropy_grad_kernel, p, dict(x=p["input"].contiguous(), target=target, lse=lse, g=g, dx=p.out))]


def _rows(kernel: Any, p: Problem, given: dict[str, Any]) -> Launch:
    rows, length = p["input"].shape
    constants = dict(SMOOTH=p.params["label_smoothing"] != 0)
    return _blocks(kernel, p, dict(**given, **_options(p)), rows, length, p["input"], constants)


def _launch(kernel: Any, p: Problem, given: dict[str, Any]) -> Launch:
    shape, dim = p.spec.output_shape, p.params["dim"]
    length, inner = p.spec.reduction, prod(shape[dim + 1 :])
    rows = p.out.numel() // length if length else 0
    return _blocks(kernel, p, dict(**given, INNER=inner), rows, length, p.out, {})


def _blocks(
    kernel: Any, p: Problem, given: dict[str, Any], rows: int, length: int, x: Tensor, constants: dict[str, Any]
) -> Launch:
    unbounded = p.target.unbounded
    BLOCK = min(power_of_two(length), 1 << 16 if unbounded else 1024)
    BM = min(power_of_two(rows), max((1 << 18 if unbounded else 1024) // BLOCK, 1))
    constants = dict(LENGTH=length, BM=BM, BLOCK=BLOCK, mode=mode(p, x), **constants)
    return Launch(kernel, (cdiv(rows, BM),), dict(**given, rows=rows), constants)
