"""The public ops that set an element in proportion to others: batch norm, local response norm, softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops import synced
from convatlas.ops.calling import OPTIONAL, Activation, dispatch, overridable, require_dense
from convatlas.specs.activations import activation_of
from convatlas.specs.arguments import flag, integer, number

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overridable
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
    group: ProcessGroup | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation((input - mean) / sqrt(var + eps) * weight + bias + residual) per channel, as torch.nn.functional.batch_norm.

    At inference mean and var are running_mean and running_var. With `training` they are the batch's own, the biased variance,
    summed in float32 about the mean; running statistics that are given then become (1 - momentum) * running + momentum * batch's,
    with the unbiased variance. Statistics, weight and bias may be float32 beside half-precision inputs.

    residual: of input's shape, added before the activation in the same pass, and masked in the same pass of the backward.
    group: a torch.distributed process group, with `training`: the batch is that of all its processes, as torch.nn.SyncBatchNorm has
    it (ops/synced.py). Not under torch.compile, torch.func and vmap.

    `out` cannot be given together with training. Raises ArgumentError, ShapeError (also for a single value a channel while
    training), DtypeError, BackendError.
    """
    op = "batch_norm"
    training = flag(training, "training", op)
    optional = (*OPTIONAL, "weight", *("running_mean", "running_var") * training)
    statistics = dict(running_mean=running_mean, running_var=running_var)
    require_dense(op, optional, input=input, **statistics, weight=weight, bias=bias, residual=residual, out=out)
    momentum, eps = number(momentum, "momentum", op), number(eps, "eps", op)
    activation = activation_of(activation, op)
    if not training:
        return dispatch(op, (input, running_mean, running_var, weight, bias, eps, activation, residual), backend, out)
    if out is not None:
        raise ShapeError(f"{op}: out= together with training=True, expected one of them")
    given = input, weight, bias, eps, activation, residual
    if group is None:
        y, of_batch = dispatch("batch_norm_train", given, backend, None)
        count = input.numel() // max(input.shape[1], 1)
    else:
        y, of_batch, count = synced.batch_norm(*given, group, backend)
    if count:  # an empty batch has no statistics, and changes none
        with torch.no_grad():
            of_batch = of_batch.detach()
            _move(running_mean, of_batch[0], momentum)
            _move(running_var, of_batch[1] * (count / (count - 1)), momentum)
    return y


def _move(running: Tensor | None, to: Tensor, momentum: float) -> None:
    """A running statistic, moved towards the batch's."""
    if running is not None:
        running.mul_(1 - momentum).add_(to.to(running.dtype), alpha=momentum)


@overridable
def local_response_norm(
    input: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """input / (k + alpha/size * sum of squares over `size` channels)^beta, as torch.nn.functional.local_response_norm.

    Source: Krizhevsky et al. 2012, section 3.3, whose alpha is not divided by size.
    Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "local_response_norm"
    require_dense(op, input=input, out=out)
    size = integer(size, "size", op, "a positive int", 1)
    numbers = number(alpha, "alpha", op), number(beta, "beta", op), number(k, "k", op)
    return dispatch(op, (input, size, *numbers), backend, out)


@overridable
def softmax(input: Tensor, dim: int = -1, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """exp(x - max) / sum(exp(x - max)) along `dim`, as torch.nn.functional.softmax. Raises ShapeError, DtypeError."""
    require_dense("softmax", input=input, out=out)
    return dispatch("softmax", (input, integer(dim, "dim", "softmax")), backend, out)
