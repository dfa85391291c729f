"""How torch's transforms treat an op: asking for a derivative raises, as there is none yet; torch.vmap runs example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from convatlas.errors import ConvAtlasError, ShapeError


class BackwardError(ConvAtlasError, NotImplementedError):
    """A derivative of an op that has none yet."""


class _NoBackward(torch.autograd.Function):
    """Links an op's result to its tensors, so that a backward through it is refused where it arrives."""

    @staticmethod
    def forward(ctx: Any, name: str, run: Callable[[], Any], *tensors: Tensor) -> Any:
        ctx.name = name
        return run()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise _no_backward(ctx.name)


def _no_backward(name: str) -> BackwardError:
    return BackwardError(
        f"convatlas.{name} has no backward yet: run it under torch.no_grad(), or train with torch.nn.functional"
    )


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors among arguments, those of tensor lists one by one."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def tensors_and_proxies(values: Any) -> Iterator[Any]:
    """The arguments that may override an op: all with __torch_function__, those in lists and tuples one by one."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from tensors_and_proxies(value)
        elif hasattr(type(value), "__torch_function__"):
            yield value


def derivative_rule(name: str) -> Callable[..., Any]:
    """The kernel of torch.ops.convatlas.<name> for the dispatch key Autograd.

    It raises BackwardError: at the call for forward-mode derivatives (dual numbers, torch.func.jvp and jacfwd) and for torch.func's
    reverse ones (grad, vjp, hessian), and for backward() when that reaches the op. It raises ShapeError where an `out` would lose a
    gradient.
    """
    public = name.removesuffix("_out").removesuffix("_with_indices").removesuffix("_with_bias")

    def rule(keyset: Any, *values: Any, **keywords: Any) -> Any:
        tensors = list(tensors_in((*values, *keywords.values())))
        if any(unpack_dual(x).tangent is not None for x in tensors):
            raise BackwardError(
                f"convatlas.{public} has no forward-mode derivative yet: expected tensors without a tangent (x.detach()), "
                "or torch.nn.functional"
            )

        def run() -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                overload = getattr(torch.ops.convatlas, name).default
                return overload.redispatch(keyset & torch._C._after_autograd_keyset, *values, **keywords)

        if not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            return run()
        if name.endswith("_out"):
            raise ShapeError(
                f"{public}: out= does not support automatic differentiation, but an argument requires a gradient; "
                "run it under torch.no_grad()"
            )
        if torch._C._are_functorch_transforms_active():
            raise _no_backward(public)
        return _NoBackward.apply(public, run, *tensors)

    return rule


def vmap_rule(name: str) -> Callable[..., Any]:
    """The rule of torch.vmap for torch.ops.convatlas.<name>: the op on one example after another."""

    def at(value: Any, dim: Any, i: int) -> Any:
        if isinstance(value, list):
            return [at(v, d, i) for v, d in zip(value, dim)]
        if dim is None:
            return value
        if value.shape[dim] == 0:  # no example at all: one of zeros gives the result's shape
            return value.new_zeros((*value.shape[:dim], *value.shape[dim + 1 :]))
        return value.select(dim, i)

    def rule(info: Any, in_dims: tuple, *values: Any) -> Any:
        op, count = getattr(torch.ops.convatlas, name), info.batch_size
        results = [op(*(at(v, d, i) for v, d in zip(values, in_dims))) for i in range(max(count, 1))]
        if isinstance(results[0], Tensor):
            return torch.stack(results)[:count], 0
        return tuple(torch.stack(parts)[:count] for parts in zip(*results)), (0,) * len(results[0])

    return rule


def is_wrapped(*tensors: Tensor) -> bool:
    """Whether one of the tensors is a wrapper of torch.func's: vmap's, functionalize's or grad's."""
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


def require_batch(op: str, out: Tensor, result: Tensor) -> None:
    """Raises ShapeError where torch.vmap has many results for one `out`."""
    batched = torch._C._functorch.is_batchedtensor
    if batched(result) and not batched(out):
        raise ShapeError(
            f"{op}: out is one tensor for all examples of torch.vmap, expected one that is mapped over too"
        )
