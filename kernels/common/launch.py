"""Launch: one kernel launch as a value, to be run, or to be compiled for a GPU that is not here."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops.backends import interpreting
from convatlas.ops.layout import allocate
from convatlas.ops.observe import Call
from convatlas.specs.arguments import LARGEST

# Triton's interpreter keeps the program that it runs in global variables, so one launch at a time runs in it. A process is forked
# between two of them: its copy of the lock would stay locked for ever.
_interpreter = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_interpreter.acquire, after_in_parent=_interpreter.release, after_in_child=_interpreter.release
    )

# Operands that kernels read as vectors of adjacent elements.
VECTORS = ("bias", "weight", "running_mean", "running_var")


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid and its arguments.

    Attributes:
        kernel: the @triton.jit function.
        grid: programs along each axis.
        arguments: what is known at run time only: tensors, integers, floats; None for an operand that is absent.
        constants: the tl.constexpr parameters.
        num_warps: warps of 32 threads a program.
        num_stages: depth of the software pipeline of its innermost loop.
        max_registers: a thread's, told to ptxas; None leaves the number to it.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    max_registers: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """Triton's launch options."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return options if self.max_registers is None else {**options, "maxnreg": self.max_registers}

    def run(self) -> None:
        """Launches on the current stream of the tensors' device, or interprets, a thread at a time; nothing for an empty grid."""
        if prod(self.grid) == 0:
            return
        device = next(a.device for a in self.arguments.values() if isinstance(a, Tensor))
        on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with on_device, _interpreter if interpreting() else nullcontext():
            self.kernel[self.grid](**self.arguments, **self.constants, **self.options)


def cdiv(a: int, b: int) -> int:
    """Ceiling of a / b."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def is_wide(*tensors: Tensor | None) -> bool:
    """Whether an element offset into any of the tensors passes 2^31, so that kernels must count in 64 bits."""
    return any(
        x is not None and sum((n - 1) * abs(s) for n, s in zip(x.shape, x.stride()) if n) >= 2**31 for x in tensors
    )


def require_countable(call: Call) -> None:
    """Raises ShapeError where 32 bits cannot count the output's pixels (or rows), as kernels do; offsets in memory are wider."""
    spec = call.spec
    if hasattr(spec, "Q"):
        names, sizes = "N*P*Q", (spec.N, spec.P, spec.Q)
    elif call.op == "linear":
        names, sizes = "rows", spec.lead
    elif call.op in ("batch_norm", "local_response_norm"):
        names, sizes = "N*H*W", (spec.shape[0], *spec.shape[2:])
    else:
        return
    if prod(sizes) > LARGEST:
        raise ShapeError(
            f"{call.op}: {names} = {'*'.join(map(str, sizes))} = {prod(sizes)} output pixels, expected at most {LARGEST}: "
            "split the batch"
        )


def strides(prefix: str, x: Tensor | None, axes: str) -> dict[str, int]:
    """A 4-D NCHW tensor's element strides as kernel arguments, prefix_n, prefix_c, ... for the letters in `axes`."""
    values = (0, 0, 0, 0) if x is None else x.stride()
    named = dict(zip("nchw", values))
    return {f"{prefix}_{axis}": named[axis] for axis in axes}


def channels_adjacent(x: Tensor) -> Tensor:
    """x itself when its channels are adjacent in memory, else a channels_last copy: dense kernels read channel vectors.

    The copy reads and writes the input once; a dense kernel without it would gather every element R*S*K/BN times from
    addresses that lie H*W elements apart.
    """
    if x.shape[1] == 1 or x.stride(1) == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def merge(shape: tuple, order_by: tuple, *strides: tuple) -> tuple[list[int], list[list[int]]]:
    """The dimensions of an element-wise loop: those of one element dropped, the rest ordered by the strides `order_by`, outermost
    first, and neighbours merged that are one run in every operand. Returns the sizes and, per operand, the strides.
    """
    dims = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: -order_by[d])
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for d in dims:
        if sizes and all(run[-1] == s[d] * shape[d] for run, s in zip(merged, strides)):
            sizes[-1] *= shape[d]
            for run, s in zip(merged, strides):
                run[-1] = s[d]
        else:
            sizes.append(shape[d])
            for run, s in zip(merged, strides):
                run.append(s[d])
    return sizes, merged


def as_image(x: Tensor) -> Tensor:
    """(N, C, ...) seen as (N, C, H, W): absent dimensions are 1, further ones folded into W (copied if need be)."""
    while x.dim() < 4:
        x = x.unsqueeze(-1)
    return x if x.dim() == 4 else x.flatten(3)


def _four_runs(out: Tensor) -> Tensor | None:
    return out if out.dim() <= 4 or out.is_contiguous() else None


# These see `out` reshaped, or as at most four runs, which strides can forbid: such an out gets a copy of a contiguous result.
RESHAPED = {
    **dict.fromkeys(("residual_add", "relu", "relu6", "concat"), _four_runs),
    "linear": lambda out: out.view(-1, out.shape[-1]),
    "softmax": lambda out: out.view(-1) if out.is_contiguous() else None,
    "batch_norm": lambda out: out if out.dim() <= 4 else out.view(*out.shape[:3], -1),
    "local_response_norm": lambda out: out if out.dim() <= 4 else out.view(*out.shape[:3], -1),
}


def viewable(op: str, out: Tensor) -> bool:
    """Whether the op's launcher can see `out` as it needs to; where it cannot, the result is computed elsewhere and copied."""
    if op not in RESHAPED or not out.numel():
        return True
    try:
        return RESHAPED[op](out) is not None
    except RuntimeError:
        return False


def execute(
    call: Call, tensors: dict[str, Tensor], out: Tensor | None, launchers: dict[str, Callable], target: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs the launches of `call` on operands of any strides, expanded ones included; returns its result, in `out` if given.

    Kernels take the strides of images and matrices. Of vectors (bias, batch norm's numbers) they expect adjacent elements, and get
    a copy where they are not: a few kilobytes.
    """
    require_countable(call)
    first = next(iter(tensors.values()))
    tensors = {name: x.contiguous() if name in VECTORS and x.dim() == 1 else x for name, x in tensors.items()}
    result = allocate(call.spec.output_shape, first) if out is None else out
    y = result if viewable(call.op, result) else torch.empty(result.shape, dtype=result.dtype, device=result.device)
    extra = ()
    if call.params.get("return_indices"):
        extra = (allocate(call.spec.output_shape, first, torch.int64),)
    for launch in launchers[call.op](call, tensors, y, target, *extra):
        launch.run()
    if y is not result:
        result.copy_(y)
    return (result, *extra) if extra else result
