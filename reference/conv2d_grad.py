"""The gradients of a convolution, each twice: as matrix products, and as its definition reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.conv2d import padded
from convatlas.reference.conv_transpose2d import scatter
from convatlas.specs import Conv2dInputGradSpec, Conv2dSpec, Conv2dWeightGradSpec


def conv2d_input_grad(
    grad_output: np.ndarray,
    w: np.ndarray,
    input_size: tuple,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    dtype: Any = np.float64,
) -> np.ndarray:
    """The gradient by the input of conv2d(x, w), as torch.nn.grad.conv2d_input; NumPy arrays, NCHW.

    grad_output is (N, K, P, Q), w (K, C/groups, R, S), input_size and the result (N, C, H, W); specs.Conv2dInputGradSpec has the
    formula. As in conv_transpose2d, the zeros outside grad_output are multiplied: an infinite or NaN weight makes NaN where it
    meets one. Raises ShapeError, showing both sides, for what does not fit.
    """
    dy, w = np.asarray(grad_output, dtype), np.asarray(w, dtype)
    spec = Conv2dInputGradSpec.of(dy.shape, w.shape, input_size, stride, padding, dilation, groups)
    with np.errstate(invalid="ignore", over="ignore"):
        return scatter(dy, w, spec)


def conv2d_weight_grad(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight_size: tuple,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    bias_grad: bool = False,
    dtype: Any = np.float64,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """The gradient by the weight of conv2d(x, w, b), as torch.nn.grad.conv2d_weight; with `bias_grad` also that by the bias.

    grad_output is (N, K, P, Q), x (N, C, H, W), weight_size and the result (K, C/groups, R, S), the bias's gradient (K,);
    specs.Conv2dWeightGradSpec has the formulas. The zeros of the padding are multiplied: an infinite or NaN gradient makes NaN
    where it meets one, as in torch's float64 convolution. Raises ShapeError, showing both sides, for what does not fit.
    """
    dy, x = np.asarray(grad_output, dtype), np.asarray(x, dtype)
    spec = Conv2dWeightGradSpec.of(dy.shape, x.shape, weight_size, stride, padding, dilation, groups)
    with np.errstate(invalid="ignore", over="ignore"):
        dw = by_taps(dy, x, spec.forward)
        return (dw, sum_of_pixels(dy)) if bias_grad else dw


def sum_of_pixels(grad_output: np.ndarray) -> np.ndarray:
    """db[k] = sum over n, p, q of dy[n, k, p, q]."""
    return grad_output.sum(axis=(0, 2, 3))


def by_taps(dy: np.ndarray, x: np.ndarray, forward: Conv2dSpec) -> np.ndarray:
    """dw[g, :, :, r, s] = dY[g] X[g]^T, dY[g] of K/G x P*Q and X[g] of C/G x P*Q the pixels that the tap (r, s) meets, one product
    an image.
    """
    f, (u, v), (d, e), G = forward, forward.stride, forward.dilation, forward.groups
    dw = np.zeros((G, f.K // G, f.C // G, f.R, f.S), dy.dtype)
    for n in range(f.N):
        image, rows = padded(x[n], f), dy[n].reshape(G, f.K // G, f.P * f.Q)
        for r in range(f.R):
            for s in range(f.S):
                tap = image[:, r * d : r * d + (f.P - 1) * u + 1 : u, s * e : s * e + (f.Q - 1) * v + 1 : v]
                dw[..., r, s] += np.matmul(rows, tap.reshape(G, f.C // G, f.P * f.Q).transpose(0, 2, 1))
    return dw.reshape(f.weight_shape)


def conv2d_grads_plain(
    grad_output: np.ndarray, x: np.ndarray, w: np.ndarray, spec: Conv2dSpec
) -> tuple[np.ndarray, np.ndarray]:
    """(the gradient by x, that by w): each product of a pixel and a weight hands on its part of its output's gradient.

    Slow on purpose: the functions above are the fast forms, and they must agree. Zeros outside the input are not multiplied here.
    """
    (u, v), (d, e), ((top, _), (left, _)) = spec.stride, spec.dilation, spec.padding
    channels, filters = spec.C // spec.groups, spec.K // spec.groups
    dx, dw = np.zeros(spec.input_shape), np.zeros(spec.weight_shape)
    for n, k, p, q in np.ndindex(spec.output_shape):
        for c, r, s in np.ndindex(channels, spec.R, spec.S):
            h, i, channel = p * u - top + r * d, q * v - left + s * e, k // filters * channels + c
            if 0 <= h < spec.H and 0 <= i < spec.W:
                dx[n, channel, h, i] += grad_output[n, k, p, q] * w[k, c, r, s]
                dw[k, c, r, s] += grad_output[n, k, p, q] * x[n, channel, h, i]
    return dx, dw
