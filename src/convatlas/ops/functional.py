"""The public ops: names and arguments of torch.nn.functional, computed by our kernels.

Every op takes `backend=` ("triton", "cuda", "cudnn", "numpy"; default: use_backend, CONVATLAS_BACKEND, then by device) and
`out=`, a tensor of the output's shape that may be a channel slice of a wider channels_last buffer, so that a concatenation costs
nothing. Outputs come in the memory format of the input. Raises ShapeError, DtypeError, BackendError,
or ArgumentError where an argument is no number, flag or known activation and one is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from convatlas.errors import BackendError, DtypeError, ShapeError
from convatlas.ops import hot, library
from convatlas.ops.backends import BACKENDS
from convatlas.ops.transforms import is_wrapped, require_batch, tensors_and_proxies, tensors_in
from convatlas.specs.activations import SLOPE, activation_of
from convatlas.specs.activations import leaky_relu as leaky_relu_of
from convatlas.specs.arguments import flag, integer, number, output_sizes, pair, shown, sides, stride_or

_ops = torch.ops.convatlas
Activation = str | tuple[str, float] | None
P, R = ParamSpec("P"), TypeVar("R")


def _overridable(op: Callable[P, R]) -> Callable[P, R]:
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

    return public


def _call(name: str, args: tuple, backend: str | None, out: Tensor | None) -> Tensor:
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


def _check(op: str, optional: tuple[str, ...] = OPTIONAL, **given: Any) -> None:
    """Raises DtypeError unless each operand is a dense tensor, or None where it is optional."""
    for name, x in given.items():
        if x is None and name in optional:
            continue
        if not isinstance(x, Tensor):
            raise DtypeError(f"{op}: {name} is {type(x).__name__}, expected a torch.Tensor")
        if x.is_nested or x.layout != torch.strided:
            kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").lstrip("_")
            raise DtypeError(f"{op}: {name} is a tensor of layout {kind}, expected a dense one")


def _batched(*tensors: Tensor | None) -> tuple[bool, list[Tensor | None]]:
    """(False, tensors) for an input (N, C, H, W), (True, tensors with a batch of one) for (C, H, W)."""
    if tensors[0].dim() == 3:
        return True, [x if x is None else x.unsqueeze(0) for x in tensors]
    return False, list(tensors)


def _unbatched_call(name: str, single: bool, args: tuple, backend: str | None, out: Tensor | None) -> Tensor:
    if not single:
        return _call(name, args, backend, out)
    y = _call(name, args, backend, None if out is None else out.unsqueeze(0))
    return y.squeeze(0) if out is None else out


def _autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Casts as torch.autocast does for F.conv2d and F.linear: floating tensors of the device, float64 excepted."""
    device = next(x.device.type for x in tensors if x is not None)
    if device == "meta" or not torch.is_autocast_enabled(device):  # the meta device knows no autocast, and raises
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [x.to(dtype) if x is not None and x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors]


@_overridable
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
    _check(op, input=input, weight=weight, bias=bias, residual=residual, out=out)
    activation = activation_of(activation, op)
    if weight.dim() != 4:
        raise ShapeError(f"{op}: weight of shape {tuple(weight.shape)}, expected (K, C/groups, R, S)")
    groups = integer(groups, "groups", op, "a positive int", 1)
    stride, dilation = pair(stride, "stride", op), pair(dilation, "dilation", op)
    (top, bottom), (left, right) = sides(padding, tuple(weight.shape[2:]), stride, dilation, op)
    single, (input, residual) = _batched(input, residual)
    input, weight, bias, residual = _autocast(input, weight, bias, residual)
    args = (input, weight, bias, list(stride), [top, bottom, left, right], list(dilation), groups, activation, residual)
    return _unbatched_call(op, single, args, backend, out)


@_overridable
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
    _check(op, input=input, weight=weight, bias=bias, out=out)
    activation = activation_of(activation, op)
    groups = integer(groups, "groups", op, "a positive int", 1)
    pairs = dict(stride=stride, padding=padding, output_padding=output_padding, dilation=dilation)
    stride, padding, output_padding, dilation = (list(pair(value, name, op)) for name, value in pairs.items())
    single, (input,) = _batched(input)
    args = (*_autocast(input, weight, bias), stride, padding, output_padding, groups, dilation, activation)
    return _unbatched_call(op, single, args, backend, out)


@_overridable
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
    _check("linear", input=input, weight=weight, bias=bias, out=out)
    activation = activation_of(activation, "linear")
    return _call("linear", (*_autocast(input, weight, bias), activation), backend, out)


@_overridable
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
    _check(op, input=input, out=out)
    kernel, strides, pads = _window(op, kernel_size, stride, padding)
    single, (input,) = _batched(input)
    args = (input, kernel, strides, pads, list(pair(dilation, "dilation", op)), flag(ceil_mode, "ceil_mode", op))
    if not flag(return_indices, "return_indices", op):
        return _unbatched_call(op, single, args, backend, out)
    if out is not None:
        raise ShapeError(f"{op}: out= together with return_indices=True, expected one of them")
    values, indices = _call(f"{op}_with_indices", args, backend, None)
    return (values.squeeze(0), indices.squeeze(0)) if single else (values, indices)


def _window(op: str, kernel_size: Any, stride: Any, padding: Any) -> tuple[list[int], list[int], list[int]]:
    kernel = pair(kernel_size, "kernel_size", op)
    return list(kernel), list(stride_or(kernel, stride, op)), list(pair(padding, "padding", op))


@_overridable
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
    _check(op, input=input, out=out)
    if divisor_override is not None:
        divisor_override = integer(divisor_override, "divisor_override", op, "an int other than 0")
    single, (input,) = _batched(input)
    window = _window(op, kernel_size, stride, padding)
    modes = flag(ceil_mode, "ceil_mode", op), flag(count_include_pad, "count_include_pad", op)
    args = (input, *window, *modes, divisor_override)
    return _unbatched_call(op, single, args, backend, out)


@_overridable
def adaptive_avg_pool2d(
    input: Tensor, output_size: Any, *, out: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Mean over windows that divide the input into P x Q, as torch.nn.functional.adaptive_avg_pool2d.

    output_size: an int or a pair; None keeps that size. Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "adaptive_avg_pool2d"
    _check(op, input=input, out=out)
    single, (input,) = _batched(input)
    sizes = [size if given is None else given for given, size in zip(output_sizes(output_size, op), input.shape[-2:])]
    return _unbatched_call(op, single, (input, sizes), backend, out)


@_overridable
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
    _check("residual_add", x=x, shortcut=shortcut, out=out)
    activation = activation_of(activation, "residual_add")
    return _call("residual_add", (x, shortcut, activation), backend, out)


@_overridable
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
    _check(op, (*OPTIONAL, "weight"), input=input, **statistics, weight=weight, bias=bias, out=out)
    number(momentum, "momentum", op)
    if flag(training, "training", op):
        raise ShapeError(f"{op}: training=True, expected False: convatlas normalises with running statistics only")
    activation = activation_of(activation, op)
    args = (input, running_mean, running_var, weight, bias, number(eps, "eps", op), activation)
    return _call(op, args, backend, out)


@_overridable
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
    _check(op, input=input, out=out)
    size = integer(size, "size", op, "a positive int", 1)
    numbers = number(alpha, "alpha", op), number(beta, "beta", op), number(k, "k", op)
    return _call(op, (input, size, *numbers), backend, out)


@_overridable
def softmax(input: Tensor, dim: int = -1, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """exp(x - max) / sum(exp(x - max)) along `dim`, as torch.nn.functional.softmax. Raises ShapeError, DtypeError."""
    _check("softmax", input=input, out=out)
    return _call("softmax", (input, integer(dim, "dim", "softmax")), backend, out)


@_overridable
def relu(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """max(input, 0); NaN stays NaN, as torch.relu. `out` may be the input itself."""
    _check("relu", input=input, out=out)
    return _call("relu", (input,), backend, out)


@_overridable
def relu6(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """min(max(input, 0), 6) (Krizhevsky 2010); NaN stays NaN. `out` may be the input itself."""
    _check("relu6", input=input, out=out)
    return _call("relu6", (input,), backend, out)


@_overridable
def sigmoid(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """1 / (1 + e^-input); torch.sigmoid. `out` may be the input itself."""
    _check("sigmoid", input=input, out=out)
    return _call("sigmoid", (input,), backend, out)


@_overridable
def hardsigmoid(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """min(max(input + 3, 0), 6) / 6, as torch.nn.functional.hardsigmoid (Howard et al. 2019). `out` may be the input."""
    _check("hardsigmoid", input=input, out=out)
    return _call("hardsigmoid", (input,), backend, out)


@_overridable
def silu(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """input / (1 + e^-input), as torch.nn.functional.silu; -inf becomes NaN (Elfwing et al. 2017). `out` may be the input."""
    _check("silu", input=input, out=out)
    return _call("silu", (input,), backend, out)


@_overridable
def hardswish(input: Tensor, *, out: Tensor | None = None, backend: str | None = None) -> Tensor:
    """input * min(max(input + 3, 0), 6) / 6, as torch.nn.functional.hardswish; -inf becomes NaN. `out` may be the input."""
    _check("hardswish", input=input, out=out)
    return _call("hardswish", (input,), backend, out)


@_overridable
def leaky_relu(
    input: Tensor, negative_slope: float = SLOPE, *, out: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """input above 0, else negative_slope * input, as torch.nn.functional.leaky_relu. `out` may be the input itself."""
    op = "leaky_relu"
    _check(op, input=input, out=out)
    slope = number(negative_slope, "negative_slope", op)
    leaky_relu_of(slope, op)
    return _call(op, (input, slope), backend, out)


@_overridable
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
    _check("concat", out=out, **{f"tensor {i}": x for i, x in enumerate(tensors)})
    return _call("concat", (list(tensors), integer(dim, "dim", "concat")), backend, out)
