"""Where claims get their numbers: summaries of networks, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from convatlas.study.summary import Row, Summary, summarise, summarise_net


class Atlas:
    """Summaries by network and options."""

    def __init__(self) -> None:
        self._summaries: dict[tuple, Summary] = {}

    def summary(
        self, name: str, *, batch: int = 1, dtype: str = "float16", train: bool = False, **options: Any
    ) -> Summary:
        """study.summarise at the net's own size, computed once."""
        key = name, batch, dtype, train, *sorted(options.items())
        if key not in self._summaries:
            self._summaries[key] = summarise(name, None, batch, dtype, train=train, **options)
        return self._summaries[key]

    def stack(self, layers: Callable[[], Sequence[nn.Module]], input_shape: tuple[int, ...]) -> Summary:
        """A summary, in float16, of the layers that the function builds, one behind the other."""
        with torch.device("meta"):  # neither memory nor random numbers
            net = nn.Sequential(*layers())
        return summarise_net(net, input_shape, "float16")

    def rows(self, name: str, kind: str = "", **how: Any) -> list[Row]:
        """The weighted rows of a net, of one kind or of all."""
        return [r for r in self.summary(name, **how).rows if r.weighted and (not kind or r.kind == kind)]


def total(rows: Sequence[Row], of: str) -> int:
    """The sum of one number over rows."""
    return sum(getattr(row, of) for row in rows)


def intensity(rows: Sequence[Row]) -> float:
    """FLOPs a compulsory byte of several rows together."""
    return total(rows, "flops") / max(total(rows, "bytes"), 1)
