"""Batch normalisation at inference, and AlexNet's local response normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.activation import activate
from convatlas.specs import LocalResponseNormSpec, NormSpec


def batch_norm(
    x: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """y = activation((x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]), as torch.nn.functional.batch_norm.

    x is (N, C, ...), the rest (C,). Source: Ioffe, Szegedy 2015, algorithm 2. Raises ShapeError.
    """
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    given = {name: None if a is None else np.asarray(a, dtype) for name, a in given.items()}
    x = np.asarray(x, dtype)
    NormSpec.of(x.shape, eps, **{name: None if a is None else a.shape for name, a in given.items()})
    mean, var, weight, bias = (per_channel(a, x.ndim) for a in given.values())
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a negative variance is NaN, as in torch
        y = (x - mean) / np.sqrt(var + x.dtype.type(eps))
        if weight is not None:
            y = y * weight
        if bias is not None:
            y = y + bias
    return activate(y, activation)


def local_response_norm(
    x: np.ndarray, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, dtype: Any = np.float64
) -> np.ndarray:
    """y[n, c] = x[n, c] / (k + alpha/size * sum of x[n, j]^2 over j from c - size//2 to c + (size-1)//2)^beta.

    As torch.nn.functional.local_response_norm, which divides alpha by size; Krizhevsky et al. 2012, section 3.3, does not.
    x is (N, C, ...) of 3 dimensions or more; channels outside are zero. Raises ShapeError.
    """
    x = np.asarray(x, dtype)
    with np.errstate(all="ignore"):
        return x / lrn_base(x, LocalResponseNormSpec.of(x.shape, size), alpha, k) ** beta


def lrn_base(x: np.ndarray, spec: LocalResponseNormSpec, alpha: float, k: float) -> np.ndarray:
    """k + alpha/size * the sum of squares over the window of channels: what local_response_norm raises to beta."""
    before, after = spec.reach
    squares = np.zeros((x.shape[0], x.shape[1] + before + after, *x.shape[2:]), x.dtype)
    squares[:, before : before + x.shape[1]] = x * x
    total = sum(squares[:, i : i + x.shape[1]] for i in range(before + after + 1))
    return k + alpha * (total / spec.size)


def per_channel(a: np.ndarray | None, rank: int) -> np.ndarray | None:
    """(C,) -> (1, C, 1, ...), which broadcasts over an (N, C, ...) array of `rank` dimensions."""
    return None if a is None else a.reshape(1, -1, *[1] * (rank - 2))
