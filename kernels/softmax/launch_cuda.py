"""Launchers of softmax along any dimension, of cross-entropy, and of their gradients."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch

if TYPE_CHECKING:
    from torch import Tensor

    from convatlas.kernels.common.problem import Problem

THREADS = 128  # as in softmax.cu: 8 elements a thread for 1000 classes


def softmax(p: Problem) -> list[CudaLaunch]:
    """One block computes one row. p.out is contiguous (backend.run sees to it)."""
    return [_launch("softmax", p, dict(x=p["input"].contiguous(), y=p.out))]


def softmax_grad(p: Problem) -> list[CudaLaunch]:
    """Rows as softmax's."""
    return [_launch("softmax_grad", p, dict(g=p["grad_output"].contiguous(), y=p["output"].contiguous(), dx=p.out))]


def cross_entropy_rows(p: Problem) -> list[CudaLaunch]:
    """One block computes one row."""
    return [_rows("cross_entropy", p, p["lse"], p.out, None)]


def cross_entropy_grad(p: Problem) -> list[CudaLaunch]:
    """One block computes one row; p.out is contiguous."""
    return [_rows("cross_entropy_grad", p, p["lse"].float().contiguous(), p["grad_output"].float().contiguous(), p.out)]


def _rows(kernel: str, p: Problem, lse: Tensor, g: Tensor, dx: Tensor | None) -> CudaLaunch:
    rows, length = p["input"].shape
    arguments = dict(
        x=p["input"].contiguous(), target=p["target"].contiguous(), lse=lse, g=g, dx=dx, length=length,
        ignored=p.params["ignore_index"], smoothing=float(p.params["label_smoothing"]),
    )  # fmt: skip
    shared = 4 * 3 * (THREADS // 32)
    return CudaLaunch("softmax/softmax.cu", kernel, (TYPES[p.dtype],), (rows,), THREADS, arguments, shared, dx is None)


def _launch(kernel: str, p: Problem, given: dict[str, Any]) -> CudaLaunch:
    shape, dim, length = p.spec.output_shape, p.params["dim"], p.spec.reduction
    rows = p.out.numel() // length if length else 0
    arguments, shared = dict(**given, length=length, inner=prod(shape[dim + 1 :])), 4 * 2 * (THREADS // 32)
    return CudaLaunch("softmax/softmax.cu", kernel, (TYPES[p.dtype],), (rows,), THREADS, arguments, shared, True)
