"""Softmax and cross-entropy as one, and its gradient: values, and what their error bounds are made of (docs/numerics.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.companions import Arrays, Companions, Params

TINY = 2.0**-100  # an exponential below 2^-126 may be flushed to 0


def _targets(a: Arrays, params: Params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each row counts, whether its target is a class, and that class (0 where it is none)."""
    target = a["target"].astype(np.int64)
    counts, known = target != params["ignore_index"], (target >= 0) & (target < a["input"].shape[1])
    return counts, known, np.where(known, target, 0)


def log_sum_exp(x: np.ndarray) -> np.ndarray:
    """lse[n] = log of the sum of exp(x[n, c])."""
    top = x.max(1, initial=-np.inf)
    return top + np.log(np.exp(x - top[:, None]).sum(1))


def cross_entropy_rows(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """loss[n] = lse[n] - (1 - e) x[n, t] - e * the mean of x[n], e = label_smoothing; 0 of a row that is ignored."""
    x, e = a["input"], a["input"].dtype.type(params["label_smoothing"])
    counts, known, target = _targets(a, params)
    loss = log_sum_exp(x) - (1 - e) * x[np.arange(len(x)), target]
    if e:
        loss = loss - e * x.mean(1)
    return np.where(counts, np.where(known, loss, np.nan), 0)


def cross_entropy_rows_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """The sum of exponentials errs relatively by 3 ln n + 4 + C sqrt(n), which is absolute of its logarithm."""
    x, e = np.abs(a["input"]), params["label_smoothing"]
    counts, _, target = _targets(a, params)
    n = x.shape[1]
    size = np.abs(a["input"].max(1, initial=-np.inf)) + np.abs(log_sum_exp(a["input"])) + 1 + np.log(n)
    size = np.where(counts, size + x[np.arange(len(x)), target] + e * x.mean(1), 0)
    return Companions(size, size.copy(), n, 12)


def cross_entropy_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx[n, c] = dy[n] (exp(x[n, c] - lse[n]) - (1 - e) [c = t] - e / C); 0 of a row that is ignored."""
    x, e, g = a["input"], a["input"].dtype.type(params["label_smoothing"]), a["grad_output"]
    counts, known, target = _targets(a, params)
    dx = np.exp(x - a["lse"][:, None]) - e / x.shape[1]
    dx[np.arange(len(x)), target] -= 1 - e
    dx = g[:, None] * np.where(known[:, None], dx, np.nan)
    return np.where(counts[:, None], dx, 0)


def cross_entropy_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """An error of u |x - lse| in the exponent is a relative one of the exponential."""
    x, e = a["input"], params["label_smoothing"]
    counts, _, target = _targets(a, params)
    off = np.abs(x - a["lse"][:, None])
    size = np.exp(x - a["lse"][:, None]) * (1 + off) + e / x.shape[1] + TINY
    size[np.arange(len(x)), target] += 1 - e
    size = np.where(counts[:, None], np.abs(a["grad_output"])[:, None] * size, 0)
    return Companions(size, size.copy(), 0, 12)


OPTIONS = ("ignore_index", "label_smoothing")
ROWS = {
    "cross_entropy_rows": (cross_entropy_rows, cross_entropy_rows_companions, ("return_lse", *OPTIONS)),
    "cross_entropy_grad": (cross_entropy_grad, cross_entropy_grad_companions, OPTIONS),
}
