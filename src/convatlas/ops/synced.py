"""Batch norm over the batch of all processes of a group, as torch.nn.SyncBatchNorm: ops/backward.py's passes, and two exchanges.

    forward    each process's count, mean and variance, gathered:  n = sum n_i,  mean = sum n_i mean_i / n,
               var = sum n_i (var_i + (mean_i - mean)^2) / n                        (Chan, Golub, LeVeque 1979)
    backward   the sums of dy and of dy x', added:  dx as of one process with the whole batch

The gradients of weight and bias are the process's own part, as torch's are: DistributedDataParallel makes one of all. All processes
compute with the gathered numbers in the order of their ranks, so that they hold the same bits.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from convatlas.errors import BackendError, ShapeError
from convatlas.ops.backends import current_backend
from convatlas.ops.backward import norm_gradients
from convatlas.ops.transforms import Saved, activated, saved_call
from convatlas.specs.activations import tells_nothing

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_ops = torch.ops.convatlas
KEPT = ("input", "weight", "output")


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    group: ProcessGroup,
    backend: str | None,
) -> tuple[Tensor, Tensor, int]:
    """(activation(batch norm by the group's statistics + residual), the statistics, values a channel in all processes).

    Raises ShapeError for a single value a channel in all processes, BackendError for "cudnn", whose backward takes no others' sums.
    """
    if (backend or current_backend()) == "cudnn":
        raise BackendError('batch_norm: group= on backend "cudnn", expected another one, or torch.nn.SyncBatchNorm')
    args = dict(
        input=input, weight=weight, bias=bias, eps=eps, activation=activation, residual=residual, backend=backend
    )
    if tells_nothing(activation):  # its derivative is computed of its argument
        y, statistics, count = _Synced.apply(group, {**args, "activation": None}, input, weight, bias, residual)
        return activated(y, activation, backend), statistics, int(count)
    y, statistics, count = _Synced.apply(group, args, input, weight, bias, residual)
    return y, statistics, int(count)


def gathered(of_own: Tensor, count: int, group: ProcessGroup) -> tuple[Tensor, int]:
    """(mean and biased variance of the values of all processes, how many they are a channel), from a process's own."""
    own = torch.cat([of_own.double().view(-1), of_own.new_tensor([count], dtype=torch.float64)])
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, own, group=group)
    every = torch.stack(parts)
    counts, (means, variances) = every[:, -1:], every[:, :-1].view(len(parts), 2, -1).unbind(1)
    total = counts.sum().clamp(min=1)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return torch.stack([mean, variance]).to(of_own.dtype), int(counts.sum())


class _Synced(torch.autograd.Function):
    """Batch norm by the group's statistics."""

    @staticmethod
    def forward(
        ctx: Any, group: ProcessGroup, args: dict[str, Any], *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, backend = args["input"], args["backend"]
        own = prod((x.shape[0], *x.shape[2:]))
        statistics, count = gathered(_ops.batch_norm_stats(x, backend), own, group)
        if count == 1:
            raise ShapeError(
                f"batch_norm: {count} value a channel in the inputs of all processes, expected more while training"
            )
        given = (args[name] for name in ("weight", "bias", "eps", "activation", "residual"))
        y = _ops.batch_norm(x, *statistics, *given, backend)
        ctx.group, ctx.saved, ctx.share = group, saved_call("batch_norm_train", args), own / max(count, 1)
        ctx.save_for_backward(x, args["weight"], y if args["activation"] else None, statistics)
        ctx.mark_non_differentiable(statistics)
        return y, statistics, torch.tensor(count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *constants: Any) -> tuple[Tensor | None, ...]:
        *kept, statistics = ctx.saved_tensors
        names = ("input", "weight", "bias", "residual")
        wanted = frozenset(name for name, needed in zip(names, ctx.needs_input_grad[2:]) if needed)
        saved: Saved = replace(ctx.saved, wanted=wanted, tensors=dict(zip(KEPT, kept)))

        def whole(sums: Tensor) -> Tensor:
            """The sums of all processes, times this one's share of the values: the kernel divides by the values that it has."""
            every = sums.clone()
            distributed.all_reduce(every, group=ctx.group)
            return every * ctx.share

        found = norm_gradients(saved, gradient, *statistics, True, whole)
        return (None, None, *(found.get(name) for name in names))
