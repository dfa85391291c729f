"""Backend "cudnn": PyTorch's own kernels, the peer that ours are measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.layout import is_channels_last
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


# Ops that torch.nn.functional has not, or with arguments of which it lacks some.
OPS: dict[str, Callable[[Call, Tensors], Tensor]] = {
    "conv2d": _conv2d,
    "residual_add": lambda call, t: t["x"] + t["shortcut"],
    "sigmoid": lambda call, t: torch.sigmoid(t["input"]),  # torch deprecated the functional one
    "concat": lambda call, t: torch.cat(list(t.values()), call.spec.dim),
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
    if isinstance(y, tuple):
        return tuple(part.contiguous(memory_format=form) for part in y)
    y = _finish(call, y, tensors)
    if out is not None:
        return out.copy_(y)
    return y.contiguous(memory_format=form) if y.dim() == 4 else y
