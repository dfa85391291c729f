"""relu, relu6 and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.errors import ShapeError
from convatlas.specs import Epilogue


def relu(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = max(x, 0); relu(NaN) = NaN, as torch.relu (Nair, Hinton 2010)."""
    return np.maximum(np.asarray(x, dtype), 0)


def relu6(x: np.ndarray, *, dtype: Any = np.float64) -> np.ndarray:
    """y = min(max(x, 0), 6); relu6(NaN) = NaN, as torch.nn.functional.relu6 (Howard et al. 2017, MobileNets)."""
    return np.minimum(np.maximum(np.asarray(x, dtype), 0), 6)


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


def activate(y: np.ndarray, activation: str | None) -> np.ndarray:
    """`y` after the activation of that name (None, "relu" or "relu6"), in y's dtype. Raises ArgumentError for any other name."""
    name = Epilogue(activation=activation).activation
    if name is None:
        return y
    return relu(y, dtype=y.dtype) if name == "relu" else relu6(y, dtype=y.dtype)
