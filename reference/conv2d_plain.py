"""Convolution as its definition reads: seven loops. Slow on purpose; conv2d.py is the fast form, and the two must agree."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.conv2d import finish
from convatlas.specs import Conv2dSpec


def conv2d_plain(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: np.ndarray | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """y[n, k, p, q] = activation(sum over c, r, s of x[n, g*C/G + c, h, i] * w[k, c, r, s] + bias[k] + residual[n, k, p, q])

    with h = p*u - top + r*d, i = q*v - left + s*e, g = k // (K/G), x zero outside its H x W. Arguments, result and errors
    are conv2d's.
    """
    x, w = np.asarray(x, dtype), np.asarray(w, dtype)
    spec = Conv2dSpec.of(x.shape, w.shape, stride, padding, dilation, groups)
    (u, v), (d, e), ((top, _), (left, _)) = spec.stride, spec.dilation, spec.padding
    channels, filters = spec.C // groups, spec.K // groups  # of one group
    zero = x.dtype.type(0)
    y = np.zeros(spec.output_shape, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for n, k, p, q in np.ndindex(y.shape):
            group = k // filters
            total = zero
            for c in range(channels):
                for r in range(spec.R):
                    for s in range(spec.S):
                        h = p * u - top + r * d
                        i = q * v - left + s * e
                        inside = 0 <= h < spec.H and 0 <= i < spec.W
                        pixel = x[n, group * channels + c, h, i] if inside else zero
                        total += pixel * w[k, c, r, s]
            y[n, k, p, q] = total
    return finish(y, spec, bias, activation, residual)
