"""Branches side by side on one input, joined along the channels: Inception and Fire modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.nets.layers import is_traced
from convatlas.ops import functional as ops


def join(x: Tensor, branches: Sequence[tuple[nn.Module, int]], **keywords: Any) -> Tensor:
    """concat of branch(x) along channels, for branches that keep the size of x and take `out`.

    At inference each branch writes into its channels of one buffer, so that the concatenation moves no byte. In three cases it is
    convatlas.concat instead: while a gradient is wanted, since an op with an `out` has none; under autocast, where the ops choose
    the dtype; and while a compiler traces, since it plans memory itself.

    Args:
        x: (N, C, H, W), channels_last.
        branches: for each branch (module, its output channels).
        keywords: keyword arguments for every branch.

    Returns (N, sum of the channels, H, W), channels_last. Raises ShapeError, DtypeError, BackendError.
    """
    modules, channels = zip(*branches)
    if is_traced(x) or torch.compiler.is_compiling() or _autocast(x) or _gradient(x, modules):
        return ops.concat([module(x, **keywords) for module in modules])
    N, _, H, W = x.shape
    y = torch.empty((N, sum(channels), H, W), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for module, part in zip(modules, y.split(channels, dim=1)):
        module(x, **keywords, out=part)
    return y


def _autocast(x: Tensor) -> bool:
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def _gradient(x: Tensor, modules: Sequence[nn.Module]) -> bool:
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad or any(p.requires_grad for module in modules for p in module.parameters())
