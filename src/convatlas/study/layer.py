"""What a net's trace consists of: a layer, and a layer with where its inputs come from. No torch is needed to hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from convatlas.specs import Epilogue, Spec

IMAGE = -1
OURS, TORCHS = "convatlas", "torch"


@dataclass(frozen=True)
class Layer:
    """One op that a net runs.

    Attributes:
        path: path of the module that runs it, such as "layer1.0.conv1"; "" for an op of the net's own forward.
        op: its public name, such as "conv2d"; torch's name for an op that we do not have.
        spec: shapes and shape arithmetic.
        epilogue: what is fused behind it, or None for an op that has no epilogue.
        params: parameters that are no part of a shape (eps, alpha, beta, k, dim).
        run_by: "convatlas" for an op of ours, "torch" for one that the net left to torch.
    """

    path: str
    op: str
    spec: Spec
    epilogue: Epilogue | None = None
    params: dict[str, Any] = field(default_factory=dict)
    run_by: str = OURS

    @property
    def key(self) -> tuple:
        """A key that is equal for layers that do the same work on other data: all of a layer but its path and who runs it."""
        return self.op, self.spec, self.epilogue, tuple(sorted(self.params.items()))


@dataclass(frozen=True)
class Node:
    """One op, wired.

    Attributes:
        layer: as study.trace lists it.
        sources: for each tensor operand that depends on the image, the nodes it comes from, by their place in the list. IMAGE is
            the net's input. One operand may have several sources, since a concatenation written in place is one buffer.
        weights: names of the net's parameters and buffers that went into it, those of a folded batch norm included.
    """

    layer: Layer
    sources: tuple[tuple[int, ...], ...]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Uncounted:
    """One op of torch that a net ran and that is in none of our numbers, since no spec describes it.

    Attributes:
        path: as Layer's.
        op: torch's name, such as "silu".
        output_shape: shape of its first result.
    """

    path: str
    op: str
    output_shape: tuple[int, ...]


def by_name(uncounted: Iterable[Uncounted]) -> str:
    """ "silu (16), mul (8)": names of what was not counted and how often each ran, the most frequent first."""
    return ", ".join(f"{name} ({n})" for name, n in Counter(one.op for one in uncounted).most_common())
