"""Each op as torch.nn.functional has it, with our additions (epilogue, asymmetric padding) by further calls of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# What torch says where it lacks memory or 32-bit counters rather than finding an argument wrong.
OPERANDS = (
    "grad_output",
    "input",
    "weight",
    "bias",
    "residual",
    "x",
    "shortcut",
    "scale",
    "running_mean",
    "running_var",
)
ACTIVATIONS = ("relu", "relu6", "leaky_relu", "sigmoid", "hardsigmoid", "silu", "hardswish")
UNABLE = (
    "memory",
    "overflow",
    "out of range",
    "too large",
    "too many",
    "must fit",
    "storage size",
    "numel",
    "not implemented for",
    "view size is not compatible",
    "internal assert",
    "negative output size",
)


def _finish(y: Tensor, activation: Any, residual: Any = None) -> Tensor:
    if residual is not None:
        if residual.shape != y.shape:
            raise ValueError("a residual does not broadcast")
        y = y + residual
    name, *slope = activation if isinstance(activation, tuple) else (activation,)
    if name not in (None, *ACTIVATIONS) or (
        isinstance(activation, tuple) and (len(slope) != 1 or name != "leaky_relu")
    ):
        raise ValueError("an unknown activation")
    return y if name is None else getattr(F, name)(y, *slope)


def _conv2d(
    input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, residual=None
):  # fmt: skip
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        (top, bottom), (left, right) = padding
        if min(top, bottom, left, right) < 0:
            raise ValueError("negative padding")
        input, padding = F.pad(input, (left, right, top, bottom)), 0
    return _finish(F.conv2d(input, weight, bias, stride, padding, dilation, groups), activation, residual)


def _conv_transpose2d(input, weight, bias=None, activation=None, **geometry):
    return _finish(F.conv_transpose2d(input, weight, bias, **geometry), activation)


def _gradients(grad_output, input_size, weight_size, input=None, weight=None, **geometry):
    """(by input, by weight, by bias) of _conv2d, by autograd; what is not given is zeros, on which a gradient does not depend."""
    if input is not None and tuple(input.shape) != tuple(input_size):
        raise ValueError("an input of another size")
    with torch.enable_grad():
        kind = {"dtype": grad_output.dtype, "device": grad_output.device}
        x, w = (
            torch.zeros(size, **kind) if t is None else t.detach().clone()
            for t, size in ((input, input_size), (weight, weight_size))
        )
        b = torch.zeros(w.shape[0], **kind)
        given = [t.requires_grad_() for t in (x, w, b)]
        y = _conv2d(*given, **geometry)
        if y.shape != grad_output.shape:
            raise ValueError("a gradient of another shape than the output's")
        return torch.autograd.grad(y, given, grad_output.clone())


def _conv2d_input_grad(grad_output, weight, input_size, stride=1, padding=0, dilation=1, groups=1):
    if len(input_size) != 4:
        raise ValueError("an input size without a batch")
    geometry = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _gradients(grad_output, input_size, weight.shape, weight=weight, **geometry)[0]


def _conv2d_weight_grad(grad_output, input, weight_size, stride=1, padding=0, dilation=1, groups=1, bias_grad=False):
    if input.dim() != 4 or not isinstance(bias_grad, bool):
        raise ValueError("an input without a batch, or a flag that is none")
    geometry = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    _, by_weight, by_bias = _gradients(grad_output, input.shape, weight_size, input=input, **geometry)
    return (by_weight, by_bias) if bias_grad else by_weight


def _linear(input, weight, bias=None, activation=None):
    return _finish(F.linear(input, weight, bias), activation)


def _residual_add(x, shortcut, activation=None):
    return _finish(x, activation, shortcut)


def _channel_scale(x, scale, gate=None, activation=None, residual=None):
    factors = _finish(scale, gate)
    if x.dim() not in (3, 4) or (x * factors).shape != x.shape or scale.dim() < 3 or scale.shape[-2:] != (1, 1):
        raise ValueError("no number a channel")
    if scale.shape[-3] != x.shape[-3]:
        raise ValueError("a number for several channels")
    return _finish(x * factors, activation, residual)


def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, activation=None,
    residual=None,
):  # fmt: skip
    y = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _finish(y if residual is None else y + residual, activation)


OPS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "conv2d_input_grad": _conv2d_input_grad,
    "conv2d_weight_grad": _conv2d_weight_grad,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "max_pool2d": F.max_pool2d,
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
    "channel_scale": _channel_scale,
    "residual_add": _residual_add,
    "batch_norm": _batch_norm,
    "local_response_norm": F.local_response_norm,
    "softmax": lambda input, dim=-1: F.softmax(input, dim),
    **{name: getattr(F, name) for name in ACTIVATIONS},
    "concat": lambda tensors, dim=1: torch.cat(tensors, dim),
}


@dataclass(frozen=True)
class Answer:
    """What torch made of a call: a result, or why there is none, and whether that is for lack of means."""

    result: Any = None
    error: BaseException | None = None

    @property
    def refused(self) -> bool:
        return self.error is not None and not self.unable

    @property
    def unable(self) -> bool:
        words = str(self.error).lower()
        return isinstance(self.error, (MemoryError, OverflowError)) or any(word in words for word in UNABLE)


def operands(args: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the arguments, by name; a number that came as a tensor is none."""
    found = {name: x for name, x in args.items() if name in OPERANDS and isinstance(x, Tensor)}
    many = args.get("tensors")
    if isinstance(many, (list, tuple)):
        found.update((str(i), x) for i, x in enumerate(many) if isinstance(x, Tensor))
    return found


def widened(value: Any) -> Any:
    """float64 in place of shorter floats; an expanded tensor stays expanded."""
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return [widened(v) for v in value]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if value.is_meta:
        return value.double()
    once = value
    for d, step in enumerate(value.stride()):
        if step == 0 and value.shape[d] > 1:
            once = once.narrow(d, 0, 1)
    return once.double().expand(value.shape)


def answer(op: str, args: dict[str, Any]) -> Answer:
    """torch's answer in float64; in the dtypes given where they differ, so that torch sees that they do."""
    one = len({x.dtype for x in operands(args).values()}) == 1
    try:
        with torch.no_grad():
            return Answer(OPS[op](**{k: widened(v) if one else v for k, v in args.items()}))
    except Exception as error:  # torch's own may be of any kind: local_response_norm(size=0) divides by zero
        return Answer(error=error)
