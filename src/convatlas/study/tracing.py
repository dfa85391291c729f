"""A net's layers, from one run on the meta device: nothing is computed, and the net is not touched."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.study.dataflow import wired
from convatlas.study.layer import Layer


def trace(net: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype | None = None) -> list[Layer]:
    """The ops `net` runs on an input of `input_shape`, in order, in the mode (train or eval) that it is in.

    Args:
        net: any torch.nn.Module. Ops of ours are listed as they run. An op that it leaves to torch is listed as the op of ours that
            does the same work (study.torch_ops), with run_by "torch".
        input_shape: (N, C, H, W).
        dtype: dtype of the input and the net's floating-point tensors, for nets whose layers depend on it; None keeps the net's.

    Warns with UncountedWarning, by name, of ops of torch that are in no list because no spec describes them.
    Raises ShapeError where a layer does not fit its input, NetError for a net that cannot run on the meta device.
    """
    return [node.layer for node in wired(net, input_shape, dtype)]
