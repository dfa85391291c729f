"""Launch: one kernel launch as a value, to be run, or to be compiled for a GPU that is not here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.errors import ShapeError
from convatlas.kernels.common.interpreter import interpreting
from convatlas.specs.arguments import LARGEST

# Triton's interpreter keeps the program that it runs in global variables, so one launch at a time runs in it. A process is forked
# between two of them: its copy of the lock would stay locked for ever.
_interpreter = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_interpreter.acquire, after_in_parent=_interpreter.release, after_in_child=_interpreter.release
    )


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid and its arguments.

    Attributes:
        kernel: the @triton.jit function.
        grid: programs along each axis.
        arguments: what is known at run time only: tensors, integers, floats, and named tuples of them; None for an operand that is
            absent.
        constants: compile-time constants, and named tuples of them.
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
        if self.max_registers is not None:
            options["maxnreg"] = self.max_registers
        # The same constant compiles the wait in: no kernel has the one without the other.
        if self.flat.get("DEPENDENT"):
            options["launch_pdl"] = True
        return options

    @property
    def dependent(self) -> Launch:
        """The same by programmatic dependent launch (Hopper and later): it is set up while the kernel in front of it still runs.

        A kernel without a Mode, which cannot wait, stays as it is.
        """
        mode = self.constants.get("mode")
        if mode is None:
            return self
        return replace(self, constants={**self.constants, "mode": mode._replace(DEPENDENT=True)})

    @property
    def flat(self) -> dict[str, Any]:
        """Constants by name, those within a tuple under the name that they have there."""
        named: dict[str, Any] = {}
        for name, value in self.constants.items():
            named.update(value._asdict() if isinstance(value, tuple) else {name: value})
        return named

    @property
    def residual(self) -> bool:
        """Whether its epilogue adds a residual."""
        epilogue = self.arguments.get("epilogue")
        return epilogue is not None and epilogue.residual is not None

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        values = (v for value in self.arguments.values() for v in leaves(value))
        return [value for value in values if isinstance(value, Tensor)]

    def run(self) -> Any:
        """Launches on the current stream of the tensors' device, or interprets, a thread at a time; nothing for an empty grid.

        Returns the compiled kernel (Triton's CompiledKernel) where a GPU has run it.
        """
        if prod(self.grid) == 0:
            return None
        device = self.tensors[0].device
        on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with on_device, _interpreter if interpreting() else nullcontext():
            constants = {name: fixed(value) for name, value in self.constants.items()}
            return self.kernel[self.grid](**self.arguments, **constants, **self.options)


def leaves(value: Any) -> Iterator[Any]:
    """The elements of nested tuples; anything else is its own only leaf."""
    if isinstance(value, tuple):
        for element in value:
            yield from leaves(element)
    else:
        yield value


def fixed(value: Any) -> Any:
    """A tuple of constants with each marked as one for Triton; a constant by itself is marked by the kernel's signature."""
    return type(value)(*map(_constant(), value)) if isinstance(value, tuple) else value


@cache
def _constant() -> type:
    """Triton's constexpr; in the interpreter, where loops count in Python's integers, one that an int can be divided by."""
    from triton.language import constexpr

    class Constant(constexpr):
        def __rmod__(self, other: int) -> constexpr:
            return constexpr(other % self.value)

    return Constant if interpreting() else constexpr


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
    for part in getattr(spec, "parts", ()):
        require_countable(Call(part.op, part.spec))
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
