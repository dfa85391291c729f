"""One arena for all buffers: those that are never alive at once share memory.

A result may take the memory of an operand that is read for the last time, where each of its elements depends on the
element in the same place only: a residual, the input of a batch norm. A buffer lives from the first step that writes a
part of it to the last that reads one. Buffers are placed by size, the largest first, each at the lowest address where it
meets no placed one that lives at the same time (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net
Inference", greedy by size).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from convatlas.ops.library import BY_NAME
from convatlas.plan.places import Place
from convatlas.plan.steps import OURS, Graph, Ref

ALIGNMENT = 256  # bytes; what the caching allocator gives as well


@dataclass(frozen=True)
class Buffer:
    """A piece of the arena.

    Attributes:
        name: of the value that it was made for.
        bytes: its size.
        first, last: places of the first step that writes it and the last that reads it; -1 is before all steps.
        offset: bytes from the arena's beginning.
    """

    name: str
    bytes: int
    first: int
    last: int
    offset: int = 0


@dataclass(frozen=True)
class Arena:
    """All buffers.

    Attributes:
        buffers: by name.
        bytes: of the arena: the peak of what is alive at once, and what lies unused between.
        activations: bytes of all values' buffers together, as if none shared memory.
        workspaces: bytes of the largest workspace of a step, which lives in that step only.
    """

    buffers: dict[str, Buffer]
    bytes: int
    activations: int
    workspaces: int = 0


Lives = tuple[dict[str, int], dict[str, int]]


def lives(graph: Graph, places: dict[str, Place]) -> Lives:
    """The first and the last step of every buffer, by name."""
    first: dict[str, int] = dict.fromkeys((places[name].buffer for name in graph.inputs), -1)
    last: dict[str, int] = dict(first)
    for i, step in enumerate(graph.steps):
        for name in (*step.outputs, *step.inputs):
            buffer = places[name].buffer
            first.setdefault(buffer, i)
            last[buffer] = i
    for out in graph.outputs:
        if isinstance(out, Ref):
            last[places[out.name].buffer] = len(graph.steps)
    return first, last


def written_over(graph: Graph, places: dict[str, Place]) -> None:
    """Lets a result take the memory of an operand that is read element for element, and by nobody afterwards."""
    first, last = lives(graph, places)
    for i, step in enumerate(graph.steps):
        if step.kind != OURS or not whole(graph, places, step.output) or first[places[step.output].buffer] != i:
            continue
        overwritten = BY_NAME[step.call.op].overwritten if step.call.op in BY_NAME else ()
        for name, x in step.operands.items():
            if not isinstance(x, Ref) or name not in overwritten or step.inputs.count(x.name) > 1:
                continue
            old, new = places[x.name].buffer, places[step.output].buffer
            if (
                whole(graph, places, x.name)
                and last[old] == i
                and old != new
                and _alike(graph, places, x.name, step.output)
            ):
                for value, place in places.items():
                    if place.buffer == new:
                        places[value] = replace(place, buffer=old)
                last[old] = last.pop(new)
                break


def whole(graph: Graph, places: dict[str, Place], name: str) -> bool:
    """Whether the value fills its buffer."""
    buffer = graph.values[places[name].buffer]
    return prod(buffer.shape) == prod(graph.values[name].shape)


def _alike(graph: Graph, places: dict[str, Place], a: str, b: str) -> bool:
    x, y = graph.values[a], graph.values[b]
    return (x.shape, x.dtype, places[a].strides) == (y.shape, y.dtype, places[b].strides)


def workspace_of(step: int) -> str:
    """The name of the buffer that is the workspace of step number `step`."""
    return f"workspace of step {step}"


def arena(graph: Graph, places: dict[str, Place], workspaces: Mapping[int, int] | None = None) -> Arena:
    """Where every buffer lies, and the workspaces of steps: bytes by the step's number."""
    first, last = lives(graph, places)
    sizes = {}
    for name in first:
        value = graph.values[name]
        sizes[name] = -(-max(prod(value.shape) * value.dtype.itemsize, 1) // ALIGNMENT) * ALIGNMENT
    activations = sum(sizes.values())
    workspaces = workspaces or {}
    for i, size in workspaces.items():
        name = workspace_of(i)
        sizes[name], first[name], last[name] = size, i, i
    done: list[Buffer] = []
    for name in sorted(sizes, key=lambda name: (-sizes[name], first[name], name)):
        low, high = first[name], last[name]
        offset = 0
        for other in sorted((b for b in done if b.first <= high and low <= b.last), key=lambda b: b.offset):
            if offset + sizes[name] <= other.offset:
                break
            offset = max(offset, other.offset + other.bytes)
        done.append(Buffer(name, sizes[name], low, high, offset))
    total = max((b.offset + b.bytes for b in done), default=0)
    return Arena({b.name: b for b in done}, total, activations, max(workspaces.values(), default=0))
