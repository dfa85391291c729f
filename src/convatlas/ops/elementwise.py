"""The public ops that work element by element: addition, scaled channels, activations, concatenation."""

from __future__ import annotations

from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops.calling import Activation, batched, dispatch, dispatch_unbatched, overridable, require_dense
from convatlas.specs.activations import SLOPE, activation_of
from convatlas.specs.activations import leaky_relu as leaky_relu_of
from convatlas.specs.arguments import integer, number, shown


@overridable
def residual_add(
    x: Tensor,
    shortcut: Tensor,
    *,
    activation: Activation = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation(x + shortcut), both of one shape (He et al. 2015, equation 1). `out` may be x or shortcut itself.

    Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    require_dense("residual_add", x=x, shortcut=shortcut, out=out)
    activation = activation_of(activation, "residual_add")
    return dispatch("residual_add", (x, shortcut, activation), backend, out)


@overridable
def channel_scale(
    x: Tensor,
    scale: Tensor,
    *,
    gate: Activation = None,
    activation: Activation = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation(x * gate(scale) + residual), one factor a channel: squeeze and excitation's last step (Hu, Shen, Sun 2017).

    Args:
        x: (N, C, H, W) or (C, H, W).
        scale: (N, C, 1, 1), or (1, C, 1, 1) or (C, 1, 1) for all images alike.
        gate: what makes factors of `scale`, such as "sigmoid" or "hardsigmoid"; as `activation` one is given.
        activation: as conv2d's.
        residual: of x's shape, added before the activation.

    `out` may be x or the residual itself. Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "channel_scale"
    require_dense(op, x=x, scale=scale, residual=residual, out=out)
    gate, activation = activation_of(gate, op), activation_of(activation, op)
    single, (x, scale, residual) = batched(x, scale, residual)
    return dispatch_unbatched(op, single, (x, scale, gate, activation, residual), backend, out)


@overridable
def concat(
    tensors: list[Tensor] | tuple[Tensor, ...],
    dim: int = 1,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The tensors one after another along `dim` (default: channels), as torch.cat.

    Cheaper still: let each producer write its slice by `out=`. Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    if not isinstance(tensors, (list, tuple)) or not tensors:
        raise ShapeError(f"concat: tensors={shown(tensors)}, expected a list of at least one tensor")
    require_dense("concat", out=out, **{f"tensor {i}": x for i, x in enumerate(tensors)})
    return dispatch("concat", (list(tensors), integer(dim, "dim", "concat")), backend, out)


@overridable
def relu(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """max(input, 0); NaN stays NaN, as torch.relu. `out` may be the input itself."""
    require_dense("relu", input=input, out=out)
    return dispatch("relu", (input,), backend, out)


@overridable
def relu6(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """min(max(input, 0), 6) (Krizhevsky 2010); NaN stays NaN. `out` may be the input itself."""
    require_dense("relu6", input=input, out=out)
    return dispatch("relu6", (input,), backend, out)


@overridable
def sigmoid(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """1 / (1 + e^-input); torch.sigmoid. `out` may be the input itself."""
    require_dense("sigmoid", input=input, out=out)
    return dispatch("sigmoid", (input,), backend, out)


@overridable
def hardsigmoid(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """min(max(input + 3, 0), 6) / 6, as torch.nn.functional.hardsigmoid (Howard et al. 2019). `out` may be the input."""
    require_dense("hardsigmoid", input=input, out=out)
    return dispatch("hardsigmoid", (input,), backend, out)


@overridable
def silu(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """input / (1 + e^-input), as torch.nn.functional.silu; -inf becomes NaN (Elfwing et al. 2017). `out` may be the input."""
    require_dense("silu", input=input, out=out)
    return dispatch("silu", (input,), backend, out)


@overridable
def hardswish(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """input * min(max(input + 3, 0), 6) / 6, as torch.nn.functional.hardswish; -inf becomes NaN. `out` may be the input."""
    require_dense("hardswish", input=input, out=out)
    return dispatch("hardswish", (input,), backend, out)


@overridable
def leaky_relu(
    input: Tensor, negative_slope: float = SLOPE, *, out: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """input above 0, else negative_slope * input, as torch.nn.functional.leaky_relu. `out` may be the input itself."""
    op = "leaky_relu"
    require_dense(op, input=input, out=out)
    slope = number(negative_slope, "negative_slope", op)
    leaky_relu_of(slope, op)
    return dispatch(op, (input, slope), backend, out)
