"""A copy of a net with its batch norms folded into its weights, which are then the weights that the kernels get."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from convatlas.errors import NetError
from convatlas.nets.folding import fold
from convatlas.nets.layers import Conv2d
from convatlas.nets.meta import run_on_meta


def fold_batch_norms(net: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """A copy of `net`, in eval mode, whose convolutions hold their folded weights and whose batch norms are exact identities.

    The copy computes with bit for bit the weights that `net` computes with at inference, and still does after .double(): an
    identity (mean 0, variance 1, eps 0) changes no weight in any dtype. Running the copy on the meta device shows which batch norm
    follows which convolution.

    Raises NetError for a convolution that two different batch norms follow.
    """
    folded = copy.deepcopy(net).eval()
    names = {module: name for name, module in folded.named_modules()}
    follows: dict[Conv2d, nn.Module | None] = {}

    def seen(conv: Conv2d, args: tuple, kwargs: dict[str, Any]) -> None:
        bn = kwargs.get("bn", args[1] if len(args) > 1 else None)
        if follows.setdefault(conv, bn) is not bn:
            raise NetError(f"{names[conv]} is followed by two batch norms, expected one to fold into its weight")

    with ExitStack() as stack:
        for module in names:
            if isinstance(module, Conv2d):
                stack.callback(module.register_forward_pre_hook(seen, with_kwargs=True).remove)
        run_on_meta(folded, input_shape)
    with torch.no_grad():
        weights = {conv: fold(conv.weight, conv.bias, bn) for conv, bn in follows.items() if bn is not None}
        for conv, (weight, bias) in weights.items():
            conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
            _make_identity(follows[conv])
    return folded


def _make_identity(bn: nn.Module) -> None:
    bn.eps = 0.0
    bn.reset_running_stats()
    if bn.affine:
        nn.init.ones_(bn.weight)
        nn.init.zeros_(bn.bias)
