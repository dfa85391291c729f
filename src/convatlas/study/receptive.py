"""Receptive fields: which pixels of the image an activation can depend on, from how a net's ops are wired.

    start' = start - pad * jump        size' = size + (reach - 1) * jump        jump' = jump * stride

for a window of `reach` = dilation * (kernel - 1) + 1 pixels (Araujo, Norris, Sim 2019, "Computing Receptive Fields of
Convolutional Neural Networks", distill.pub, section 2). Where paths meet, in a residual addition or a concatenation, the field is
the smallest interval that holds the field of every path; where all paths are centred on one pixel, that is the largest field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convatlas.specs import AdaptivePool2dSpec, Conv2dSpec, ConvTranspose2dSpec, LinearSpec, Pool2dSpec, Spec
from convatlas.study.layer import IMAGE, Node


@dataclass(frozen=True)
class Field:
    """Along one axis, output p depends on pixels start + p * jump to start + p * jump + size - 1 at most.

    Attributes:
        size: pixels, those outside the image included.
        jump: pixels from one output's field to the next's; an average where an adaptive pooling's windows differ.
        start: first pixel of output 0's field; negative where that pixel lies in the padding.
    """

    size: int = 1
    jump: float = 1
    start: int = 0

    def through(self, reach: int, stride: float, pad: int) -> Field:
        """The field behind a window of `reach` inputs that moves by `stride`, its first one `pad` inputs before the first."""
        return Field(self.size + (reach - 1) * self.jump, self.jump * stride, self.start - pad * self.jump)

    def __or__(self, other: Field) -> Field:
        """The smallest field that holds both."""
        start = min(self.start, other.start)
        stop = max(self.start + self.size, other.start + other.size)
        return Field(stop - start, max(self.jump, other.jump), start)


Fields = tuple[Field, Field]


def fields(nodes: Sequence[Node]) -> list[Fields]:
    """(along H, along W) for the output of each of `nodes`, which study.wired lists."""
    found: list[Fields] = []
    for node in nodes:
        source = {i for operand in node.sources for i in operand}
        met = [found[i] if i != IMAGE else (Field(), Field()) for i in sorted(source)] or [(Field(), Field())]
        before = tuple(_hull([f[axis] for f in met]) for axis in (0, 1))
        shape = next((nodes[i].layer.spec.output_shape for i in source if i != IMAGE), ())
        found.append(tuple(_step(node.layer.spec, shape, before[axis], axis) for axis in (0, 1)))
    return found


def _hull(met: list[Field]) -> Field:
    field = met[0]
    for other in met[1:]:
        field |= other
    return field


def _step(spec: Spec, shape: tuple[int, ...], field: Field, axis: int) -> Field:
    """The field behind one op whose input has `shape`; ops that work element by element, or along channels, leave it as it is."""
    if isinstance(spec, Conv2dSpec):
        return field.through(spec.reach[axis], spec.stride[axis], spec.padding[axis][0])
    if isinstance(spec, ConvTranspose2dSpec):
        u, d, t = spec.stride[axis], spec.dilation[axis], spec.padding[axis]
        reach = d * ((spec.R, spec.S)[axis] - 1)
        first, last = -((reach - t) // u), (u - 1 + t) // u  # input rows that the outputs 0 to u - 1 meet
        return field.through(last - first + 1, 1 / u if u > 1 else 1, -first)
    if isinstance(spec, Pool2dSpec):
        reach = spec.dilation[axis] * ((spec.R, spec.S)[axis] - 1) + 1
        return field.through(reach, spec.stride[axis], spec.padding[axis])
    if isinstance(spec, AdaptivePool2dSpec):
        size, out = ((spec.H, spec.P), (spec.W, spec.Q))[axis]
        largest = max(stop - start for start, stop in (spec.window(axis, i) for i in range(out)))
        return field.through(largest, size / out if size % out else size // out, 0)
    if isinstance(spec, LinearSpec) and len(shape) == 4:  # a flattened map: every position of it
        return field.through(shape[2 + axis], shape[2 + axis], 0)
    return field
