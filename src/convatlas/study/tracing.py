"""A net's layers, from one run on the meta device, where nothing is computed and the net is not touched; a plan's layers."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.call import Call
from convatlas.plan.plan import Plan
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


def plan_layers(plan: Plan) -> list[Layer]:
    """The steps of a plan that our ops compute, in order, as trace lists a net's: what instruments walk."""
    found = [layer for layer in plan.layers if layer.ours]
    return [Layer(x.path, Call(x.op, x.call.spec, x.call.epilogue, x.call.params)) for x in found]
