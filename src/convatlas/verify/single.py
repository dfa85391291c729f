"""One layer by itself: random operands of its exact shapes, and the op run on them into a poisoned buffer."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from convatlas.ops import functional as ops
from convatlas.ops.backends import use_backend
from convatlas.ops.block import block
from convatlas.study.tracing import Layer

Tensors = dict[str, Tensor]


def operands(
    layer: Layer,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    drawn_on: str = "cpu",
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensors:
    """Normal numbers under the op's operand names; weights scaled by sqrt(2/L) (He et al. 2015), so that outputs are O(1).

    Four-dimensional ones have `memory_format`, channels_last as in a net. The same seed gives the same numbers on every device,
    unless they are drawn on the device itself (`drawn_on`), which is quicker for gigabytes.
    """
    generator = torch.Generator(drawn_on).manual_seed(seed)
    spec = layer.spec

    def normal(shape: tuple, scale: float = 1.0) -> Tensor:
        x = (torch.randn(shape, generator=generator, device=drawn_on) * scale).to(device, dtype)
        return x.contiguous(memory_format=memory_format) if x.dim() == 4 else x

    scales = {name: sqrt(2 / max(length, 1)) for name, length in spec.reductions.items()}
    tensors = {name: normal(shape, scales.get(name, 1.0)) for name, shape in spec.operands(layer.epilogue).items()}
    if "running_var" in tensors:
        tensors["running_var"] = tensors["running_var"].abs() + 0.5
    return tensors


def run(layer: Layer, tensors: Tensors, backend: str) -> Tensor:
    """Runs the op on `tensors`, into an `out` in the first one's format, full of NaN: what no kernel writes stays NaN."""
    first = next(iter(tensors.values()))
    out = torch.full(layer.spec.output_shape, torch.nan, dtype=first.dtype, device=first.device)
    if out.dim() == 4 and (first.dim() != 4 or first.is_contiguous(memory_format=torch.channels_last)):
        out = out.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), use_backend(backend):
        call(layer, tensors, out)
    return out


def call(layer: Layer, t: Tensors, out: Tensor | None = None) -> Tensor:
    """The public op that `layer` is, or its block, on operands named as `operands` names them."""
    if layer.op == "block":
        return block(layer.spec, t, out=out)
    fused = {} if layer.epilogue is None else {"activation": layer.epilogue.activation}
    operands = (list(t.values()),) if layer.op == "concat" else ()
    named = {} if operands else t
    return getattr(ops, layer.op)(*operands, **named, **layer.spec.arguments, **layer.params, **fused, out=out)
