"""Where values lie: in buffers of their own, in slices of another's (a concatenation that copies nothing), or as views.

Values with four dimensions are channels_last, the kernels' fast path, all others contiguous. One that is only read as a long row
(flatten before a linear layer) is written contiguous at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from convatlas.plan.steps import COPY, OURS, TORCH, VIEW, Graph, Ref, Step, Weight, mapped


@dataclass(frozen=True)
class Place:
    """Where a value lies.

    Attributes:
        buffer: the name of the value that the memory is named after.
        start: elements before the first one.
        strides: elements, along each dimension.
    """

    buffer: str
    start: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """`size` of another value along `dim`, from `start` on."""

    of: str
    dim: int
    start: int
    size: int


def strides_of(shape: tuple[int, ...], contiguous: bool = False) -> tuple[int, ...]:
    """The strides of a value in a buffer of its own."""
    form = torch.channels_last if len(shape) == 4 and not contiguous else torch.contiguous_format
    return torch.empty(shape, device="meta", memory_format=form).stride()


def joined_in_place(graph: Graph) -> dict[str, Slice]:
    """Takes concatenations out of the graph: their operands are written where the result lies. Returns who is a slice of whom.

    The last concatenation comes first. One whose operands all lie side by side already, as each of DenseNet's in the next one's, is
    a slice itself. An operand that has to lie elsewhere, or that is no value of its own, is copied: a step that remains.
    """
    slices: dict[str, Slice] = {}
    producers = graph.producers
    fixed = set(graph.inputs)
    copies: dict[int, list[Step]] = {}
    for at in range(len(graph.steps) - 1, -1, -1):
        step = graph.steps[at]
        if step.op != "concat" or step.kind != OURS:
            continue
        dim, result = step.call.spec.dim, step.output
        operands = list(step.operands.values())
        side = _side_by_side(operands, slices, dim)
        if side is not None and result not in slices:
            slices[result] = replace(side, size=step.call.spec.output_shape[dim])
            copies[at] = []
            continue
        copies[at], start, taken = [], 0, set()
        for x, shape in zip(operands, step.call.spec.shapes):
            own = isinstance(x, Ref) and x.name not in slices and x.name not in fixed and x.name not in taken
            if own and graph.steps[producers[x.name]].kind in (OURS, TORCH) and _writes(graph.steps[producers[x.name]]):
                slices[x.name] = Slice(result, dim, start, shape[dim])
                taken.add(x.name)
            else:
                part = f"{result}.part{start}"
                graph.values[part] = replace(graph.values[result], name=part, shape=tuple(shape))
                slices[part] = Slice(result, dim, start, shape[dim])
                copies[at].append(Step(step.path, (part,), args=(x,), kind=COPY))
            start += shape[dim]
    graph.steps = [s for i, step in enumerate(graph.steps) for s in copies.get(i, [step])]
    return slices


def _side_by_side(operands: list[Any], slices: dict[str, Slice], dim: int) -> Slice | None:
    """Where the operands together lie, if they are neighbours in one value already."""
    found = [slices.get(x.name) if isinstance(x, Ref) else None for x in operands]
    if any(s is None or s.of != found[0].of or s.dim != dim for s in found if found[0] is not None) or found[0] is None:
        return None
    if any(b.start != a.start + a.size for a, b in pairwise(found)):
        return None
    return found[0]


def _writes(step: Step) -> bool:
    """Whether the step writes where it is told to."""
    return step.kind == OURS or (len(step.outputs) == 1 and out_form(step.target) is not None)


def out_form(target: Any) -> Any:
    """The overload of PyTorch's op that writes into a given tensor, or None."""
    packet = getattr(target, "overloadpacket", None)
    wanted = [(a.name, str(a.type)) for a in target._schema.arguments] if packet is not None else None
    for name in packet.overloads() if wanted is not None and len(target._schema.returns) == 1 else ():
        other = getattr(packet, name)
        *given, last = other._schema.arguments or [None]
        if last is not None and last.is_out and [(a.name, str(a.type)) for a in given] == wanted:
            return other
    return None


def placed(graph: Graph) -> dict[str, Place]:
    """Every value's place. Takes views out of the graph, and puts a copy where memory has no view of the wanted shape."""
    slices = joined_in_place(graph)
    places: dict[str, Place] = {}
    whole = {s.of for s in slices.values()}
    rows = _rows(graph, slices, whole)

    def place(name: str) -> Place:
        if name not in places:
            if name in slices:
                s = slices[name]
                base = place(s.of)
                start = base.start + s.start * base.strides[s.dim]
                places[name] = Place(base.buffer, start, base.strides)
            else:
                places[name] = Place(name, 0, strides_of(graph.values[name].shape, name in rows))
        return places[name]

    steps = []
    for step in graph.steps:
        if step.kind == VIEW and (seen := _view(step, graph, place)) is not None:
            places[step.output] = seen
        elif step.kind == VIEW:
            steps.append(replace(step, kind=COPY))
            place(step.output)
        else:
            for name in step.outputs:
                place(name)
            steps.append(step)
    for name in (*graph.inputs, *slices):
        place(name)
    graph.steps = steps
    return places


def _rows(graph: Graph, slices: dict[str, Slice], whole: set[str]) -> set[str]:
    """Values of our steps that nothing reads but views for which channels_last memory has none."""
    readers: dict[str, list[Step]] = {}
    for step in graph.steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    returned = {out.name for out in graph.outputs if isinstance(out, Ref)}
    found = set()
    for step in graph.steps:
        for name in step.outputs if step.kind == OURS else ():
            own = name not in slices and name not in whole and name not in returned
            read = readers.get(name, [])
            if own and read and all(reader.kind == VIEW for reader in read):
                at = Place(name, 0, strides_of(graph.values[name].shape))
                if any(_view(reader, graph, lambda _, at=at: at) is None for reader in read):
                    found.add(name)
    return found


def seen(value: Any, place: Place) -> Tensor:
    """A meta tensor that lies as the value does."""
    end = place.start + 1 + sum((n - 1) * s for n, s in zip(value.shape, place.strides)) if prod(value.shape) else 0
    return torch.empty(end, dtype=value.dtype, device="meta").as_strided(value.shape, place.strides, place.start)


def _view(step: Step, graph: Graph, place: Callable[[str], Place]) -> Place | None:
    """Where the view's result lies, or None where there is no such view of its operand's memory."""
    base = place(step.inputs[0])
    memory = seen(graph.values[step.inputs[0]], base)

    def given(x: Any) -> Any:
        if isinstance(x, Weight):
            return torch.empty(x.shape, dtype=x.dtype, device="meta")
        return memory if isinstance(x, Ref) else x

    try:
        result = step.target(*mapped(step.args, given), **mapped(step.keywords, given))
    except RuntimeError:
        return None
    result = result if step.index is None else result[step.index]
    if result.untyped_storage()._cdata != memory.untyped_storage()._cdata:
        return None
    return Place(base.buffer, result.storage_offset(), tuple(result.stride()))
