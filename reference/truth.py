"""The float64 value of an op, with the companions that its error bound is made of (docs/numerics.md derives them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convatlas.reference.activation import activate
from convatlas.reference.conv2d import correlate
from convatlas.reference.evaluate import Arrays, Params, as_arrays, before_activation
from convatlas.reference.norm import lrn_base, per_channel
from convatlas.reference.pool import adaptive_divisors, adaptive_sum, divisors, window_sum
from convatlas.specs import AdaptivePool2dSpec, Conv2dSpec, Epilogue, LinearSpec, Pool2dSpec, Spec


@dataclass(frozen=True)
class Truth:
    """What a kernel's output is held to.

    Attributes:
        op: its name, for messages.
        value: the exact result, in float64.
        magnitude: A, at least the absolute value of every intermediate that is rounded: for a convolution, the convolution
            of |x| and |w| plus |bias| plus |residual|.
        spread: S, the root mean square of those intermediates where the terms come in no particular order.
        length: L, the terms summed, whose roundings add up like a random walk; 0 where nothing is summed.
        roundings: further roundings in the accumulator's precision, counted one by one, each of at most A.
    """

    op: str
    value: np.ndarray
    magnitude: np.ndarray
    spread: np.ndarray
    length: int
    roundings: int

    @property
    def exact(self) -> bool:
        """Nothing is rounded: maxima, relu, concatenation."""
        return self.length == 0 and self.roundings == 0


@dataclass(frozen=True)
class Companions:
    """A Truth without its value."""

    magnitude: np.ndarray
    spread: np.ndarray
    length: int
    roundings: int


def truth(op: str, spec: Spec | None, epilogue: Epilogue | None, arrays: Arrays, params: Params | None = None) -> Truth:
    """The Truth of `op` on `arrays`, which hold exact values in any float dtype (bfloat16 comes as float32).

    Arguments and errors are those of convatlas.reference.evaluate. Magnitude and spread are taken before the activation, which
    makes no error larger: relu and relu6 move no two numbers apart.
    """
    params = params or {}
    arrays = as_arrays(arrays, np.float64)
    with np.errstate(all="ignore"):
        value = before_activation(op, spec, arrays, params)
        parts = COMPANIONS.get(op, _exact)(spec, arrays, params, value)
        value = activate(value, epilogue.activation if epilogue else None)
        # Where an infinity went into a finite result (relu6 of inf, 1 / inf), nothing was rounded.
        magnitude, spread = np.asarray(parts.magnitude), np.asarray(parts.spread)
        for companion in (magnitude, spread):
            companion[~np.isfinite(companion)] = 0.0
    return Truth(op, value, magnitude, spread, parts.length, parts.roundings)


def _exact(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """max_pool2d, relu, relu6, concat: the result is one of the inputs, or 0, or 6."""
    zero = np.zeros(value.shape)
    return Companions(zero, zero, 0, 0)


def _sum_of_products(
    product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    length: int,
    a: Arrays,
    added: list[np.ndarray],
    value: np.ndarray,
) -> Companions:
    """A sum of `length` products, to which bias and residual are added: A = sum |x||w| + |bias| + |residual|.

    Of a sum whose terms come in no particular order, a part has mean square at most (the sum)^2 + sum of (x w)^2.
    """
    x, w = a["input"], a["weight"]
    magnitude = product(np.abs(x), np.abs(w))
    squares = product(x * x, w * w)
    for term in added:
        magnitude += np.abs(term)
        squares += term * term
        value = value - term
    squares += value * value
    return Companions(magnitude, np.sqrt(squares, out=squares), length + len(added), 0)


def _conv2d(spec: Conv2dSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    added = [a["bias"][:, None, None]] if "bias" in a else []
    added += [a["residual"]] if "residual" in a else []
    return _sum_of_products(lambda x, w: correlate(x, w, spec), spec.reduction, a, added, value)


def _linear(spec: LinearSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    added = [a["bias"]] if "bias" in a else []
    return _sum_of_products(lambda x, w: x @ w.T, spec.reduction, a, added, value)


def _mean(
    window_sums: Callable[[np.ndarray], np.ndarray], divisor: np.ndarray, length: int, x: np.ndarray, value: np.ndarray
) -> Companions:
    """Average pooling: a sum, then a division, or a product with a rounded reciprocal, which is two roundings."""
    magnitude = window_sums(np.abs(x)) / np.abs(divisor)
    spread = np.sqrt(window_sums(x * x) / np.square(divisor) + value * value)
    return Companions(magnitude, spread, length, 2)


def _avg_pool2d(spec: Pool2dSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    divisor = divisors(spec).astype(np.float64)
    return _mean(lambda x: window_sum(x, spec), divisor, spec.reduction, a["input"], value)


def _adaptive_avg_pool2d(spec: AdaptivePool2dSpec, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    divisor = adaptive_divisors(spec).astype(np.float64)
    return _mean(lambda x: adaptive_sum(x, spec), divisor, spec.reduction, a["input"], value)


def _residual_add(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """One addition, rounded once."""
    return Companions(np.abs(value), np.abs(value), 0, 1)


def _batch_norm(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """Folded into scale and shift or not, at most 9 roundings of |x|*|scale|, |mean|*|scale| or |bias|."""
    scale = np.abs(a.get("weight", np.float64(1))) / np.sqrt(a["running_var"] + params.get("eps", 1e-5))
    shift = np.abs(a["running_mean"]) * scale + np.abs(a.get("bias", np.float64(0)))
    rank = a["input"].ndim
    magnitude = np.abs(a["input"]) * per_channel(scale, rank) + per_channel(shift, rank)
    return Companions(magnitude, magnitude, 0, 9)


def _local_response_norm(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """Proportional to |y|: base^-beta errs relatively by beta times the base's error, and by beta*|ln base| from the power."""
    alpha, beta, k = params.get("alpha", 1e-4), params.get("beta", 0.75), params.get("k", 1.0)
    base = lrn_base(a["input"], spec, alpha, k)
    cancelled = lrn_base(a["input"], spec, abs(alpha), abs(k)) / np.abs(base)  # 1 unless alpha or k is negative
    magnitude = np.abs(value) * (1 + abs(beta) * (cancelled + np.abs(np.log(base))))
    return Companions(magnitude, magnitude, spec.reduction, 10)


def _softmax(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """Proportional to y: an error of u*|d| in the exponent d = x - max is a relative one of exp(d)."""
    x, dim = np.atleast_1d(a["input"]), params.get("dim", -1)
    if x.size == 0:
        return _exact(spec, a, params, value)
    depth = np.max(x, axis=dim, keepdims=True) - x
    magnitude = value * (1 + depth + np.log(x.shape[dim])).reshape(value.shape)
    return Companions(magnitude, magnitude, x.shape[dim], 12)


COMPANIONS: dict[str, Callable[[Any, Arrays, Params, np.ndarray], Companions]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "residual_add": _residual_add,
    "batch_norm": _batch_norm,
    "local_response_norm": _local_response_norm,
    "softmax": _softmax,
}
