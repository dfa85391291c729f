"""Site: a place that calls one op again and again, as a layer does, and so finds the short way (ops/hot.py) without a look-up."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convatlas.ops import hot


class _Last(NamedTuple):
    """What the last call led to, and all that it depended on besides what the entry's guard sees."""

    state: Any
    entry: hot.Entry
    settings: tuple
    parameters: tuple
    absent: tuple[bool, ...]


class Site:
    """Remembers the entry that its last call led to. A call with the same parameters and settings replays it where its guard holds.

    Parameters are the same where they are the same objects, as a module's are. Everything else goes by hot.call, whose rules hold
    here too. It keeps one entry, as long as it lives.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: _Last | None = None

    def __call__(
        self,
        op: Callable[..., Any],
        tensors: tuple[Tensor | None, ...],
        parameters: tuple,
        activation: Any = None,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Any:
        """op(*tensors, *parameters, activation=..., residual=..., out=...), of the keywords those that are not None."""
        if torch.compiler.is_compiling():
            return op(*tensors, *parameters, **_present(activation, residual, out))
        given = (*tensors, residual, out)
        fixed = (op, *parameters, activation)
        last = self.last  # read once and replaced whole: threads may share a site
        if last is not None and last.state is hot.state() and all(map(is_, fixed, last.parameters)):
            result = _replayed(last, given, out)
            if result is not hot.MISS:
                return result
        keywords = _present(activation, residual, out)
        if (ordinary := getattr(op, "ordinary", None)) is None:  # no op of ours, but what stands in the place of one
            return op(*tensors, *parameters, **keywords)

        def found(state: Any, entry: hot.Entry, settings: tuple) -> None:
            self.last = _Last(state, entry, settings, fixed, tuple([x is None for x in given]))

        return hot.call(op.__name__, (*tensors, *parameters), keywords, ordinary, found)


def _present(activation: Any, residual: Tensor | None, out: Tensor | None) -> dict[str, Any]:
    """The keywords of an op that are not None."""
    given = ("activation", activation), ("residual", residual), ("out", out)
    return {name: value for name, value in given if value is not None}


def _replayed(last: _Last, given: tuple[Tensor | None, ...], out: Tensor | None) -> Any:
    """The result by the entry of the last call, or MISS where this call may be another one."""
    if last.absent != tuple([x is None for x in given]) or last.settings != hot.settings(last.parameters[0].__name__):
        return hot.MISS
    there = [x for x in given if x is not None]
    try:
        addresses = [x.data_ptr() for x in there]
        low = 0
        for address in addresses:
            low |= address
        if low & hot.LOW or hot.looked_at() or not last.entry.guard(*there):
            return hot.MISS
    except (RuntimeError, TypeError, AttributeError):  # a wrapper, a tensor without memory, no tensor
        return hot.MISS
    return hot.replayed(last.state, last.entry, None, there if out is None else there[:-1], out, addresses)
