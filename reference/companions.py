"""What the error bound of each op is made of, beside its value (docs/numerics.md derives them): a function an op.

Each takes the spec, the operands in float64, the parameters and the value before the activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convatlas.reference.activation import ACTIVATIONS, activate
from convatlas.reference.conv2d import correlate
from convatlas.reference.conv2d_grad import by_taps
from convatlas.reference.conv_transpose2d import scatter
from convatlas.reference.norm import lrn_base, per_channel
from convatlas.reference.pool import adaptive_divisors, adaptive_sum, divisors, window_sum
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    Conv2dInputGradSpec,
    Conv2dSpec,
    Conv2dWeightGradSpec,
    ConvTranspose2dSpec,
    LinearSpec,
    Pool2dSpec,
)
from convatlas.specs.activations import parsed

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


@dataclass(frozen=True)
class Companions:
    """A Truth without its value (reference/truth.py says what each field is)."""

    magnitude: np.ndarray
    spread: np.ndarray
    length: int
    roundings: int


def exact(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """max_pool2d, adaptive_max_pool2d, relu, relu6, concat: the result is one of the inputs, or 0, or 6."""
    zero = np.zeros(value.shape)
    return Companions(zero, zero, 0, 0)


def _of_products(
    product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    length: int,
    a: Arrays,
    added: list[np.ndarray],
    value: np.ndarray,
    factors: tuple[str, str] = ("input", "weight"),
) -> Companions:
    """A sum of `length` products, to which bias and residual are added: A = sum |x||w| + |bias| + |residual|.

    Where the terms come in no particular order, a partial sum has a mean square of at most (the sum)^2 + sum of (x w)^2.
    """
    x, w = (a[name] for name in factors)
    magnitude = product(np.abs(x), np.abs(w))
    squares = product(x * x, w * w)
    for term in added:
        magnitude += np.abs(term)
        squares += term * term
        value = value - term
    squares += value * value
    return Companions(magnitude, np.sqrt(squares, out=squares), length + len(added), 0)


def conv2d(spec: Conv2dSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """The convolution of |x| and |w|."""
    return _of_products(lambda x, w: correlate(x, w, spec), spec.reduction, a, _added(a), value)


def conv_transpose2d(spec: ConvTranspose2dSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """The transposed convolution of |x| and |w|; L is the most products that an output sums."""
    return _of_products(lambda x, w: scatter(x, w, spec), spec.reduction, a, _added(a), value)


def conv2d_input_grad(spec: Conv2dInputGradSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """The same of |dy| and |w|."""
    factors = "grad_output", "weight"
    return _of_products(lambda dy, w: scatter(dy, w, spec), spec.reduction, a, [], value, factors)


def conv2d_weight_grad(spec: Conv2dWeightGradSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """The gradient by the weight from |dy| and |x|; L is N*P*Q, in however many parts they are summed."""
    factors = "grad_output", "input"
    return _of_products(lambda dy, x: by_taps(dy, x, spec.forward), spec.reduction, a, [], value, factors)


def _added(a: Arrays) -> list[np.ndarray]:
    bias = [a["bias"][:, None, None]] if "bias" in a else []
    return bias + ([a["residual"]] if "residual" in a else [])


def linear(spec: LinearSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    added = [a["bias"]] if "bias" in a else []
    return _of_products(lambda x, w: x @ w.T, spec.reduction, a, added, value)


def _mean(
    window_sums: Callable[[np.ndarray], np.ndarray], divisor: np.ndarray, length: int, x: np.ndarray, value: np.ndarray
) -> Companions:
    """Average pooling: a sum, then a division (one rounding) or a product with a rounded reciprocal (two)."""
    magnitude = window_sums(np.abs(x)) / np.abs(divisor)
    spread = np.sqrt(window_sums(x * x) / np.square(divisor) + value * value)
    return Companions(magnitude, spread, length, 2)


def avg_pool2d(spec: Pool2dSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    divisor = divisors(spec).astype(np.float64)
    return _mean(lambda x: window_sum(x, spec), divisor, spec.reduction, a["input"], value)


def adaptive_avg_pool2d(spec: AdaptivePool2dSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    divisor = adaptive_divisors(spec).astype(np.float64)
    return _mean(lambda x: adaptive_sum(x, spec), divisor, spec.reduction, a["input"], value)


def residual_add(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """One addition, rounded once."""
    return Companions(np.abs(value), np.abs(value), 0, 1)


# Below this, in units of float32's roundoff, a gate's e^-v may have become 0 or infinite: 2^-126 / 2^-24.
TINY = 2.0**-102


def channel_scale(spec: ChannelScaleSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """What the gate rounds times |x|, then a product and, with a residual, a sum, each rounded once."""
    x, v = np.abs(a["x"]), a["scale"]
    factor = activate(v, spec.gate)
    magnitude = x * np.abs(factor) + (np.abs(value) if "residual" in a else 0.0)
    roundings = ACTIVATIONS[parsed(spec.gate)[0]].roundings if spec.gate else None
    if roundings is not None:
        magnitude = magnitude + x * (roundings(v, factor) + (1 + np.abs(v)) * TINY)
    return Companions(magnitude, magnitude, 0, 1)


def batch_norm(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """At most 9 roundings of |x|*|scale|, |mean|*|scale| or |bias|, whether or not it is folded into scale and shift; a residual
    is added with one more.
    """
    scale = np.abs(a.get("weight", np.float64(1))) / np.sqrt(a["running_var"] + params.get("eps", 1e-5))
    shift = np.abs(a["running_mean"]) * scale + np.abs(a.get("bias", np.float64(0)))
    rank = a["input"].ndim
    magnitude = np.abs(a["input"]) * per_channel(scale, rank) + per_channel(shift, rank)
    if "residual" not in a:
        return Companions(magnitude, magnitude, 0, 9)
    magnitude = magnitude + np.abs(a["residual"])
    return Companions(magnitude, magnitude, 0, 10)


def local_response_norm(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """Proportional to |y|: base^-beta errs relatively by beta times the base's error, and by beta*|ln base| from the power."""
    alpha, beta, k = params.get("alpha", 1e-4), params.get("beta", 0.75), params.get("k", 1.0)
    base = lrn_base(a["input"], spec, alpha, k)
    cancelled = lrn_base(a["input"], spec, abs(alpha), abs(k)) / np.abs(base)  # 1 unless alpha or k is negative
    magnitude = np.abs(value) * (1 + abs(beta) * (cancelled + np.abs(np.log(base))))
    return Companions(magnitude, magnitude, spec.reduction, 10)


def softmax(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """Proportional to y: an error of u*|d| in the exponent d = x - max is a relative one of exp(d)."""
    x, dim = np.atleast_1d(a["input"]), params.get("dim", -1)
    if x.size == 0:
        return exact(spec, a, params, value)
    depth = np.max(x, axis=dim, keepdims=True) - x
    magnitude = value * (1 + depth + np.log(x.shape[dim])).reshape(value.shape)
    return Companions(magnitude, magnitude, x.shape[dim], 12)
