"""Backend "cudnn": PyTorch's own kernels, the peer that ours are measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.layout import allocate, is_channels_last
from convatlas.ops import backend_cudnn_grad
from convatlas.specs.activations import parsed

if TYPE_CHECKING:
    from convatlas.call import Call

Tensors = dict[str, Tensor]


def _finish(call: Call, y: Tensor, t: Tensors) -> Tensor:
    """The epilogue's residual and activation, in place on the fresh result."""
    if "residual" in t:
        y += t["residual"]
    return activated(y, call.epilogue.activation if call.epilogue else None)


def activated(y: Tensor, activation: str | None) -> Tensor:
    """The activation by torch.nn.functional, in place on a fresh result as far as torch has it so."""
    if activation is None:
        return y
    name, slope = parsed(activation)
    if name == "sigmoid":
        return torch.sigmoid_(y)
    return getattr(F, name)(y, *(slope,) * (name == "leaky_relu"), inplace=True)


def _conv2d(call: Call, t: Tensors) -> Tensor:
    s, x = call.spec, t["input"]
    (top, bottom), (left, right) = s.padding
    if top != bottom or left != right:
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, t["weight"], t.get("bias"), **{**s.arguments, "padding": (top, left)})


def _conv2d_gradients(call: Call, t: Tensors, *wanted: bool) -> Tensor | tuple[Tensor, ...]:
    """The wanted ones of the gradients by input, weight and bias. What a gradient does not depend on is only allocated."""
    f, dy = call.spec.forward, t["grad_output"]
    (top, bottom), (left, right) = f.padding
    uneven = top != bottom or left != right
    size = (f.N, f.C, f.H + top + bottom, f.W + left + right) if uneven else f.input_shape
    x = t["input"] if "input" in t else allocate(size, dy)
    x = F.pad(x, (left, right, top, bottom)) if uneven and "input" in t else x
    w = t["weight"] if "weight" in t else allocate(f.weight_shape, dy)
    padding = (0, 0) if uneven else (top, left)
    dx, *rest = torch.ops.aten.convolution_backward(
        dy, x, w, (f.K,), f.stride, padding, f.dilation, False, (0, 0), f.groups, wanted
    )
    if wanted[0]:
        return dx[:, :, top : top + f.H, left : left + f.W] if uneven else dx
    return tuple(rest) if wanted[2] else rest[0]


def _block(call: Call, t: Tensors) -> Tensor:
    made: Tensors = {}
    for part in call.spec.parts:
        given = {
            name: (made[source] if source in made else t[source]).reshape(shape)
            for name, (source, shape) in part.operands.items()
        }
        made[part.name] = run(replace(call, op=part.op, spec=part.spec, epilogue=part.epilogue), given, None)
    return made[part.name]


def _channel_scale(call: Call, t: Tensors) -> Tensor:
    scale = t["scale"]
    return t["x"] * (scale if call.spec.gate is None else activated(scale.clone(), call.spec.gate))


# Ops that torch.nn.functional has not, or with arguments of which it lacks some.
OPS: dict[str, Callable[[Call, Tensors], Tensor]] = {
    "conv2d": _conv2d,
    "conv2d_input_grad": lambda call, t: _conv2d_gradients(call, t, True, False, False),
    "conv2d_weight_grad": lambda call, t: _conv2d_gradients(call, t, False, True, bool(call.extra)),
    "max_pool2d": backend_cudnn_grad.max_pool2d,
    "channel_scale": _channel_scale,
    "residual_add": lambda call, t: t["x"] + t["shortcut"],
    "sigmoid": lambda call, t: torch.sigmoid(t["input"]),  # torch deprecated the functional one
    "block": _block,
    "concat": lambda call, t: torch.cat(list(t.values()), call.spec.dim),
    **backend_cudnn_grad.OPS,
}


def _by_name(call: Call, t: Tensors) -> Tensor | tuple[Tensor, Tensor]:
    """The function of torch.nn.functional that the op is named after."""
    operands = {name: x for name, x in t.items() if name in call.spec.inputs or name == "bias"}
    return getattr(F, call.op)(**operands, **call.spec.arguments, **call.params)


def run(call: Call, tensors: Tensors, out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `call` by torch.nn.functional, in the memory format that every backend of ours gives."""
    y = OPS.get(call.op, _by_name)(call, tensors)
    last = is_channels_last(next(iter(tensors.values())))
    form = torch.channels_last if last else torch.contiguous_format

    def formed(part: Tensor) -> Tensor:
        return part.contiguous(memory_format=form) if part.dim() == 4 else part

    if isinstance(y, tuple):
        return tuple(map(formed, y))
    y = _finish(call, y, tensors)
    return formed(y) if out is None else out.copy_(y)
