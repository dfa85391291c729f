"""Backends "triton" and "cuda": from a Call to the launches of its kernels, and their execution."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.kernels.common.cuda.launch import vectors
from convatlas.kernels.common.launch import require_countable
from convatlas.kernels.common.prepared import requested
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.target import Target, current
from convatlas.layout import allocate_extra, allocate_result
from convatlas.specs.activations import FLOPS


class Room(NamedTuple):
    """What is said once of an op's kernels.

    Attributes:
        folder: its launcher for a backend is the function named like the op in launch_<backend>.py there.
        view: an output as the launcher sees it, reshaped or as at most four dimensions; None, or a RuntimeError, where its strides
            forbid that.
    """

    folder: str
    view: Callable[[Tensor], Tensor | None] = lambda out: out


def _four_runs(out: Tensor) -> Tensor | None:
    return out if out.dim() <= 4 or out.is_contiguous() else None


def _folded(out: Tensor) -> Tensor:
    return out if out.dim() <= 4 else out.view(*out.shape[:3], -1)


ROOMS = {
    "conv2d": Room("conv2d"),
    "conv2d_input_grad": Room("conv_transpose2d"),
    "conv2d_weight_grad": Room("weight_grad"),
    "conv_transpose2d": Room("conv_transpose2d"),
    "linear": Room("gemm", lambda out: out.view(-1, out.shape[-1])),
    "max_pool2d": Room("pool"),
    "avg_pool2d": Room("pool"),
    "adaptive_avg_pool2d": Room("pool"),
    "adaptive_max_pool2d": Room("pool"),
    "channel_scale": Room("elementwise"),
    "residual_add": Room("elementwise", _four_runs),
    "batch_norm": Room("norm", _folded),
    "local_response_norm": Room("norm", _folded),
    "softmax": Room("softmax", lambda out: out.view(-1) if out.is_contiguous() else None),
    **dict.fromkeys(FLOPS, Room("elementwise", _four_runs)),  # the activations
    "concat": Room("elementwise", _four_runs),
    # The backward pass.
    "activation_grad": Room("elementwise", _four_runs),
    **dict.fromkeys(
        ("max_pool2d_grad", "avg_pool2d_grad", "adaptive_max_pool2d_grad", "adaptive_avg_pool2d_grad"), Room("pool")
    ),
    **dict.fromkeys(("local_response_norm_grad", "batch_norm_input_grad"), Room("norm", _folded)),
    **dict.fromkeys(("batch_norm_stats", "batch_norm_sums"), Room("norm")),
    "cross_entropy_rows": Room("softmax"),
    "cross_entropy_grad": Room("softmax", lambda out: out if out.is_contiguous() else None),
    "softmax_grad": Room("softmax", lambda out: out.view(-1) if out.is_contiguous() else None),
    # Several ops as one, by the pattern (specs.BlockSpec).
    "inverted_residual": Room("inverted_residual"),
    "depthwise_separable": Room("inverted_residual"),
    "bottleneck": Room("bottleneck"),
    "basic_block": Room("bottleneck"),
    "stem_pool": Room("stem_pool"),
    "pool_pointwise": Room("pool_pointwise"),
    "persistent": Room("persistent"),
    "block": Room("", lambda out: out if vectors(out) else None),  # what all of them see an output as
}

# Operands that kernels read as vectors of adjacent elements.
VECTORS = ("bias", "weight", "running_mean", "running_var")


def room(pattern: str, name: str) -> Callable[..., Any]:
    """A function of the launcher of a block's kernels: `takes(spec, dtype)` or `work(call, launch)`."""
    return getattr(import_module(f"convatlas.kernels.{ROOMS[pattern].folder}.launch_cuda"), name)


def room_of(call: Call) -> str:
    """The op's name in ROOMS: of a block, its pattern."""
    return call.spec.pattern if call.op == "block" else call.op


@cache
def launcher(backend: str, op: str) -> Callable[[Problem], list[Any]]:
    """The function that lists the launches of an op's problems; its module is imported when first asked for."""
    return getattr(import_module(f"convatlas.kernels.{ROOMS[op].folder}.launch_{backend}"), op)


def viewable(op: str, out: Tensor) -> bool:
    """Whether the op's launcher can see `out` as it needs to; where it cannot, the result is computed elsewhere and copied."""
    try:
        return not out.numel() or ROOMS[op].view(out) is not None
    except RuntimeError:
        return False


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target | None = None) -> list[Any]:
    """The launches that compute `call` into `out`, on the target that the tensors are on; nothing is run.

    Kernels take the strides of images and matrices, expanded ones included. Of vectors (bias, batch norm's numbers) they expect
    adjacent elements, and get a copy where they are not: a few kilobytes.
    """
    target = current(out, call.backend) if target is None else target
    operands = {
        name: x.contiguous() if name.rpartition(".")[2] in VECTORS and x.dim() == 1 else x
        for name, x in tensors.items()
    }
    return launcher(call.backend, room_of(call))(Problem.of(call, operands, out, target))


def run(call: Call, tensors: dict[str, Tensor], out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `call` by its backend: on the tensors' GPU, or on a CPU in the interpreter (triton) or the host build (cuda).

    Raises ShapeError for more pixels than 32 bits count.
    """
    require_countable(call)
    first = next(iter(tensors.values()))
    result = allocate_result(call.spec, first) if out is None else out
    y = result
    if not viewable(call.op, result):
        order = torch.channels_last if call.op == "block" else torch.contiguous_format
        y = torch.empty(result.shape, dtype=result.dtype, device=result.device, memory_format=order)
    extra = allocate_extra(call, first)
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
