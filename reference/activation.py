"""The activations, with what computing one may err by, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convatlas.errors import ShapeError
from convatlas.specs.activations import SLOPE, activation_of, parsed


def relu(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = max(x, 0); relu(NaN) = NaN, as torch.relu (Nair, Hinton 2010)."""
    return np.maximum(np.asarray(x, dtype), 0)


def relu6(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = min(max(x, 0), 6); relu6(NaN) = NaN, as torch.nn.functional.relu6 (Howard et al. 2017, MobileNets)."""
    return np.minimum(np.maximum(np.asarray(x, dtype), 0), 6)


def leaky_relu(x: np.ndarray, negative_slope: float = SLOPE, *, dtype: Any = np.float64) -> np.ndarray:
    """y = x for x > 0, else negative_slope * x, as torch.nn.functional.leaky_relu (Maas, Hannun, Ng 2013)."""
    x = np.asarray(x, dtype)
    with np.errstate(invalid="ignore"):
        return np.where(x > 0, x, x * np.asarray(negative_slope, dtype))


def sigmoid(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = 1 / (1 + e^-x), as torch.sigmoid."""
    x = np.asarray(x, dtype)
    e = np.exp(-np.abs(x))  # at most 1: nothing overflows
    return np.where(x < 0, e, 1) / (1 + e)


def hardsigmoid(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = min(max(x + 3, 0), 6) / 6, as torch.nn.functional.hardsigmoid (Howard et al. 2019, MobileNetV3)."""
    return relu6(np.asarray(x, dtype) + 3, dtype=dtype) / np.asarray(6, dtype)


def silu(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = x / (1 + e^-x), as torch.nn.functional.silu; silu(-inf) = NaN (Elfwing, Uchibe, Doya 2017; swish)."""
    x = np.asarray(x, dtype)
    with np.errstate(invalid="ignore"):
        return x * sigmoid(x, dtype=dtype)


def hardswish(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = x * min(max(x + 3, 0), 6) / 6, as torch.nn.functional.hardswish; hardswish(-inf) = NaN (Howard et al. 2019)."""
    x = np.asarray(x, dtype)
    with np.errstate(invalid="ignore"):
        return x * hardsigmoid(x, dtype=dtype)


@dataclass(frozen=True)
class Activation:
    """One row: the function, and its part of the error bound (docs/numerics.md, "Activations").

    Attributes:
        value: of an array and a slope.
        lipschitz: by how much at most an error of the argument grows; of a slope.
        roundings: of (argument, value): how many units of roundoff computing it adds, as an absolute error; arrays or
            tensors. None for an activation that rounds nothing.
    """

    value: Callable[[np.ndarray, float], np.ndarray]
    lipschitz: Callable[[float], float] = lambda slope: 1.0
    roundings: Callable[[Any, Any], Any] | None = None


def _by_exponential(v: Any, y: Any) -> Any:
    return abs(y) * (10 + 1.25 * (abs(v) - v))  # 2.5 |v| below 0


ACTIVATIONS = {
    "relu": Activation(lambda x, slope: relu(x, dtype=x.dtype)),
    "relu6": Activation(lambda x, slope: relu6(x, dtype=x.dtype)),
    "leaky_relu": Activation(
        lambda x, slope: leaky_relu(x, slope, dtype=x.dtype),
        lambda slope: max(1.0, abs(slope)),
        lambda v, y: 2 * abs(y) * (v < 0),
    ),
    "sigmoid": Activation(lambda x, slope: sigmoid(x, dtype=x.dtype), lambda slope: 0.25, _by_exponential),
    "hardsigmoid": Activation(
        lambda x, slope: hardsigmoid(x, dtype=x.dtype), lambda slope: 1 / 6, lambda v, y: 6 * abs(y)
    ),
    "silu": Activation(lambda x, slope: silu(x, dtype=x.dtype), lambda slope: 1.1, _by_exponential),
    "hardswish": Activation(lambda x, slope: hardswish(x, dtype=x.dtype), lambda slope: 1.5, lambda v, y: 7 * abs(y)),
}


def softmax(x: np.ndarray, dim: int = -1, *, dtype: Any = np.float64) -> np.ndarray:
    """y = exp(x - m) / sum of exp(x - m) over `dim`, m the maximum over `dim`, as torch.nn.functional.softmax.

    A slice that holds NaN or +inf, or only -inf, becomes NaN. Raises ShapeError for a dim out of range.
    """
    x = np.asarray(x, dtype)
    rank = max(x.ndim, 1)  # torch takes dim 0 or -1 of a scalar
    if not -rank <= dim < rank:
        raise ShapeError(f"softmax: dim={dim}, expected an int from {-rank} to {rank - 1}")
    if x.size == 0:
        return x.copy()
    axis = dim if x.ndim else None
    with np.errstate(invalid="ignore"):  # inf - inf is the NaN that is wanted
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)


def activate(y: np.ndarray, activation: Any) -> np.ndarray:
    """`y` after the activation (None, or as specs/activations.py takes one), in y's dtype. Raises ArgumentError for any other."""
    activation = activation_of(activation)
    if activation is None:
        return y
    name, slope = parsed(activation)
    return ACTIVATIONS[name].value(y, slope)
