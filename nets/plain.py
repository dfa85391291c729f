"""A net under PyTorch's own functions, without convatlas's dispatch: the peer that whole networks race against.

`use_backend("cudnn")` would run the same kernels, but each op would first pass through our checks, our registration and our choice
of a backend: host time that a PyTorch user does not pay, and that eager launches of a small batch would show. So inside `plain()`
the functions that our nets call are torch.nn.functional's, with the epilogue in place behind them, as a careful user writes it, and
the batch norms are gone (nets.fold_net folds them): less work for the peer than its users usually give it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.nets.layers import Conv2d
from convatlas.ops import functional as ops
from convatlas.ops.backend_cudnn import activated
from convatlas.specs.activations import FLOPS
from convatlas.specs.arguments import pair, sides


def _fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` with our ops' residual, activation and out behind it, in place as far as they go."""

    def run(
        *args: Any,
        activation: str | None = None,
        residual: Tensor | None = None,
        out: Tensor | None = None,
        **keywords: Any,
    ) -> Tensor:
        y = function(*args, **keywords)
        if residual is not None:
            y += residual
        y = activated(y, activation)
        return y if out is None else out.copy_(y)

    return run


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """F.conv2d; TensorFlow's asymmetric padding by F.pad before it."""
    window = tuple(weight.shape[2:]), pair(stride, "stride", "conv2d"), pair(dilation, "dilation", "conv2d")
    (top, bottom), (left, right) = sides(padding, *window, "conv2d")
    if (top, left) != (bottom, right):
        input, top, left = F.pad(input, (left, right, top, bottom)), 0, 0
    return F.conv2d(input, weight, bias, stride, (top, left), dilation, groups)


def _concat(tensors: Sequence[Tensor], dim: int = 1) -> Tensor:
    """torch.cat, along the channels unless told otherwise, as convatlas.concat."""
    return torch.cat(list(tensors), dim)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "conv2d": _fused(_conv2d),
    "residual_add": _fused(torch.add),
    "concat": _fused(_concat),
    **{
        name: _fused(getattr(F, name))
        for name in (
            "linear", "batch_norm", *FLOPS, "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
            "local_response_norm",
            "softmax",
        )
    },
}  # fmt: skip


def _forward(
    self: Conv2d,
    x: Tensor,
    bn: nn.Module | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """nets.layers.Conv2d.forward of a net whose batch norms are folded: what is left of `bn` is an identity."""
    geometry = self.stride, self._pads(x), self.dilation, self.groups
    return ops.conv2d(x, self.weight, self.bias, *geometry, activation=activation, residual=residual, out=out)


def for_peers(folded: nn.Module) -> nn.Module:
    """A copy of a net whose batch norms are folded, its filters in the layouts that cuDNN reads without a copy of its own."""
    net = copy.deepcopy(folded)
    for module in net.modules():
        if isinstance(module, Conv2d):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
    return net


@contextmanager
def swapped() -> Iterator[None]:
    """Inside, our nets call torch.nn.functional's functions: what a PyTorch user trains.

    Not for several threads: it swaps attributes.
    """
    before = {name: getattr(ops, name) for name in FUNCTIONS}
    for name, function in FUNCTIONS.items():
        setattr(ops, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(ops, name, function)


@contextmanager
def plain() -> Iterator[None]:
    """`swapped`, and without a way for batch norms: inside, nets that `for_peers` made run on torch.nn.functional alone."""
    forward = Conv2d.forward
    Conv2d.forward = _forward
    try:
        with swapped():
            yield
    finally:
        Conv2d.forward = forward
