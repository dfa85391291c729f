"""The float64 value of an op, with the companions that its error bound is made of (docs/numerics.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convatlas.errors import ShapeError
from convatlas.reference.activation import activate, relu, relu6, softmax
from convatlas.reference.concat import concat
from convatlas.reference.conv2d import correlate
from convatlas.reference.norm import batch_norm, local_response_norm, lrn_base, per_channel
from convatlas.reference.pool import adaptive_divisors, adaptive_sum, divisors, max_pool, window_sum
from convatlas.specs import AdaptivePool2dSpec, Conv2dSpec, Epilogue, LinearSpec, Pool2dSpec, Spec

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """What a kernel's output is held to.

    Attributes:
        op: its name, for messages.
        value: the exact result, in float64.
        magnitude: A, at least the absolute value of every intermediate that is rounded: for a convolution, the convolution
            of |x| and |w| plus |bias| plus |residual|.
        spread: the root mean square of those intermediates where the terms come in no particular order.
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


def truth(
    op: str,
    spec: Spec | None,
    epilogue: Epilogue | None,
    arrays: Arrays,
    params: dict[str, Any] | None = None,
) -> Truth:
    """The Truth of `op` on `arrays`, which hold exact values in any float dtype (bfloat16 comes as float32).

    op                    spec                    arrays                                               params
    conv2d                Conv2dSpec              input, weight, bias?, residual?
    linear                LinearSpec              input, weight, bias?
    max_pool2d            Pool2dSpec              input
    avg_pool2d            Pool2dSpec              input
    adaptive_avg_pool2d   AdaptivePool2dSpec      input
    residual_add          ResidualAddSpec         x, shortcut
    batch_norm            NormSpec                input, running_mean, running_var, weight?, bias?     eps
    local_response_norm   LocalResponseNormSpec   input                                                alpha, beta, k
    softmax               ElementwiseSpec         input                                                dim
    relu, relu6           ElementwiseSpec         input
    concat                ConcatSpec              "0", "1", ...

    The epilogue's activation is applied; its bias and residual are those in `arrays`. Raises ShapeError for an unknown op.
    """
    if op not in TRUTHS:
        raise ShapeError(f"truth: op {op!r}, expected one of {', '.join(TRUTHS)}")
    arrays = {name: np.asarray(a, np.float64) for name, a in arrays.items() if a is not None}
    with np.errstate(all="ignore"):
        value, magnitude, spread, length, roundings = TRUTHS[op](spec, arrays, params or {})
        value = activate(value, epilogue.activation if epilogue else None)
    # Where an infinity went into a finite result (relu6 of inf, 1 / inf), nothing was rounded.
    magnitude, spread = (np.where(np.isfinite(a), a, 0.0) for a in (magnitude, spread))
    return Truth(op, value, magnitude, spread, length, roundings)


Parts = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]


def _sum_of_products(
    product: Callable[[np.ndarray, np.ndarray], np.ndarray], a: Arrays, length: int, bias: np.ndarray | None
) -> Parts:
    """Convolution and linear: a sum of L products, to which bias and residual are added."""
    x, w = a["input"], a["weight"]
    value, magnitude, squares = product(x, w), product(np.abs(x), np.abs(w)), product(x * x, w * w)
    squares = squares + value * value
    for term in (bias, a.get("residual")):
        if term is not None:
            value, magnitude, squares = value + term, magnitude + np.abs(term), squares + term * term
            length += 1
    return value, magnitude, np.sqrt(squares), length, 0


def _conv2d(spec: Conv2dSpec, a: Arrays, params: dict) -> Parts:
    bias = a["bias"][:, None, None] if "bias" in a else None
    return _sum_of_products(lambda x, w: correlate(x, w, spec), a, spec.reduction, bias)


def _linear(spec: LinearSpec, a: Arrays, params: dict) -> Parts:
    return _sum_of_products(lambda x, w: x @ w.T, a, spec.reduction, a.get("bias"))


def _exact(value: np.ndarray) -> Parts:
    return value, np.zeros(value.shape), np.zeros(value.shape), 0, 0


def _mean(window_sums: Callable[[np.ndarray], np.ndarray], x: np.ndarray, divisor: np.ndarray, length: int) -> Parts:
    """Average pooling: a sum, and a division or a product with a rounded reciprocal, which is two roundings."""
    value, magnitude = window_sums(x) / divisor, window_sums(np.abs(x)) / np.abs(divisor)
    spread = np.sqrt(window_sums(x * x) / divisor**2 + value * value)
    return value, magnitude, spread, length, 2


def _avg_pool2d(spec: Pool2dSpec, a: Arrays, params: dict) -> Parts:
    return _mean(lambda x: window_sum(x, spec), a["input"], divisors(spec).astype(float), spec.reduction)


def _adaptive_avg_pool2d(spec: AdaptivePool2dSpec, a: Arrays, params: dict) -> Parts:
    divisor = adaptive_divisors(spec).astype(float)
    return _mean(lambda x: adaptive_sum(x, spec), a["input"], divisor, spec.reduction)


def _residual_add(spec: Spec, a: Arrays, params: dict) -> Parts:
    value = a["x"] + a["shortcut"]
    return value, np.abs(value), np.abs(value), 0, 1


def _batch_norm(spec: Spec, a: Arrays, params: dict) -> Parts:
    """Folded or not, at most 9 roundings of |x|*|scale|, |mean|*|scale| or |bias|: docs/numerics.md counts them."""
    eps = params.get("eps", 1e-5)
    mean, var, weight, bias = (a.get(name) for name in ("running_mean", "running_var", "weight", "bias"))
    value = batch_norm(a["input"], mean, var, weight, bias, eps)
    scale = np.abs(1.0 if weight is None else weight) / np.sqrt(var + eps)
    shift = np.abs(mean) * scale + np.abs(0.0 if bias is None else bias)
    rank = a["input"].ndim
    magnitude = np.abs(a["input"]) * per_channel(scale, rank) + per_channel(shift, rank)
    return value, magnitude, magnitude, 0, 9


def _local_response_norm(spec: Any, a: Arrays, params: dict) -> Parts:
    """Proportional to |y|: the relative error of base^-beta is beta times the base's, plus beta*|ln base| of the power's own."""
    alpha, beta, k = params.get("alpha", 1e-4), params.get("beta", 0.75), params.get("k", 1.0)
    x = a["input"]
    value = local_response_norm(x, spec.size, alpha, beta, k)
    base = lrn_base(x, spec.size, alpha, k)
    cancelled = lrn_base(x, spec.size, abs(alpha), abs(k)) / np.abs(base)  # 1 unless k or alpha is negative
    magnitude = np.abs(value) * (1 + abs(beta) * (cancelled + np.abs(np.log(base))))
    return value, magnitude, magnitude, spec.size, 10


def _softmax(spec: Spec, a: Arrays, params: dict) -> Parts:
    """Proportional to y: an error u*|d| in the exponent d = x - max is a relative error of the exponential."""
    dim = params.get("dim", -1)
    x = a["input"]
    value = softmax(x, dim)
    if x.size == 0:
        return _exact(value)
    axis = dim if x.ndim else None
    terms = x.shape[dim] if x.ndim else 1
    depth = x.max(axis=axis, keepdims=True) - x
    magnitude = value * (1 + depth + np.log(terms))
    return value, magnitude, magnitude, terms, 12


def _concat(spec: Any, a: Arrays, params: dict) -> Parts:
    return _exact(concat([a[str(i)] for i in range(len(a))], spec.dim if spec else params.get("dim", 1)))


TRUTHS: dict[str, Callable[[Any, Arrays, dict], Parts]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "max_pool2d": lambda spec, a, params: _exact(max_pool(a["input"], spec, return_indices=False)),
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "residual_add": _residual_add,
    "batch_norm": _batch_norm,
    "local_response_norm": _local_response_norm,
    "softmax": _softmax,
    "relu": lambda spec, a, params: _exact(relu(a["input"])),
    "relu6": lambda spec, a, params: _exact(relu6(a["input"])),
    "concat": _concat,
}
