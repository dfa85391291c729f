"""Transposed convolution, twice: each tap scattered as one matrix product, and the seven loops of its definition."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.conv2d import finish
from convatlas.specs import ConvTranspose2dSpec


def conv_transpose2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: str | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """y = activation(conv_transpose(x, w) + bias), as torch.nn.functional.conv_transpose2d; NumPy arrays, NCHW.

    x is (N, C, H, W), w (C, K/groups, R, S), bias (K,), y (N, K, P, Q), P = (H - 1)*stride - 2*padding + dilation*(R - 1) +
    output_padding + 1. The formula is written out in conv_transpose2d_plain.

    As in conv2d, the zeros outside x are multiplied: an infinite or NaN weight makes NaN where it meets one. Raises ShapeError,
    showing both sides, for what does not fit.
    """
    x, w = np.asarray(x, dtype), np.asarray(w, dtype)
    spec = ConvTranspose2dSpec.of(x.shape, w.shape, stride, padding, output_padding, groups, dilation)
    with np.errstate(invalid="ignore", over="ignore"):  # inf * 0 is NaN, as it should be
        y = scatter(x, w, spec)
    return finish(y, spec, bias, activation, None, "conv_transpose2d")


def scatter(x: np.ndarray, w: np.ndarray, spec: ConvTranspose2dSpec) -> np.ndarray:
    """The transposed convolution alone: to canvas[h*u + r*d, i*v + s*e] goes the product of pixel (h, i) and tap (r, s).

    x is first set within a border of zeros, so wide that every pair of an output and a tap of its phase meets a pixel.
    """
    (u, v), (d, e), (t, l), G = spec.stride, spec.dilation, spec.padding, spec.groups
    above, below = _border(spec.H, spec.P, spec.R, u, d, t)
    left, right = _border(spec.W, spec.Q, spec.S, v, e, l)
    x = np.pad(x, ((0, 0), (0, 0), (above, below), (left, right)))
    N, C, H, W = x.shape
    pixels = x.reshape(N, G, C // G, H * W)
    filters = w.reshape(G, C // G, spec.K // G, spec.R, spec.S)
    t, l = t + above * u, l + left * v  # where the output lies on the canvas
    rows, columns = ((n - 1) * s + reach + 1 for n, s, reach in ((H, u, (spec.R - 1) * d), (W, v, (spec.S - 1) * e)))
    canvas = np.zeros((N, spec.K, max(rows, t + spec.P), max(columns, l + spec.Q)), x.dtype)
    for r in range(spec.R):
        for s in range(spec.S):
            product = np.matmul(filters[..., r, s].transpose(0, 2, 1), pixels).reshape(N, spec.K, H, W)
            canvas[:, :, r * d : r * d + (H - 1) * u + 1 : u, s * e : s * e + (W - 1) * v + 1 : v] += product
    return canvas[:, :, t : t + spec.P, l : l + spec.Q]


def _border(size: int, out: int, kernel: int, stride: int, dilation: int, pad: int) -> tuple[int, int]:
    """Rows of zeros before and behind `size` rows: outputs 0 to out - 1 meet (p + pad - r*dilation) / stride."""
    first, last = -(((kernel - 1) * dilation - pad) // stride), (out - 1 + pad) // stride
    return max(-first, 0), max(last - (size - 1), 0)


def conv_transpose2d_plain(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    activation: str | None = None,
    dtype: Any = np.float64,
) -> np.ndarray:
    """y[n, k, p, q] = activation(sum over c, r, s of x[n, g*C/G + c, h, i] * w[g*C/G + c, k - g*K/G, r, s] + bias[k])

    with h = (p + t - r*d) / u and i = (q + l - s*e) / v, over the taps for which both are whole numbers, g = k // (K/G), x zero
    outside its H x W. Slow on purpose: conv_transpose2d is the fast form, and the two must agree. Arguments, result and errors
    are conv_transpose2d's.
    """
    x, w = np.asarray(x, dtype), np.asarray(w, dtype)
    spec = ConvTranspose2dSpec.of(x.shape, w.shape, stride, padding, output_padding, groups, dilation)
    (u, v), (d, e), (t, l) = spec.stride, spec.dilation, spec.padding
    channels, filters = spec.C // spec.groups, spec.K // spec.groups  # of one group
    zero = x.dtype.type(0)
    y = np.zeros(spec.output_shape, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for n, k, p, q in np.ndindex(y.shape):
            group = k // filters
            for r in range(spec.R):
                for s in range(spec.S):
                    h, i = (p + t - r * d) // u, (q + l - s * e) // v
                    if (h * u, i * v) != (p + t - r * d, q + l - s * e):
                        continue
                    inside = 0 <= h < spec.H and 0 <= i < spec.W
                    for c in range(group * channels, (group + 1) * channels):
                        y[n, k, p, q] += (x[n, c, h, i] if inside else zero) * w[c, k - group * filters, r, s]
    return finish(y, spec, bias, activation, None, "conv_transpose2d")
