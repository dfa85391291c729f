"""The public ops that multiply with weights: convolutions and linear layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops.calling import (
    Activation,
    autocast,
    batched,
    dispatch,
    dispatch_unbatched,
    overridable,
    require_dense,
)
from convatlas.specs.activations import activation_of
from convatlas.specs.arguments import integer, pair, sides


@overridable
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation(conv(input, weight) + bias + residual), one kernel; the convolution is torch.nn.functional.conv2d's.

    Args:
        input: (N, C, H, W) or (C, H, W). channels_last in memory is the fast path.
        weight: (K, C/groups, R, S); channels_last in memory saves a copy per call.
        bias: (K,) or None.
        stride, dilation: an int or a pair.
        padding: an int, a pair, "same" (stride 1), "valid", or ((top, bottom), (left, right)).
        groups: divides C and K.
        activation: None, "relu", "relu6", "sigmoid", "hardsigmoid", "silu", "hardswish", "leaky_relu" or ("leaky_relu", slope).
        residual: of the output's shape, added before the activation.
        out: where to store; may be a channel slice.
        backend: see the module.

    Returns (N, K, P, Q), P = floor((H + top + bottom - dilation*(R-1) - 1) / stride) + 1, in the input's dtype and memory format.
    float32 multiplies in TF32 where torch.backends.cudnn allows it; sums are float32. Under torch.autocast it casts as F.conv2d.

    Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "conv2d"
    require_dense(op, input=input, weight=weight, bias=bias, residual=residual, out=out)
    activation = activation_of(activation, op)
    if weight.dim() != 4:
        raise ShapeError(f"{op}: weight of shape {tuple(weight.shape)}, expected (K, C/groups, R, S)")
    groups = integer(groups, "groups", op, "a positive int", 1)
    stride, dilation = pair(stride, "stride", op), pair(dilation, "dilation", op)
    (top, bottom), (left, right) = sides(padding, tuple(weight.shape[2:]), stride, dilation, op)
    single, (input, residual) = batched(input, residual)
    input, weight, bias, residual = autocast(input, weight, bias, residual)
    args = (input, weight, bias, list(stride), [top, bottom, left, right], list(dilation), groups, activation, residual)
    return dispatch_unbatched(op, single, args, backend, out)


@overridable
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: Activation = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation(conv_transpose(input, weight) + bias); the convolution is torch.nn.functional.conv_transpose2d's.

    Args:
        input: (N, C, H, W) or (C, H, W). channels_last in memory is the fast path.
        weight: (C, K/groups, R, S).
        bias: (K,) or None.
        stride, padding, output_padding, dilation: an int or a pair; output_padding is below the stride or the dilation.
        groups: divides C.
        activation: None, "relu", "relu6", "sigmoid", "hardsigmoid", "silu", "hardswish", "leaky_relu" or ("leaky_relu", slope).
        out: where to store; may be a channel slice.
        backend: see the module.

    Returns (N, K, P, Q), P = (H - 1)*stride - 2*padding + dilation*(R - 1) + output_padding + 1, in the input's dtype and memory
    format. No zeros are inserted: outputs of one phase of the stride are a dense convolution, a launch each
    (specs.ConvTranspose2dSpec). An infinite or NaN weight makes NaN also where it meets the zeros outside the input. TF32 and
    torch.autocast as conv2d's.

    Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "conv_transpose2d"
    require_dense(op, input=input, weight=weight, bias=bias, out=out)
    activation = activation_of(activation, op)
    groups = integer(groups, "groups", op, "a positive int", 1)
    pairs = dict(stride=stride, padding=padding, output_padding=output_padding, dilation=dilation)
    stride, padding, output_padding, dilation = (list(pair(value, name, op)) for name, value in pairs.items())
    single, (input,) = batched(input)
    args = (*autocast(input, weight, bias), stride, padding, output_padding, groups, dilation, activation)
    return dispatch_unbatched(op, single, args, backend, out)


@overridable
def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation(input @ weight.T + bias): (..., C) x (K, C) -> (..., K), as torch.nn.functional.linear.

    float32 multiplies in TF32 where torch.backends.cuda.matmul allows it.
    Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    require_dense("linear", input=input, weight=weight, bias=bias, out=out)
    activation = activation_of(activation, "linear")
    return dispatch("linear", (*autocast(input, weight, bias), activation), backend, out)
