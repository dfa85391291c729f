"""The public ops that pool windows of an image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.ops.calling import batched, dispatch, dispatch_unbatched, overridable, require_dense
from convatlas.specs.arguments import flag, integer, output_sizes, pair, stride_or


@overridable
def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The largest element of every window, as torch.nn.functional.max_pool2d: padding is -inf, NaN wins.

    With return_indices it also returns each maximum's position h*W + w in the unpadded input (int64), the first of equal ones.
    `out` cannot be given together with return_indices. Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "max_pool2d"
    require_dense(op, input=input, out=out)
    kernel, strides, pads = _window(op, kernel_size, stride, padding)
    single, (input,) = batched(input)
    args = (input, kernel, strides, pads, list(pair(dilation, "dilation", op)), flag(ceil_mode, "ceil_mode", op))
    return _perhaps_with_indices(op, single, args, return_indices, backend, out)


def _perhaps_with_indices(
    op: str, single: bool, args: tuple, return_indices: bool, backend: str | None, out: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    if not flag(return_indices, "return_indices", op):
        return dispatch_unbatched(op, single, args, backend, out)
    if out is not None:
        raise ShapeError(f"{op}: out= together with return_indices=True, expected one of them")
    values, indices = dispatch(f"{op}_with_indices", args, backend, None)
    return (values.squeeze(0), indices.squeeze(0)) if single else (values, indices)


def _window(op: str, kernel_size: Any, stride: Any, padding: Any) -> tuple[list[int], list[int], list[int]]:
    kernel = pair(kernel_size, "kernel_size", op)
    return list(kernel), list(stride_or(kernel, stride, op)), list(pair(padding, "padding", op))


@overridable
def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The mean of every window, as torch.nn.functional.avg_pool2d. Raises ArgumentError, ShapeError, DtypeError, BackendError."""
    op = "avg_pool2d"
    require_dense(op, input=input, out=out)
    if divisor_override is not None:
        divisor_override = integer(divisor_override, "divisor_override", op, "an int other than 0")
    single, (input,) = batched(input)
    window = _window(op, kernel_size, stride, padding)
    modes = flag(ceil_mode, "ceil_mode", op), flag(count_include_pad, "count_include_pad", op)
    args = (input, *window, *modes, divisor_override)
    return dispatch_unbatched(op, single, args, backend, out)


@overridable
def adaptive_avg_pool2d(
    input: Tensor, output_size: Any, *, out: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Mean over windows that divide the input into P x Q, as torch.nn.functional.adaptive_avg_pool2d.

    output_size: an int or a pair; None keeps that size. Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "adaptive_avg_pool2d"
    require_dense(op, input=input, out=out)
    return dispatch_unbatched(op, *_adaptive(op, input, output_size), backend, out)


@overridable
def adaptive_max_pool2d(
    input: Tensor,
    output_size: Any,
    return_indices: bool = False,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Maximum over windows that divide the input into P x Q, as torch.nn.functional.adaptive_max_pool2d: NaN wins.

    output_size: an int or a pair; None keeps that size. return_indices as max_pool2d's.
    Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "adaptive_max_pool2d"
    require_dense(op, input=input, out=out)
    return _perhaps_with_indices(op, *_adaptive(op, input, output_size), return_indices, backend, out)


def _adaptive(op: str, input: Tensor, output_size: Any) -> tuple[bool, tuple]:
    single, (input,) = batched(input)
    return single, (
        input,
        [size if given is None else given for given, size in zip(output_sizes(output_size, op), input.shape[-2:])],
    )
