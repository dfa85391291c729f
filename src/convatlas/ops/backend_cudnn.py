"""Backend "cudnn": PyTorch's own kernels, the peer that ours are measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.layout import is_channels_last

if TYPE_CHECKING:
    from convatlas.call import Call

Tensors = dict[str, Tensor]


def _finish(call: Call, y: Tensor, t: Tensors) -> Tensor:
    """The epilogue's residual and activation, in place on the fresh result."""
    if "residual" in t:
        y += t["residual"]
    activation = call.epilogue.activation if call.epilogue else None
    if activation == "relu":
        y = torch.relu_(y)
    elif activation == "relu6":
        y = F.relu6(y, inplace=True)
    return y


def _conv2d(call: Call, t: Tensors) -> Tensor:
    s, x = call.spec, t["input"]
    (top, bottom), (left, right) = s.padding
    if top != bottom or left != right:
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, t["weight"], t.get("bias"), s.stride, (top, left), s.dilation, s.groups)


def _max_pool2d(call: Call, t: Tensors) -> Tensor | tuple[Tensor, Tensor]:
    s = call.spec
    window = (s.R, s.S), s.stride, s.padding, s.dilation, s.ceil_mode
    return F.max_pool2d(t["input"], *window, return_indices=call.params.get("return_indices", False))


def _avg_pool2d(call: Call, t: Tensors) -> Tensor:
    s = call.spec
    return F.avg_pool2d(
        t["input"], (s.R, s.S), s.stride, s.padding, s.ceil_mode, s.count_include_pad, s.divisor_override
    )


def _batch_norm(call: Call, t: Tensors) -> Tensor:
    statistics = t["running_mean"], t["running_var"]
    return F.batch_norm(t["input"], *statistics, t.get("weight"), t.get("bias"), eps=call.params["eps"])


def _concat(call: Call, t: Tensors) -> Tensor:
    return torch.cat(list(t.values()), call.spec.dim)


OPS: dict[str, Callable[[Call, Tensors], Tensor]] = {
    "conv2d": _conv2d,
    "linear": lambda call, t: F.linear(t["input"], t["weight"], t.get("bias")),
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": lambda call, t: F.adaptive_avg_pool2d(t["input"], (call.spec.P, call.spec.Q)),
    "residual_add": lambda call, t: t["x"] + t["shortcut"],
    "batch_norm": _batch_norm,
    "local_response_norm": lambda call, t: F.local_response_norm(t["input"], call.spec.size, **call.params),
    "softmax": lambda call, t: F.softmax(t["input"], call.params["dim"]),
    "relu": lambda call, t: F.relu(t["input"]),
    "relu6": lambda call, t: F.relu6(t["input"]),
    "concat": _concat,
}


def run(call: Call, tensors: Tensors, out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `call` by torch.nn.functional, in the memory format that every backend of ours gives."""
    y = OPS[call.op](call, tensors)
    last = is_channels_last(next(iter(tensors.values())))
    form = torch.channels_last if last else torch.contiguous_format
    if isinstance(y, tuple):
        return tuple(part.contiguous(memory_format=form) for part in y)
    y = _finish(call, y, tensors)
    if out is not None:
        return out.copy_(y)
    return y.contiguous(memory_format=form) if y.dim() == 4 else y
