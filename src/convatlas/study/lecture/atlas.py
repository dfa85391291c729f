"""Where claims get their numbers: summaries of networks, each computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convatlas.study import stored
from convatlas.study.summary import Row, Summary, summarise, summarise_net

if TYPE_CHECKING:
    from torch import nn


class Atlas:
    """Summaries by network and options.

    Attributes:
        summaries: the summaries known so far: at first what the caller gives, such as study.stored.load(), or none. All others are
            computed when they are asked for.
    """

    def __init__(self, summaries: Mapping[stored.Key, Summary] | None = None) -> None:
        self.summaries = dict(summaries or {})

    def summary(
        self, name: str, *, batch: int = 1, dtype: str = "float16", train: bool = False, **options: Any
    ) -> Summary:
        """study.summarise at the net's own size, computed once."""
        key = stored.Key(name, batch, dtype, train, tuple(sorted(options.items())))
        if key not in self.summaries:
            self.summaries[key] = summarise(name, None, batch, dtype, train=train, **options)
        return self.summaries[key]

    def block(self, name: str, net: nn.Module, input_shape: tuple[int, ...]) -> Summary:
        """study.summarise_net of a part of a network, in float16, computed once; `name` identifies the part."""
        key = stored.Key(name)
        if key not in self.summaries:
            self.summaries[key] = summarise_net(net, input_shape, key.dtype, name)
        return self.summaries[key]

    def rows(self, name: str, kind: str = "", **how: Any) -> list[Row]:
        """The weighted rows of a net, of one kind or of all."""
        return [r for r in self.summary(name, **how).rows if r.weighted and (not kind or r.kind == kind)]


def total(rows: Sequence[Row], of: str) -> int:
    """The sum of one number over rows."""
    return sum(getattr(row, of) for row in rows)


def intensity(rows: Sequence[Row]) -> float:
    """FLOPs a compulsory byte of several rows together."""
    return total(rows, "flops") / max(total(rows, "bytes"), 1)
