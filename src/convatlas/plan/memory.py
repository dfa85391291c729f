"""One arena for all buffers: those that are never alive at once share memory.

A buffer lives from the first step that writes a part of it to the last that reads one. Buffers are placed by size, the largest
first, each at the lowest address where it meets no placed one that lives at the same time (Pisarchyk and Lee 2020, "Efficient
Memory Management for Deep Neural Net Inference", greedy by size).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from convatlas.plan.places import Place
from convatlas.plan.steps import Graph, Ref

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
        activations: bytes of all buffers together, as if none shared memory.
    """

    buffers: dict[str, Buffer]
    bytes: int
    activations: int


def arena(graph: Graph, places: dict[str, Place]) -> Arena:
    """Where every buffer lies."""
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
    sizes = {}
    for name in first:
        value = graph.values[name]
        sizes[name] = -(-max(prod(value.shape) * value.dtype.itemsize, 1) // ALIGNMENT) * ALIGNMENT
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
    return Arena({b.name: b for b in done}, total, sum(sizes.values()))
