"""The arguments of Triton kernels, grouped by meaning: tensors with their strides, windows, tiles. A kernel reads `x.ptr`,
`window.R`.

Triton carries named tuples from a launch into a kernel, and from there into the functions that the kernel calls, interpreted and
compiled (tried on 3.6 and 3.8). It always specialises on the elements of a tuple. So a size on which it must not specialise
stays an argument of its own. So does a tensor descriptor, since Triton 3.6 does not look for one inside a tuple. No tuple is an
element of another one: Triton 3.6 loses a stride of 1 inside of it.

Upper-case elements are compile-time constants. A launch holds them as plain values (Launch.constants) and hands each to Triton as a
tl.constexpr. A tuple that is one tl.constexpr as a whole cannot be handed on to another function under Triton 3.6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from convatlas.kernels.common.launch import is_wide
from convatlas.kernels.common.problem import Problem
from convatlas.specs import Conv2dSpec
from convatlas.specs.activations import parsed


class Image(NamedTuple):
    """A tensor (N, C, H, W): its first element, and the distance in elements along each axis."""

    ptr: Any
    n: int
    c: int
    h: int
    w: int


class Epilogue(NamedTuple):
    """What is added to an accumulator before the activation: one number a filter, and an image of the output's shape, with its
    strides, so that it has rows as an Image has.
    """

    bias: Any = None
    residual: Any = None
    n: int = 0
    c: int = 0
    h: int = 0
    w: int = 0


class Window(NamedTuple):
    """R x S taps, and where the first of them lies: output (p, q) begins at (p*STRIDE_H - TOP, q*STRIDE_W - LEFT)."""

    R: int
    S: int
    STRIDE_H: int = 1
    STRIDE_W: int = 1
    DILATION_H: int = 1
    DILATION_W: int = 1
    TOP: int = 0
    LEFT: int = 0


class Tile(NamedTuple):
    """BM pixels x BN filters a program, BK products a step, GROUP rows of tiles at a time, SPLIT programs along the reduction."""

    BM: int
    BN: int
    BK: int
    GROUP: int = 8
    SPLIT: int = 1


class Box(NamedTuple):
    """TN x TH x TW output pixels x BN filters a program, BK channels a step, SPLIT programs along the reduction."""

    TN: int
    TH: int
    TW: int
    BN: int
    BK: int
    SPLIT: int = 1


class Block(NamedTuple):
    """BM pixels x BC channels a program of a bandwidth-bound kernel."""

    BM: int
    BC: int


class Mode(NamedTuple):
    """How a program computes: the activation, tl.dot's input precision, 64-bit offsets, whether it is interpreted, and whether it
    may be started before the kernel in front of it has ended (Launch.dependent).
    """

    ACTIVATION: str | None
    PRECISION: str
    WIDE: bool
    INTERPRET: bool
    SLOPE: float = 0.0  # of leaky_relu
    DEPENDENT: bool = False

    def activated(self, activation: str | None) -> Mode:
        """The same with this activation."""
        name, slope = (None, 0.0) if activation is None else parsed(activation)
        return self._replace(ACTIVATION=name, SLOPE=slope)


def image(x: Tensor | None) -> Image:
    """A 4-D tensor as an argument. The strides of an absent tensor are 0 and never read."""
    return Image(None, 0, 0, 0, 0) if x is None else Image(x, *x.stride())


def epilogue(p: Problem) -> Epilogue:
    """What is added to a problem's accumulators."""
    return Epilogue(p.get("bias"), *image(p.get("residual")))


def partials(p: Problem, partial: Tensor | None) -> tuple[Epilogue, Image]:
    """(epilogue, y) of a kernel. With a workspace it is one of a split: it adds nothing and stores its sums in the workspace."""
    return (epilogue(p), image(p.out)) if partial is None else (Epilogue(), image(p.out)._replace(ptr=partial))


def mode(p: Problem, *tensors: Tensor | None, whole: bool = True) -> Mode:
    """How a problem is computed. Offsets go into `tensors`. Without `whole` (a split) the activation is left to the reduction."""
    precision = "tf32" if p.tf32 else "ieee"
    how = Mode(None, precision, is_wide(*tensors), p.target.interpreted)
    return how.activated(p.activation if whole else None)


def window(spec: Conv2dSpec) -> Window:
    """A convolution's window."""
    (top, _), (left, _) = spec.padding
    return Window(spec.R, spec.S, *spec.stride, *spec.dilation, top, left)
