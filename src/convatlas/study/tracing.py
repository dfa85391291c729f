"""A net's layers, from one run on the meta device: nothing is computed, and the net is not touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.nets.meta import run_on_meta
from convatlas.nets.paths import module_paths
from convatlas.ops.observe import Call, observe
from convatlas.specs import Epilogue, Spec


@dataclass(frozen=True)
class Layer:
    """One op that a net runs.

    Attributes:
        path: of the module that runs it, such as "layer1.0.conv1"; "" for an op of the net's own forward.
        op: its public name, such as "conv2d".
        spec: shapes and shape arithmetic.
        epilogue: what is fused behind it, or None for an op that has no epilogue.
        params: parameters that are no part of a shape (eps, alpha, beta, k, dim).
    """

    path: str
    op: str
    spec: Spec
    epilogue: Epilogue | None = None
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple:
        """Equal for layers that do the same work on other data: all of a layer but its path."""
        return self.op, self.spec, self.epilogue, tuple(sorted(self.params.items()))


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
