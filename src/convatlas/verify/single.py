"""One layer by itself: random operands of its exact shapes, and the op run on them into a poisoned buffer."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from convatlas.ops import functional as ops
from convatlas.ops.backends import use_backend
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

    Four-dimensional ones are of `memory_format`, channels_last as in a net. The same seed gives the same numbers on every device,
    unless they are drawn on it: `drawn_on` the device itself is quicker for gigabytes.
    """
    generator = torch.Generator(drawn_on).manual_seed(seed)
    spec = layer.spec

    def normal(shape: tuple, scale: float = 1.0) -> Tensor:
        x = (torch.randn(shape, generator=generator, device=drawn_on) * scale).to(device, dtype)
        return x.contiguous(memory_format=memory_format) if x.dim() == 4 else x

    if layer.op == "concat":
        return {str(i): normal(shape) for i, shape in enumerate(spec.shapes)}
    if layer.op == "residual_add":
        return {"x": normal(spec.shape), "shortcut": normal(spec.shape)}
    if layer.op == "linear":
        tensors = {"input": normal((*spec.lead, spec.C)), "weight": normal((spec.K, spec.C), sqrt(2 / spec.reduction))}
    elif layer.op == "conv2d":
        tensors = {"input": normal(spec.input_shape), "weight": normal(spec.weight_shape, sqrt(2 / spec.reduction))}
    elif layer.op == "batch_norm":
        C = (spec.shape[1],)
        statistics = {"running_mean": normal(C), "running_var": normal(C).abs() + 0.5}
        return {"input": normal(spec.shape), **statistics, "weight": normal(C), "bias": normal(C)}
    else:
        return {"input": normal(getattr(spec, "input_shape", None) or spec.shape)}
    if layer.epilogue.bias:
        tensors["bias"] = normal((spec.bias_elements,))
    if layer.epilogue.residual:
        tensors["residual"] = normal(spec.output_shape)
    return tensors


def run(layer: Layer, tensors: Tensors, backend: str) -> Tensor:
    """The op on `tensors`, into an `out` of the first one's format that was full of NaN: what no kernel writes stays one."""
    first = next(iter(tensors.values()))
    out = torch.full(layer.spec.output_shape, torch.nan, dtype=first.dtype, device=first.device)
    if out.dim() == 4 and (first.dim() != 4 or first.is_contiguous(memory_format=torch.channels_last)):
        out = out.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), use_backend(backend):
        call(layer, tensors, out)
    return out


def call(layer: Layer, t: Tensors, out: Tensor | None = None) -> Tensor:
    """The public op that `layer` is, on operands named as `operands` names them."""
    s, activation = layer.spec, layer.epilogue.activation if layer.epilogue else None
    match layer.op:
        case "conv2d":
            geometry = s.stride, s.padding, s.dilation, s.groups
            epilogue = {"activation": activation, "residual": t.get("residual")}
            return ops.conv2d(t["input"], t["weight"], t.get("bias"), *geometry, **epilogue, out=out)
        case "linear":
            return ops.linear(t["input"], t["weight"], t.get("bias"), activation=activation, out=out)
        case "max_pool2d":
            return ops.max_pool2d(t["input"], (s.R, s.S), s.stride, s.padding, s.dilation, s.ceil_mode, out=out)
        case "avg_pool2d":
            divide = s.ceil_mode, s.count_include_pad, s.divisor_override
            return ops.avg_pool2d(t["input"], (s.R, s.S), s.stride, s.padding, *divide, out=out)
        case "adaptive_avg_pool2d":
            return ops.adaptive_avg_pool2d(t["input"], (s.P, s.Q), out=out)
        case "local_response_norm":
            return ops.local_response_norm(t["input"], s.size, **layer.params, out=out)
        case "concat":
            return ops.concat(list(t.values()), s.dim, out=out)
        case "residual_add" | "batch_norm":
            return getattr(ops, layer.op)(**t, **layer.params, activation=activation, out=out)
        case _:  # relu, relu6, softmax
            return getattr(ops, layer.op)(t["input"], **layer.params, out=out)
