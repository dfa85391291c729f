"""What a net's trace consists of: a layer, and a layer with where its inputs come from. No torch is needed to hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convatlas.specs import Epilogue, Spec

IMAGE = -1


@dataclass(frozen=True)
class Layer:
    """One op that a net runs.

    Attributes:
        path: of the module that runs it, such as "layer1.0.conv1"; "" for an op of the net's own forward.
        op: its public name, such as "conv2d".
        spec: shapes and shape arithmetic.
        epilogue: what is fused behind it, or None for an op that has no epilogue.
        params: parameters that are no part of a shape (eps, alpha, beta, k, dim).
    """

    path: str
    op: str
    spec: Spec
    epilogue: Epilogue | None = None
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple:
        """Equal for layers that do the same work on other data: all of a layer but its path."""
        return self.op, self.spec, self.epilogue, tuple(sorted(self.params.items()))


@dataclass(frozen=True)
class Node:
    """One op, wired.

    Attributes:
        layer: as study.trace lists it.
        sources: for each tensor operand that depends on the image, the nodes it comes from, by their place in the list; IMAGE is
            the net's input. One operand may have several: a concatenation written in place is one buffer.
        weights: names of the net's parameters and buffers that went into it, those of a folded batch norm included.
    """

    layer: Layer
    sources: tuple[tuple[int, ...], ...]
    weights: tuple[str, ...]
