"""The public ops that are gradients of conv2d: what autograd calls, and what may be called without it.

They follow torch.nn.grad.conv2d_input and conv2d_weight, with the output's gradient first, and take conv2d's geometry.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops.calling import autocast, dispatch, overridable, require_dense
from convatlas.specs.arguments import flag, integer, pair, shape_of, sides


def _geometry(op: str, weight_size: tuple, stride: Any, padding: Any, dilation: Any, groups: Any) -> tuple:
    """conv2d's stride, padding, dilation and groups as the registered ops take them."""
    if len(weight_size) != 4:
        raise ShapeError(f"{op}: weight of shape {tuple(weight_size)}, expected (K, C/groups, R, S)")
    groups = integer(groups, "groups", op, "a positive int", 1)
    stride, dilation = pair(stride, "stride", op), pair(dilation, "dilation", op)
    (top, bottom), (left, right) = sides(padding, tuple(weight_size[2:]), stride, dilation, op)
    return list(stride), [top, bottom, left, right], list(dilation), groups


@overridable
def conv2d_input_grad(
    grad_output: Tensor,
    weight: Tensor,
    input_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The gradient of conv2d(x, weight) by x, from that by its output, as torch.nn.grad.conv2d_input.

    Args:
        grad_output: (N, K, P, Q). channels_last in memory is the fast path.
        weight: (K, C/groups, R, S).
        input_size: x's shape (N, C, H, W), of which conv2d makes P x Q pixels.
        stride, padding, dilation, groups: as conv2d's.
        out: where to store; may be a channel slice.
        backend: see convatlas.ops.functional.

    Returns (N, C, H, W) in grad_output's dtype and memory format. It is a transposed convolution by phases of the stride: no zeros
    are inserted, nothing is scattered, and two runs give the same bits (specs.Conv2dInputGradSpec has the formula). An infinite or
    NaN weight makes NaN also where it meets the zeros outside grad_output. TF32 and torch.autocast as conv2d's.

    Raises ShapeError, DtypeError, BackendError.
    """
    op = "conv2d_input_grad"
    require_dense(op, grad_output=grad_output, weight=weight, out=out)
    size = list(shape_of(input_size, "input_size", op))
    geometry = _geometry(op, weight.shape, stride, padding, dilation, groups)
    return dispatch(op, (*autocast(grad_output, weight), size, *geometry), backend, out)


@overridable
def conv2d_weight_grad(
    grad_output: Tensor,
    input: Tensor,
    weight_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    bias_grad: bool = False,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The gradient of conv2d(input, w, b) by w, from that by its output, as torch.nn.grad.conv2d_weight.

    Args:
        grad_output: (N, K, P, Q). channels_last in memory is the fast path.
        input: (N, C, H, W).
        weight_size: w's shape (K, C/groups, R, S).
        stride, padding, dilation, groups: as conv2d's.
        bias_grad: also return the gradient by b, (K,): the sums of grad_output, taken in the same pass.
        out: where to store; may be a channel slice. It cannot be given together with bias_grad.
        backend: see convatlas.ops.functional.

    Returns (K, C/groups, R, S) in grad_output's dtype and memory format (specs.Conv2dWeightGradSpec has the formula). Sums are
    float32; the N*P*Q terms are summed in parts and the parts in a fixed order, so that two runs give the same bits. TF32 and
    torch.autocast as conv2d's.

    Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "conv2d_weight_grad"
    require_dense(op, grad_output=grad_output, input=input, out=out)
    size = list(shape_of(weight_size, "weight_size", op))
    args = (*autocast(grad_output, input), size, *_geometry(op, size, stride, padding, dilation, groups))
    if not flag(bias_grad, "bias_grad", op):
        return dispatch(op, args, backend, out)
    if out is not None:
        raise ShapeError(f"{op}: out= together with bias_grad=True, expected one of them")
    return dispatch(f"{op}_with_bias", args, backend, None)
