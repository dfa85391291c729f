"""A net's layers, from one run on the meta device: nothing is computed, and the net is not touched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convatlas.nets.meta import run_on_meta
from convatlas.nets.paths import module_paths
from convatlas.ops.observe import Call, observe
from convatlas.study.layer import Layer


def trace(net: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype | None = None) -> list[Layer]:
    """The ops `net` runs on an input of `input_shape`, in order, in the mode (train or eval) that it is in.

    Args:
        net: built on convatlas ops; what it does with other ops is not listed.
        input_shape: (N, C, H, W).
        dtype: of the input and the net's floating-point tensors, for nets whose layers depend on it; None keeps the net's.

    Raises ShapeError where a layer does not fit its input, NetError for a net that cannot run on the meta device.
    """
    layers: list[Layer] = []
    with module_paths(net) as path:

        def seen(call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
            layers.append(Layer(path(), call.op, call.spec, call.epilogue, call.params))

        with observe(seen):
            run_on_meta(net, tuple(input_shape), dtype)
    return layers
