"""What a net's trace consists of: a layer, and a layer with where its inputs come from. No torch is needed to hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from convatlas.call import Call
from convatlas.specs import Epilogue, Spec

IMAGE = -1
OURS, TORCHS = "convatlas", "torch"


@dataclass(frozen=True)
class Layer:
    """One op that a net runs.

    Attributes:
        path: of the module that runs it, such as "layer1.0.conv1"; "" for an op of the net's own forward.
        call: what it is; for an op that we do not have, under torch's name.
        run_by: "convatlas" for an op of ours, "torch" for one that the net left to torch.
    """

    path: str
    call: Call
    run_by: str = OURS

    @property
    def op(self) -> str:
        return self.call.op

    @property
    def spec(self) -> Spec:
        return self.call.spec

    @property
    def epilogue(self) -> Epilogue | None:
        return self.call.epilogue

    @property
    def params(self) -> dict[str, Any]:
        return self.call.params

    @property
    def key(self) -> tuple:
        """Equal for layers that do the same work on other data: all of a layer but its path and who runs it."""
        return self.op, self.spec, self.epilogue, tuple(sorted(self.params.items()))

    def of(self, spec: Spec) -> Layer:
        """The same layer in other sizes."""
        return replace(self, call=replace(self.call, spec=spec))


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
        op: torch's name, such as "tanh".
        output_shape: shape of its first result.
    """

    path: str
    op: str
    output_shape: tuple[int, ...]


def by_name(uncounted: Iterable[Uncounted]) -> str:
    """ "tanh (16), mul (8)": names of what was not counted and how often each ran, the most frequent first."""
    return ", ".join(f"{name} ({n})" for name, n in Counter(one.op for one in uncounted).most_common())
