"""Convolution as matrix products: im2col in blocks that fit the cache, then BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.errors import ShapeError
from convatlas.reference.activation import activate
from convatlas.specs import Conv2dSpec

BLOCK_BYTES = 1 << 20  # of the im2col matrix at a time: written and read back within one core's second-level cache


def conv2d(
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
    """y = activation(conv(x, w) + bias + residual), the convolution that of torch.nn.functional.conv2d; NumPy arrays, NCHW.

    x is (N, C, H, W), w (K, C/groups, R, S), bias (K,), residual and y (N, K, P, Q), with P = floor((H + top + bottom -
    dilation*(R-1) - 1) / stride) + 1. Padding is an int, a pair, "same", "valid" or ((top, bottom), (left, right)). The
    formula is written out in conv2d_plain.

    Zeros of the padding are multiplied like any input, so an infinite or NaN weight makes NaN where it meets padding, as in torch's
    float64 convolution. Raises ShapeError, showing both sides, for what does not fit.
    """
    x, w = np.asarray(x, dtype), np.asarray(w, dtype)
    spec = Conv2dSpec.of(x.shape, w.shape, stride, padding, dilation, groups)
    with np.errstate(invalid="ignore", over="ignore"):  # inf * 0 is NaN, as it should be
        y = correlate(x, w, spec)
    return finish(y, spec, bias, activation, residual)


def finish(
    y: np.ndarray, spec: Any, bias: np.ndarray | None, activation: str | None, residual: np.ndarray | None,
    op: str = "conv2d",
) -> np.ndarray:  # fmt: skip
    """The epilogue, activation(y + bias + residual). Raises ShapeError when bias or residual do not fit."""
    with np.errstate(invalid="ignore", over="ignore"):
        if bias is not None:
            bias = np.asarray(bias, y.dtype)
            if bias.shape != (spec.K,):
                raise ShapeError(f"{op}: bias of shape {bias.shape}, expected ({spec.K},)")
            y = y + bias[:, None, None]
        if residual is not None:
            residual = np.asarray(residual, y.dtype)
            if residual.shape != y.shape:
                raise ShapeError(f"{op}: residual of shape {residual.shape}, expected {y.shape}, the output's")
            y = y + residual
    return activate(y, activation)


def correlate(x: np.ndarray, w: np.ndarray, spec: Conv2dSpec) -> np.ndarray:
    """The convolution alone, of arrays of one dtype that fit the spec."""
    if spec.kind == "pointwise":
        return pointwise(x, w, spec)
    one_image = depthwise if spec.kind == "depthwise" else by_im2col
    y = np.empty(spec.output_shape, x.dtype)
    for n in range(spec.N):
        y[n] = one_image(padded(x[n], spec), w, spec)
    return y


def pointwise(x: np.ndarray, w: np.ndarray, spec: Conv2dSpec) -> np.ndarray:
    """1x1: y[n] = W x[n], W of K x C and x[n] of C x P*Q; nothing to rearrange."""
    u, v = spec.stride
    x = np.ascontiguousarray(x[:, :, ::u, ::v]).reshape(spec.N, spec.C, spec.P * spec.Q)
    return np.matmul(w.reshape(spec.K, spec.C), x).reshape(spec.output_shape)


def padded(image: np.ndarray, spec: Conv2dSpec) -> np.ndarray:
    """One image, (C, H, W), within its border of zeros."""
    (top, bottom), (left, right) = spec.padding
    if not (top or bottom or left or right):
        return image
    out = np.zeros((spec.C, top + spec.H + bottom, left + spec.W + right), image.dtype)
    out[:, top : top + spec.H, left : left + spec.W] = image
    return out


def depthwise(image: np.ndarray, w: np.ndarray, spec: Conv2dSpec) -> np.ndarray:
    """One input channel a group: the sum over the R*S taps of the shifted image times the filter's number for that tap."""
    (u, v), (d, e) = spec.stride, spec.dilation
    filters = spec.K // spec.C
    w = w.reshape(spec.C, filters, spec.R, spec.S, 1, 1)
    y = np.zeros((spec.C, filters, spec.P, spec.Q), image.dtype)
    for r in range(spec.R):
        for s in range(spec.S):
            tap = image[:, r * d : r * d + (spec.P - 1) * u + 1 : u, s * e : s * e + (spec.Q - 1) * v + 1 : v]
            y += tap[:, None] * w[:, :, r, s]
    return y.reshape(spec.K, spec.P, spec.Q)


def by_im2col(image: np.ndarray, w: np.ndarray, spec: Conv2dSpec) -> np.ndarray:
    """y[g] = W[g] X[g]: W[g] of K/G x L, and X[g] of L x P*Q with one window a column, a few output rows at a time."""
    (u, v), (d, e), G, L = spec.stride, spec.dilation, spec.groups, spec.reduction
    channels = spec.C // G
    to_c, to_h, to_w = image.strides
    windows = np.lib.stride_tricks.as_strided(
        image,
        shape=(G, channels, spec.R, spec.S, spec.P, spec.Q),
        strides=(channels * to_c, to_c, to_h * d, to_w * e, to_h * u, to_w * v),
        writeable=False,
    )
    w = w.reshape(G, spec.K // G, L)
    y = np.empty((G, spec.K // G, spec.P, spec.Q), image.dtype)
    rows = max(1, BLOCK_BYTES // (spec.C * spec.R * spec.S * max(spec.Q, 1) * image.itemsize))
    for p in range(0, spec.P, rows):
        columns = np.ascontiguousarray(windows[..., p : p + rows, :]).reshape(G, L, -1)
        y[:, :, p : p + rows] = np.matmul(w, columns).reshape(G, spec.K // G, -1, spec.Q)
    return y.reshape(spec.K, spec.P, spec.Q)
