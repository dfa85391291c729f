"""Backends "triton" and "cuda": from a Call to the launches of its kernels, and their execution."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.kernels.common.launch import require_countable, viewable
from convatlas.kernels.common.prepared import requested
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.target import Target, current
from convatlas.layout import allocate

# The folder of each op. Its launcher for a backend is the function named like the op in launch_<backend>.py there.
ROOMS = {
    "conv2d": "conv2d",
    "conv_transpose2d": "conv_transpose2d",
    "linear": "gemm",
    "max_pool2d": "pool",
    "avg_pool2d": "pool",
    "adaptive_avg_pool2d": "pool",
    "residual_add": "elementwise",
    "batch_norm": "norm",
    "local_response_norm": "norm",
    "softmax": "softmax",
    "relu": "elementwise",
    "relu6": "elementwise",
    "concat": "elementwise",
}

# Operands that kernels read as vectors of adjacent elements.
VECTORS = ("bias", "weight", "running_mean", "running_var")


@cache
def launcher(backend: str, op: str) -> Callable[[Problem], list[Any]]:
    """The function that lists the launches of an op's problems; its module is imported when first asked for."""
    return getattr(import_module(f"convatlas.kernels.{ROOMS[op]}.launch_{backend}"), op)


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target | None = None) -> list[Any]:
    """The launches that compute `call` into `out`, on the target that the tensors are on; nothing is run.

    Kernels take the strides of images and matrices, expanded ones included. Of vectors (bias, batch norm's numbers) they expect
    adjacent elements, and get a copy where they are not: a few kilobytes.
    """
    target = current(out, call.backend) if target is None else target
    operands = {name: x.contiguous() if name in VECTORS and x.dim() == 1 else x for name, x in tensors.items()}
    return launcher(call.backend, call.op)(Problem.of(call, operands, out, target))


def run(call: Call, tensors: dict[str, Tensor], out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `call` by its backend: on the tensors' GPU, or on a CPU in the interpreter (triton) or the host build (cuda).

    Raises ShapeError for more pixels than 32 bits count.
    """
    require_countable(call)
    first = next(iter(tensors.values()))
    result = allocate(call.spec.output_shape, first) if out is None else out
    y = result if viewable(call.op, result) else torch.empty(result.shape, dtype=result.dtype, device=result.device)
    extra = {}
    if call.params.get("return_indices"):
        extra["indices"] = allocate(call.spec.output_shape, first, torch.int64)
    target = current(first, call.backend)

    def launches_of(operands: dict[str, Tensor], y: Tensor) -> list[Any]:
        return launches(call, {**operands, **extra}, y, target)

    listed = launches_of(tensors, y)
    compiled = [launch.run() for launch in listed]
    if (request := requested.get()) is not None and y is result and not extra:
        request.offer(launches_of, tensors, y, listed, compiled)
    if y is not result:
        result.copy_(y)
    return (result, *extra.values()) if extra else result
