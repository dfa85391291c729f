"""The public ops that set an element in proportion to others: batch norm, local response norm, softmax."""

from __future__ import annotations

from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops.calling import OPTIONAL, Activation, dispatch, overridable, require_dense
from convatlas.specs.activations import activation_of
from convatlas.specs.arguments import flag, integer, number


@overridable
def batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation((input - running_mean) / sqrt(running_var + eps) * weight + bias) per channel: batch_norm at inference.

    Arguments as torch.nn.functional.batch_norm; `momentum` has no effect, `training=True` raises ShapeError (it needs a backward,
    which is not here yet). Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "batch_norm"
    statistics = dict(running_mean=running_mean, running_var=running_var)
    require_dense(op, (*OPTIONAL, "weight"), input=input, **statistics, weight=weight, bias=bias, out=out)
    number(momentum, "momentum", op)
    if flag(training, "training", op):
        raise ShapeError(f"{op}: training=True, expected False: convatlas normalises with running statistics only")
    activation = activation_of(activation, op)
    args = (input, running_mean, running_var, weight, bias, number(eps, "eps", op), activation)
    return dispatch(op, args, backend, out)


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
