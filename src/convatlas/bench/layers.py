"""What is timed: the distinct layers of nets, at a batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch

from convatlas import nets
from convatlas.specs import Epilogue
from convatlas.study.tracing import Layer, trace


@dataclass
class Timed:
    """One layer, and where it occurs.

    Attributes:
        layer: op, spec, epilogue.
        places: how many times each net runs it.
    """

    layer: Layer
    places: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Readable and unique among layers of one batch size and dtype."""
        return " ".join([self.layer.op, str(self.layer.spec), fused(self.layer.epilogue)]).strip()


def fused(epilogue: Epilogue | None) -> str:
    """An epilogue as a name has it: "bias+residual+relu"; "" for none."""
    if epilogue is None:
        return ""
    parts = ["bias"] * epilogue.bias + ["residual"] * epilogue.residual + [epilogue.activation or ""]
    return "+".join(part for part in parts if part)


@cache
def layers_of(name: str, batch: int) -> tuple[Layer, ...]:
    """The layers of net `name` at its native size, as a half-precision net runs them."""
    size = nets.info(name).size
    with torch.device("meta"):
        return tuple(trace(nets.create(name), (batch, 3, size, size), torch.float16))


def distinct(names: Sequence[str], batch: int) -> list[Timed]:
    """The distinct layers of the nets, in the order in which they are first met."""
    found: dict[tuple, Timed] = {}
    for name in names:
        for layer in layers_of(name, batch):
            timed = found.setdefault(layer.key, Timed(layer))
            timed.places[name] = timed.places.get(name, 0) + 1
    return list(found.values())
