"""GradSpec: the shape arithmetic of what a backward pass computes of another op."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from convatlas.errors import ShapeError
from convatlas.specs.common import Shapes, Spec


@dataclass(frozen=True, kw_only=True)
class GradSpec(Spec):
    """A part of the backward pass of `forward`: operands of these shapes in, one result out. It multiplies no matrices.

    Attributes:
        op: its name.
        forward: the spec of the op whose gradient it is.
        shape: the result's.
        given: the operands' names and shapes.
        reduction: L, the most terms that one element of the result sums.
        flops_each: floating-point operations for each element of the largest operand or the result.
        optional: operands that a call may leave out.
        wide: operands that may be float32 where the others are half precision, such as statistics.
        places: operands that are whole numbers.
        sums: the result is kept in float32 although the operands are half precision.
    """

    op: str
    forward: Spec
    shape: tuple[int, ...]
    given: tuple[tuple[str, tuple[int, ...]], ...]
    reduction: int = 1
    flops_each: int = 1
    optional: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    sums: bool = False

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def inputs(self) -> Shapes:
        return dict(self.given)

    @property
    def elements(self) -> dict[str, int]:
        return {**{name: prod(shape) for name, shape in self.given}, "output": prod(self.shape)}

    @property
    def flops(self) -> int:
        return self.flops_each * max(self.elements.values())


def require(op: str, name: str, given: tuple | None, expected: tuple) -> None:
    """Raises ShapeError unless an operand has the expected shape; None is an operand left out."""
    if given is not None and tuple(given) != tuple(expected):
        raise ShapeError(f"{op}: {name} of shape {tuple(given)}, expected {tuple(expected)}")
