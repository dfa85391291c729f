"""How torch's transforms treat an op: which derivatives it has and which it refuses, and torch.vmap's way, example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual
from torch.autograd.function import _SingleLevelFunction

from convatlas.errors import ConvAtlasError, ShapeError
from convatlas.ops.backends import current_backend
from convatlas.specs.activations import parsed, tells_nothing

Gradients = dict[str, Tensor]


class BackwardError(ConvAtlasError, NotImplementedError):
    """A derivative that an op does not have."""


@dataclass
class Saved:
    """What is known of a call in its backward pass.

    Attributes:
        op: its name in torch.ops.convatlas.
        args: its arguments by name, those that are tensors left out.
        shapes, dtypes: of each tensor among its arguments, a tensor list's under "0", "1", ...
        wanted: the tensors whose gradients somebody wants.
        backend: of the call, for the ops of its backward pass. On a GPU that pass runs in a thread of its own, where use_backend
            does not hold.
        tensors: those that its formula keeps, by name; an absent operand is None.
    """

    op: str
    args: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    wanted: frozenset[str]
    backend: str | None
    tensors: dict[str, Tensor | None] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Formula(NamedTuple):
    """How the gradients of an op come about; ops/gradients.py has one for each.

    Attributes:
        keep: names of the arguments and results that `backward` needs. They live until it ran.
        backward: from the Saved and the gradient of the (first) result to the gradients of the tensors that want one.
        forward: from the Saved to the name of the op to run instead while a gradient is wanted, which takes the same arguments;
            None is the op itself.
        results: names of what that op returns. All but the first are constants to autograd.
        constants: arguments that get no gradient; asking for one is refused.
    """

    keep: Callable[[Saved], tuple[str, ...]]
    backward: Callable[[Saved, Tensor], Gradients]
    forward: Callable[[Saved], str] | None = None
    results: tuple[str, ...] = ("output",)
    constants: tuple[str, ...] = ()


FORMULAS: dict[str, Formula] = {}


def _with_outer_derivatives(run: Callable[[], Any]) -> Any:
    """run(), with those derivatives on that torch.func's outer transforms take: autograd.Function turns all of them off."""
    if not torch._C._are_functorch_transforms_active():
        return run()
    with torch.enable_grad(), _set_fwd_grad_enabled(True):
        return run()


class _Differentiable(_SingleLevelFunction):
    """An op with a formula, for one level of autograd or of torch.func.grad."""

    @staticmethod
    def forward(ctx: Any, saved: Saved, formula: Formula, run: Callable[[], Any], *tensors: Tensor) -> Any:
        result = _with_outer_derivatives(run)
        results = result if isinstance(result, tuple) else (result,)
        known = {**dict(zip(saved.shapes, tensors)), **dict(zip(formula.results, results))}
        ctx.saved, ctx.formula, ctx.names = saved, formula, formula.keep(saved)
        ctx.save_for_backward(*(known.get(name) for name in ctx.names))
        if formula.forward is not None:
            return results[0]
        if len(results) > 1:
            ctx.mark_non_differentiable(*results[1:])
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *constants: Any) -> tuple[Tensor | None, ...]:
        names = tuple(ctx.saved.shapes)
        wanted = frozenset(name for name, needed in zip(names, ctx.needs_input_grad[3:]) if needed)
        tensors = dict(zip(ctx.names, ctx.saved_tensors))
        found = ctx.formula.backward(replace(ctx.saved, wanted=wanted, tensors=tensors), gradient)
        return (None, None, None, *(found[name] if name in wanted else None for name in names))


class _NoBackward(_SingleLevelFunction):
    """Links an op's result to its tensors, so that a backward through it is refused where it arrives."""

    @staticmethod
    def forward(ctx: Any, name: str, run: Callable[[], Any], *tensors: Tensor) -> Any:
        ctx.name = name
        return _with_outer_derivatives(run)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise _no_backward(ctx.name)


def _no_backward(name: str) -> BackwardError:
    if name.endswith(
        ("_grad", "_sums", "_stats")
    ):  # a part of a backward pass: what is asked for is a second derivative
        return BackwardError(
            f"convatlas.{name} has no derivative, so that nothing has a second one through it: expected a backward "
            "through the first alone, or torch.nn.functional"
        )
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


def saved_call(op: str, args: dict[str, Any]) -> Saved:
    """What a call's backward pass will know of it, but for the tensors."""
    tensors: dict[str, Tensor] = {}
    for name, value in args.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif name == "tensors":
            tensors.update((str(i), x) for i, x in enumerate(value))
    others = {name: value for name, value in args.items() if name not in tensors and name != "tensors"}
    backend = args["backend"]
    if backend is None and not torch.compiler.is_compiling():  # a graph is traced once, and chooses each time it runs
        backend = current_backend()
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    wanted = frozenset(name for name, x in tensors.items() if x.requires_grad)
    return Saved(op, others, shapes, {name: x.dtype for name, x in tensors.items()}, wanted, backend)


def activated(x: Tensor, activation: str, backend: str | None) -> Tensor:
    """The activation by our own op."""
    name, slope = parsed(activation)
    return getattr(torch.ops.convatlas, name)(x, *(slope,) * (name == "leaky_relu"), backend)


def derivative_rule(name: str, arguments: list[str]) -> Callable[..., Any]:
    """The kernel of torch.ops.convatlas.<name> for the dispatch key Autograd; `arguments` are the names in its schema.

    Where a gradient is wanted it links the result to the tensors by the op's formula (FORMULAS). An op with an activation whose
    value does not tell its derivative (silu) then runs as two, so that the argument is there. It raises BackwardError for
    forward-mode derivatives (dual numbers, torch.func.jvp and jacfwd) and, when backward() arrives, for an op without a formula;
    ShapeError where an `out` would lose a gradient.
    """
    public = name
    for suffix in ("_out", "_with_indices", "_with_winners", "_with_bias", "_with_masked", "_train"):
        public = public.removesuffix(suffix)

    def rule(keyset: Any, *values: Any, **keywords: Any) -> Any:
        tensors = list(tensors_in((*values, *keywords.values())))
        if forward_ad._current_level >= 0 and any(unpack_dual(x).tangent is not None for x in tensors):
            raise BackwardError(
                f"convatlas.{public} has no forward-mode derivative yet: expected tensors without a tangent (x.detach()), "
                "or torch.nn.functional"
            )

        def run(op: str = name) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                overload = getattr(torch.ops.convatlas, op).default
                return overload.redispatch(keyset & torch._C._after_autograd_keyset, *values, **keywords)

        if not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
            return run()
        if name.endswith("_out"):
            raise ShapeError(
                f"{public}: out= does not support automatic differentiation, but an argument requires a gradient; "
                "run it under torch.no_grad()"
            )
        with enable_single_level_autograd_function():
            formula = FORMULAS.get(name)
            if formula is None:
                return _NoBackward.apply(public, run, *tensors)
            args = {"backend": None, **dict(zip(arguments, values)), **keywords}
            if tells_nothing(activation := args.get("activation")):
                before = getattr(torch.ops.convatlas, name)(**{**args, "activation": None})
                value, *rest = before if isinstance(before, tuple) else (before,)
                value = activated(value, activation, args["backend"])
                return (value, *rest) if rest else value
            saved = saved_call(name, args)
            if refused := saved.wanted.intersection(formula.constants):
                raise BackwardError(f"convatlas.{public} has no backward for {', '.join(sorted(refused))} yet")
            chosen = name if formula.forward is None else formula.forward(saved)
            return _Differentiable.apply(saved, formula, partial(run, chosen), *tensors)

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
