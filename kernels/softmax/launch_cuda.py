"""Launcher of softmax along any dimension."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

THREADS = 128  # as in softmax.cu: 8 elements a thread for 1000 classes


def softmax(p: Problem) -> list[CudaLaunch]:
    """One block computes one row. p.out is contiguous (backend.run sees to it)."""
    shape, dim = p.spec.shape, p.params["dim"]
    length, inner = p.spec.reduction, prod(shape[dim + 1 :])
    rows = p.out.numel() // length if length else 0
    arguments = dict(x=p["input"].contiguous(), y=p.out, length=length, inner=inner)
    shared = 4 * 2 * (THREADS // 32)
    return [CudaLaunch("softmax/softmax.cu", "softmax", (TYPES[p.dtype],), (rows,), THREADS, arguments, shared, True)]
