"""Batch normalisation folded into the convolution before it, and the cache that keeps the folded weights.

With s = g / sqrt(var + eps), one number a channel:

    w' = w * s          b' = beta + (b - mean) * s

so that conv(x, w') + b' is the batch norm, at inference, of conv(x, w) + b (Ioffe, Szegedy 2015, section 3.1).
"""

from __future__ import annotations

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

    A tensor has changed if its object, version, memory, dtype or device is another. PyTorch counts no version for a write through
    `.data`, so the convolution also drops the cache in train(), in eval(), and whenever it is moved or cast.
    """

    def __init__(self) -> None:
        self._entry: tuple[tuple[Tensor | None, ...], tuple, Folded] | None = None

    def get(self, weight: Tensor, bias: Tensor | None, bn: nn.Module) -> Folded:
        """fold(weight, bias, bn), from the cache where nothing changed."""
        sources = (weight, bias, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        if not _cacheable(sources):
            return fold(weight, bias, bn)
        state = (bn.eps, *(t is not None and (t._version, t.data_ptr(), t.dtype, t.device) for t in sources))
        entry = self._entry  # read once and replaced whole: threads may share a module
        if entry is not None and entry[1] == state and all(a is b for a, b in zip(entry[0], sources)):
            return entry[2]
        with torch.no_grad():
            folded = fold(weight, bias, bn)
        self._entry = sources, state, folded
        return folded

    def clear(self) -> None:
        """Forgets the folded weights, and frees them."""
        self._entry = None


def _cacheable(sources: tuple[Tensor | None, ...]) -> bool:
    """Whether folded weights may be kept: nothing traces, no gradient is lost, and the tensors count versions and hold data."""
    if torch.compiler.is_compiling():
        return False
    given = [t for t in sources if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        return False
    return all(type(t) in (Tensor, nn.Parameter) and not t.is_meta and not t.is_inference() for t in given)
