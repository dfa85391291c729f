"""Launch: one kernel launch as a value, to be run, or to be compiled for a GPU that is not here."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops.backends import interpreting
from convatlas.ops.observe import Call

# Triton's interpreter keeps the program that it runs in global variables, so one launch at a time runs in it. A process is forked
# between two of them: its copy of the lock would stay locked for ever.
_interpreter = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_interpreter.acquire, after_in_parent=_interpreter.release, after_in_child=_interpreter.release
    )

# Output pixels that fit 32 bits, with room for the last tile to overhang.
PIXELS = 2**31 - 2**12


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
    """Raises ShapeError where 32 bits cannot count the output's pixels, as every convolution kernel does (offsets are wider)."""
    pixels = call.spec.N * call.spec.P * call.spec.Q
    if pixels > PIXELS:
        raise ShapeError(
            f"{call.op}: N*P*Q = {call.spec.N}*{call.spec.P}*{call.spec.Q} = {pixels} output pixels, expected at most {PIXELS}: "
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


# These see `out` reshaped, which strides can forbid: such an out gets a copy of a contiguous result.
RESHAPED = {
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
