"""From a public op's arguments to torch.ops.convatlas: what the functions of all families share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from convatlas.errors import BackendError, DtypeError
from convatlas.ops import backward, hot, library  # noqa: F401 (backward registers the ops of the backward pass)
from convatlas.ops.backends import BACKENDS
from convatlas.ops.transforms import is_wrapped, require_batch, tensors_and_proxies, tensors_in
from convatlas.specs.arguments import shown

_ops = torch.ops.convatlas
Activation = str | tuple[str, float] | None
P, R = ParamSpec("P"), TypeVar("R")


def overridable(op: Callable[P, R]) -> Callable[P, R]:
    """As torch.nn.functional's: torch.fx's proxies and every other type with __torch_function__ see the op as one call.

    A call that was made before, and on which nothing looks, takes the short way (ops/hot.py).
    """
    name = op.__name__

    @wraps(op)
    def public(*args: P.args, **keywords: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return ordinary(*args, **keywords)
        return hot.call(name, args, keywords, ordinary)

    def ordinary(*args: P.args, **keywords: P.kwargs) -> R:
        relevant = tuple(tensors_and_proxies((*args, *keywords.values())))
        if has_torch_function(relevant):
            return handle_torch_function(public, relevant, *args, **keywords)
        return op(*args, **keywords)

    public.ordinary = ordinary  # type: ignore[attr-defined]  # for ops/site.py
    return public


def dispatch(name: str, args: tuple, backend: str | None, out: Tensor | None) -> Tensor:
    """Calls the functional form, or the out form, or an equivalent where `out` is not plain memory that a kernel can write."""
    if backend is not None and not isinstance(backend, str):
        raise BackendError(f"{name}: backend={shown(backend)}, expected None or one of {', '.join(BACKENDS)}")
    if out is None:
        return getattr(_ops, name)(*args, backend)
    if not torch.compiler.is_compiling() and (out.is_neg() or is_wrapped(out, *tensors_in(args))):
        result = getattr(_ops, name)(*args, backend)
        library.require_fit(name, out, result.shape, result)
        require_batch(name, out, result)
        return out.copy_(result)
    getattr(_ops, f"{name}_out")(*args, backend, into=out)
    return out


OPTIONAL = ("bias", "residual", "out")


def require_dense(op: str, optional: tuple[str, ...] = OPTIONAL, **given: Any) -> None:
    """Raises DtypeError unless each operand is a dense tensor, or None where it is optional."""
    for name, x in given.items():
        if x is None and name in optional:
            continue
        if not isinstance(x, Tensor):
            raise DtypeError(f"{op}: {name} is {type(x).__name__}, expected a torch.Tensor")
        if x.is_nested or x.layout != torch.strided:
            kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").lstrip("_")
            raise DtypeError(f"{op}: {name} is a tensor of layout {kind}, expected a dense one")


def batched(*tensors: Tensor | None) -> tuple[bool, list[Tensor | None]]:
    """(False, tensors) for an input (N, C, H, W), (True, tensors with a batch of one) for (C, H, W)."""
    if tensors[0].dim() == 3:
        return True, [x if x is None else x.unsqueeze(0) for x in tensors]
    return False, list(tensors)


def dispatch_unbatched(name: str, single: bool, args: tuple, backend: str | None, out: Tensor | None) -> Tensor:
    if not single:
        return dispatch(name, args, backend, out)
    y = dispatch(name, args, backend, None if out is None else out.unsqueeze(0))
    return y.squeeze(0) if out is None else out


def autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Casts as torch.autocast does for F.conv2d and F.linear: floating tensors of the device, float64 excepted."""
    device = next(x.device.type for x in tensors if x is not None)
    if device == "meta" or not torch.is_autocast_enabled(device):  # the meta device knows no autocast, and raises
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [x.to(dtype) if x is not None and x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors]
