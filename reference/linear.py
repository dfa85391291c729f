"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.errors import ShapeError
from convatlas.reference.activation import activate
from convatlas.specs import LinearSpec


def linear(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    activation: str | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """y[..., k] = activation(sum over c of x[..., c] * w[k, c] + bias[k]), as torch.nn.functional.linear.

    x is (..., C), w (K, C), bias (K,), y (..., K). Raises ShapeError, showing both sides, for shapes that do not fit.
    """
    x, w = np.asarray(x, dtype), np.asarray(w, dtype)
    spec = LinearSpec.of(x.shape, w.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        y = x @ w.T
        if bias is not None:
            bias = np.asarray(bias, dtype)
            if bias.shape != (spec.K,):
                raise ShapeError(f"linear: bias of shape {bias.shape}, expected ({spec.K},)")
            y = y + bias
    return activate(y, activation)
