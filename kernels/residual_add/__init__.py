"""residual_add as a kernel of its own (He et al. 2015): what a network without fused epilogues pays for its identity mappings."""

from __future__ import annotations

from torch import Tensor

from convatlas.kernels.elementwise import elementwise_launch
from convatlas.kernels.launch import Launch
from convatlas.kernels.target import Target
from convatlas.ops.observe import Call


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """y = activation(x + shortcut); y may be x or shortcut."""
    return [elementwise_launch(tensors["x"], tensors["shortcut"], out, call.epilogue.activation, target)]
