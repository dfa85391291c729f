"""Where a result may go: fresh memory, slices, inputs; and which of it must be refused, decided element by element."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fuzz.cases import LAYOUTS
from fuzz.like_torch import ACTIVATIONS

IN_PLACE = (
    "residual_add",
    "channel_scale",
    *ACTIVATIONS,
    "batch_norm",
)  # ops whose `out` may be an input, element for element
SENTINEL = 77.0


def places(x: Tensor) -> Tensor:
    """The index in x's storage of each of its elements."""
    length = x.untyped_storage().nbytes() // x.element_size()
    return torch.arange(length).as_strided(x.size(), x.stride(), x.storage_offset())


def repeats(x: Tensor) -> bool:
    """Whether two elements of x are one place in memory."""
    return x.numel() > 0 and places(x).unique().numel() < x.numel()


def shares(a: Tensor, b: Tensor) -> bool:
    """Whether a and b have a place in common."""
    if not a.numel() or not b.numel() or a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    return bool(torch.isin(places(a).flatten(), places(b).flatten()).any())


def forbidden(op: str, out: Any, tensors: dict[str, Tensor], like: Tensor | None) -> str | None:
    """Why `out` must be refused; None where it must be accepted. `like` is a result: its shape and dtype."""
    if not isinstance(out, Tensor):
        return "out is no tensor"
    if like is not None and (out.shape != like.shape or out.dtype != like.dtype):
        return "out has another shape or dtype than the result"
    if repeats(out):
        return "out overlaps itself"
    for name, x in tensors.items():
        if shares(out, x):
            in_place = (op in IN_PLACE and name in ("input", "x", "shortcut")) or name == "residual"
            if not in_place or out.shape != x.shape or not torch.equal(places(out), places(x)):
                return f"out overlaps {name}"
    return None


def _like(layout: str) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    def make(result: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return LAYOUTS[layout](torch.full(result.shape, SENTINEL, dtype=result.dtype), random.Random(0))

    return make


def _first(tensors: dict[str, Tensor]) -> str:
    return next(iter(tensors))


def _is(name: str | None) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    """An input itself."""
    return lambda result, tensors: tensors[name if name in tensors else _first(tensors)]


def _expanded_input(result: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The first input itself, made to hold one number at stride 0 along each dimension."""
    name = _first(tensors)
    x = tensors[name]
    tensors[name] = x[tuple(slice(0, 1) for _ in x.shape)].clone().expand(x.shape) if x.numel() else x
    return tensors[name]


def _shifted(result: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The result and the first input in one storage, the result a little further on; the input moves there."""
    name = _first(tensors)
    x = tensors[name]
    buffer = torch.full((max(x.numel(), result.numel()) + 3,), SENTINEL, dtype=x.dtype)
    tensors[name] = buffer[: x.numel()].view(x.shape).copy_(x)
    out = buffer.to(result.dtype) if result.dtype != x.dtype else buffer
    return out[2 : 2 + result.numel()].view(result.shape)


def _beside(last: bool) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    """Other channels of the buffer in which the first input lies (moved there): disjoint, though the slices interleave."""

    def make(result: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        name = _first(tensors)
        x = tensors[name]
        if x.dim() != 4 or result.dim() != 4 or (x.shape[0], *x.shape[2:]) != (result.shape[0], *result.shape[2:]):
            return _like("channel slice")(result, tensors)
        C, K = x.shape[1], result.shape[1]
        form = torch.channels_last if last else torch.contiguous_format
        buffer = torch.full((x.shape[0], C + K + 2, *x.shape[2:]), SENTINEL, dtype=x.dtype).contiguous(
            memory_format=form
        )
        tensors[name] = buffer[:, 1 : 1 + C].copy_(x)
        return buffer[:, 1 + C : 1 + C + K]

    return make


def _windows(result: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Rows that overlap one another, as as_strided makes them."""
    buffer = torch.full((result.numel() + 8,), SENTINEL, dtype=result.dtype)
    stride, step = [], 1
    for n in reversed(result.shape):
        stride.insert(0, step)
        step = max(step * n // 2, 1)
    return buffer.as_strided(result.shape, stride)


# name -> function (result, tensors) -> out. It may move an input within `tensors`.
OUTS: dict[str, Callable[[Tensor, dict[str, Tensor]], Any]] = {
    "fresh": _like("contiguous"),
    "channels_last": _like("channels_last"),
    "channel slice": _like("channel slice"),
    "sliced": _like("sliced"),
    "permuted": _like("permuted"),
    "offset": _like("offset"),
    "expanded": _like("expanded"),
    "windows": _windows,
    "input": _is(None),
    "input, expanded": _expanded_input,
    "residual": _is("residual"),
    "shortcut": _is("shortcut"),
    "weight": _is("weight"),
    "shifted": _shifted,
    "beside, channels_last": _beside(True),
    "beside, contiguous": _beside(False),
    "longer": lambda result, tensors: torch.zeros(*result.shape, 2, dtype=result.dtype),
    "of another dtype": lambda result, tensors: torch.zeros(result.shape, dtype=torch.int64),
    "a list": lambda result, tensors: [1],
}
