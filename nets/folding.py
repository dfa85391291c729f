"""Batch normalisation folded into the convolution before it, and the cache that keeps the folded weights.

With s = g / sqrt(var + eps), one number a channel:

    w' = w * s          b' = beta + (b - mean) * s

so that conv(x, w') + b' is the batch norm, at inference, of conv(x, w) + b (Ioffe, Szegedy 2015, section 3.1).
"""

from __future__ import annotations

from operator import attrgetter, is_
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convatlas.errors import ShapeError
from convatlas.layout import taps_first

Folded = tuple[Tensor, Tensor]


def fold(weight: Tensor, bias: Tensor | None, bn: nn.Module) -> Folded:
    """(w', b') in the weight's dtype, computed in float32, or in float64 for float64 weights.

    A depthwise w' (one input channel a filter) lies in memory as its kernel reads it (layout.taps_first).

    Raises ShapeError where bn does not have one channel for each output channel of the weight.
    """
    mean, var = bn.running_mean, bn.running_var
    if mean.shape != weight.shape[:1]:
        raise ShapeError(
            f"batch norm of {tuple(mean.shape)} behind a convolution whose weight is {tuple(weight.shape)}, "
            f"expected ({weight.shape[0]},), one number per output channel"
        )
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    scale = 1.0 / torch.sqrt(var.to(wide) + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.to(wide)
    shift = -mean.to(wide) if bias is None else bias.to(wide) - mean.to(wide)
    shift = shift * scale
    if bn.bias is not None:
        shift = shift + bn.bias.to(wide)
    folded = (weight.to(wide) * scale[:, None, None, None]).to(weight.dtype)
    if weight.shape[1] == 1:
        folded = taps_first(folded)
    return folded, shift.to(weight.dtype)


class FoldCache:
    """The last folded weights of one convolution, used again until a tensor they came from changes.

    A tensor has changed if its object, version or memory is another, or the weight's dtype. PyTorch counts no version for a write
    through `.data`, so the convolution also drops the cache in train(), in eval(), and whenever it is moved or cast.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def __reduce__(self) -> tuple[type[FoldCache], tuple]:
        """A copy of a module, or one that is unpickled, computes its own."""
        return FoldCache, ()

    def get(self, conv: nn.Module, bn: nn.Module) -> Folded:
        """fold(conv.weight, conv.bias, bn), from the cache where nothing changed."""
        weight, bias, *_ = sources = _sources(conv, bn)
        if torch.compiler.is_compiling() or (
            torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in sources)
        ):
            return fold(weight, bias, bn)
        entry = self._entry  # read once and replaced whole: threads may share a module
        if (  # loops of C, for it runs for each layer of each forward
            entry is not None
            and entry.eps == bn.eps
            and all(map(is_, sources, entry.sources))
            and [*map(_version, entry.tensors)] == entry.versions
            and [*map(Tensor.data_ptr, entry.tensors)] == entry.addresses
            and weight.dtype is entry.folded[0].dtype
        ):
            return entry.folded
        if not _cacheable(sources):
            return fold(weight, bias, bn)
        tensors = [x for x in sources if x is not None]
        versions, addresses = [*map(_version, tensors)], [*map(Tensor.data_ptr, tensors)]
        with torch.no_grad():
            folded = fold(weight, bias, bn)
        self._entry = _Entry(bn.eps, sources, tensors, versions, addresses, folded)
        return folded

    def clear(self) -> None:
        """Forgets the folded weights, and frees them."""
        self._entry = None


class _Entry(NamedTuple):
    """Folded weights, and what they came from: eps, and of each tensor itself, its version and its address."""

    eps: float
    sources: tuple[Tensor | None, ...]
    tensors: list[Tensor]
    versions: list[int]
    addresses: list[int]
    folded: Folded


_version = attrgetter("_version")


def _sources(conv: nn.Module, bn: nn.Module) -> tuple[Tensor | None, ...]:
    """What the folded weights come from: without nn.Module's look-up of an attribute where the tensors are the modules' own."""
    own, norm, statistics = conv._parameters, bn._parameters, bn._buffers
    try:
        mean, var = statistics["running_mean"], statistics["running_var"]
        return own["weight"], own["bias"], mean, var, norm["weight"], norm["bias"]
    except KeyError:  # parametrized, or replaced by a plain tensor
        return conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.weight, bn.bias


def _cacheable(sources: tuple[Tensor | None, ...]) -> bool:
    """Not for tensors that count no versions or hold no data."""
    given = [t for t in sources if t is not None]
    return all(type(t) in (Tensor, nn.Parameter) and not t.is_meta and not t.is_inference() for t in given)
