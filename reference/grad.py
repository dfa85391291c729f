"""The backward passes of poolings, norms and activations: values, and what their error bounds are made of.

Each function takes a GradSpec, the operands and the parameters; PyTorch's rules for NaN, infinity and ties hold. Formulas follow
from those of the forward ops (reference/pool.py, norm.py, activation.py), which also give the sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.reference.activation import sigmoid
from convatlas.reference.companions import Arrays, Companions, Params, exact
from convatlas.reference.norm import lrn_base, per_channel
from convatlas.reference.pool import adaptive_divisors, corners, divisors
from convatlas.specs import AdaptivePool2dSpec, Pool2dSpec
from convatlas.specs.activations import parsed

UNIT = 2.0**-24  # float32's unit roundoff


def activation_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx = dy * f'(x). `saved` is y for relu, relu6, leaky_relu and sigmoid, of which it is enough, and x for the others.

    As torch: where f is flat dx is 0 whatever dy is, and corners are flat (of hardswish the left one only). At a NaN relu lets dy
    through, relu6 and hardsigmoid are flat, and the rest is NaN, but for leaky_relu, which takes it for negative.
    """
    g, v = a["grad_output"], a["saved"]
    name, slope = parsed(params["activation"])
    zero = np.zeros((), g.dtype)
    if name == "relu":
        return np.where(v <= 0, zero, g)
    if name == "relu6":
        return np.where((v > 0) & (v < 6), g, zero)
    if name == "leaky_relu":
        return np.where(v > 0, g, g * g.dtype.type(slope))
    if name == "sigmoid":
        return g * (1 - v) * v
    if name == "hardsigmoid":
        return np.where((v > -3) & (v < 3), g / 6, zero)
    if name == "hardswish":
        return np.where(v <= -3, zero, np.where(v >= 3, g, g * (v / 3 + g.dtype.type(0.5))))
    s = sigmoid(v, dtype=v.dtype)
    return g * s * (1 + v * (1 - s))


def activation_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """relu and relu6 round nothing. In silu an error of u * |x| in the exponent of e^x is a relative one of its sigmoid s, and
    1 - s errs by u * s; below 2^-126 an exponential may be flushed to 0.
    """
    g, v = np.abs(a["grad_output"]), a["saved"]
    name, _ = parsed(params["activation"])
    if name in ("relu", "relu6"):
        return exact(spec, a, params, value)
    if name == "hardswish":
        return _plain(g * (np.abs(v) / 3 + 0.5), 4)
    if name == "silu":
        s = sigmoid(v)
        return _plain(g * (1 + np.abs(v)) * (s * (1 + np.maximum(-v, 0) / 4) + 2.0**-100), 24)
    return _plain(np.abs(value), 3)


def _plain(magnitude: np.ndarray, roundings: int, length: int = 0) -> Companions:
    return Companions(magnitude, magnitude.copy(), length, roundings)


def max_pool2d_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx[h, w] = the sum of dy over the windows whose winner is (h, w).

    `winners` has each one's place h*W + w in the input or, with the parameter `taps`, its number r*S + s in the window.
    """
    s, g = spec.forward, a["grad_output"]
    dx = np.zeros((s.N * s.C, s.H * s.W), g.dtype)
    where = a["winners"].astype(np.int64)
    inside = (where >= 0) & (where < s.H * s.W)  # a window of nothing but padding has its winner outside
    if params.get("taps"):
        rows, columns = corners(s)
        h, w = rows + where // s.S * s.dilation[0], columns + where % s.S * s.dilation[1]
        where, inside = h * s.W + w, (h >= 0) & (h < s.H) & (w >= 0) & (w < s.W)
    where, inside = (array.reshape(s.N * s.C, s.P * s.Q) for array in (where, inside))
    rows = np.broadcast_to(np.arange(s.N * s.C)[:, None], where.shape)
    np.add.at(dx, (rows[inside], where[inside]), g.reshape(where.shape)[inside])
    return dx.reshape(s.input_shape)


def max_pool2d_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """A sum of as many gradients as windows can share a winner; of a single one, nothing is rounded."""
    if spec.reduction == 1:
        return exact(spec, a, params, value)

    def scattered(g: np.ndarray) -> np.ndarray:
        return max_pool2d_grad(spec, {**a, "grad_output": g}, params)

    return _of_sums(scattered, a["grad_output"], value, spec.reduction, 0)


def _of_sums(scatter: Any, g: np.ndarray, value: np.ndarray, length: int, roundings: int) -> Companions:
    return Companions(scatter(np.abs(g)), np.sqrt(scatter(g * g) + value * value), length, roundings)


def avg_pool2d_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx[h, w] = the sum of dy / divisor over the windows that hold (h, w)."""
    return _spread(spec.forward, a["grad_output"], divisors(spec.forward))


def _spread(s: Pool2dSpec, g: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    (u, v), (top, left) = s.stride, s.padding
    height, width = max((s.P - 1) * u + s.R, top + s.H), max((s.Q - 1) * v + s.S, left + s.W)
    dx = np.zeros((s.N, s.C, height, width), g.dtype)
    # A window of nothing but padding in ceil mode has divisor 0, and reaches no pixel of the input.
    share = np.divide(g, divisor, out=np.zeros_like(g), where=np.broadcast_to(divisor != 0, g.shape))
    for r in range(*s.live(0)):
        for t in range(*s.live(1)):
            dx[:, :, r : r + (s.P - 1) * u + 1 : u, t : t + (s.Q - 1) * v + 1 : v] += share
    return dx[:, :, top : top + s.H, left : left + s.W]


def avg_pool2d_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    s, divisor = spec.forward, divisors(spec.forward).astype(np.float64)
    g = a["grad_output"]
    magnitude = _spread(s, np.abs(g), np.abs(divisor))
    return Companions(magnitude, np.sqrt(_spread(s, g * g, divisor * divisor) + value * value), spec.reduction, 2)


def adaptive_avg_pool2d_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx[h, w] = the sum of dy / (pixels of the window) over the windows that hold (h, w)."""
    return _share(spec.forward, a["grad_output"] / np.maximum(adaptive_divisors(spec.forward), 1))


def _share(s: AdaptivePool2dSpec, share: np.ndarray) -> np.ndarray:
    by_row = np.zeros((s.N, s.C, s.H, s.Q), share.dtype)
    dx = np.zeros((s.N, s.C, s.H, s.W), share.dtype)
    for p in range(s.P):
        by_row[:, :, slice(*s.window(0, p))] += share[:, :, p : p + 1]
    for q in range(s.Q):
        dx[..., slice(*s.window(1, q))] += by_row[..., q : q + 1]
    return dx


def adaptive_avg_pool2d_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    divisor = np.maximum(adaptive_divisors(spec.forward), 1).astype(np.float64)
    return _of_sums(lambda g: _share(spec.forward, g), a["grad_output"] / divisor, value, spec.reduction, 2)


def local_response_norm_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx[j] = dy[j] b[j]^-beta - 2 alpha beta / size * x[j] * the sum of dy[i] x[i] b[i]^(-beta-1) over i whose window holds j."""
    g, x = a["grad_output"], a["input"]
    alpha, beta, k = (g.dtype.type(params[name]) for name in ("alpha", "beta", "k"))
    base = lrn_base(x, spec.forward, alpha, k)
    back = _windows_of(g * x / base ** (beta + 1), spec.forward)
    return g / base**beta - 2 * alpha * beta / spec.forward.size * x * back


def _windows_of(t: np.ndarray, s: Any) -> np.ndarray:
    """Over the channels i whose window holds j: the window turned round."""
    before, after = s.reach
    wide = np.zeros((t.shape[0], t.shape[1] + before + after, *t.shape[2:]), t.dtype)
    wide[:, after : after + t.shape[1]] = t
    return sum(wide[:, i : i + t.shape[1]] for i in range(before + after + 1))


def local_response_norm_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """base^-beta errs relatively by beta times the base's error and beta * |ln base| from the power, as in the forward."""
    g, x, s = np.abs(a["grad_output"]), np.abs(a["input"]), spec.forward
    alpha, beta, k = params["alpha"], params["beta"], params["k"]
    base = np.abs(lrn_base(a["input"], s, alpha, k))
    cancelled = lrn_base(a["input"], s, abs(alpha), abs(k)) / base
    error = cancelled + np.abs(np.log(base))
    back = _windows_of(g * x / base ** (beta + 1) * (1 + abs(beta + 1) * error), s)
    magnitude = g / base**beta * (1 + abs(beta) * error) + 2 * abs(alpha * beta) / s.size * x * back
    return _plain(magnitude, 16, 2 * spec.reduction)


def softmax_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx = y * (dy - the sum of dy * y along `dim`)."""
    g, y, dim = np.atleast_1d(a["grad_output"]), np.atleast_1d(a["output"]), params["dim"]
    return (y * (g - (g * y).sum(dim, keepdims=True))).reshape(spec.shape)


def softmax_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    g, y, dim = np.atleast_1d(np.abs(a["grad_output"])), np.atleast_1d(a["output"]), params["dim"]
    return _plain((y * (g + (g * y).sum(dim, keepdims=True))).reshape(spec.shape), 3, spec.reduction)


def batch_norm_stats(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """Row 0: the mean of each channel of x over all but the channels; row 1: its biased variance (Ioffe, Szegedy 2015, alg. 1)."""
    x = a["input"]
    if not x.size:
        return np.zeros(spec.shape, x.dtype)
    mean = x.mean(_others(x))
    centred = x - per_channel(mean, x.ndim)
    return np.stack([mean, np.square(centred).mean(_others(x))])


def _others(x: np.ndarray) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def batch_norm_stats_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    """The variance is a mean of squares about a mean that errs by e = u * C * sqrt(L) * mean|x|: e^2 is added to it."""
    x = a["input"]
    if not x.size:
        return exact(spec, a, params, value)
    size = np.abs(x).mean(_others(x))
    off = UNIT * 64 * (np.sqrt(spec.reduction) + 4) * size * size  # e^2 / u, C = 8
    return _plain(np.stack([size, value[1] + off]), 8, spec.reduction)


def before(a: Arrays, params: Params) -> tuple[np.ndarray, int]:
    """(dy before the activation behind the norm, whose derivative `output` tells; what that rounds, in dy's own size)."""
    g, activation = a["grad_output"], params.get("activation")
    if activation is None:
        return g, 0
    masked = activation_grad(None, {"grad_output": g, "saved": a["output"]}, params)
    return masked, 0 if activation in ("relu", "relu6") else 3


def batch_norm_sums(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """Row 0: the sum of dy, the bias's gradient; row 1: the sum of dy * (x - mean) / sqrt(var + eps), the weight's.

    With the parameter `activation` dy is the gradient behind it, and what is summed that before it.
    """
    g, normal = before(a, params)[0], _normal(a, params)[0]
    return np.stack([g.sum(_others(g)), (g * normal).sum(_others(g))])


def _normal(a: Arrays, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """((x - mean) / sqrt(var + eps), 1 / sqrt(var + eps))."""
    x = a["input"]
    inverse = per_channel(1 / np.sqrt(a["running_var"] + x.dtype.type(params["eps"])), x.ndim)
    return (x - per_channel(a["running_mean"], x.ndim)) * inverse, inverse


def batch_norm_sums_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    (g, rounded), normal = before(a, params), np.abs(_normal(a, params)[0])
    g = np.abs(g)
    return _plain(np.stack([g.sum(_others(g)), (g * normal).sum(_others(g))]), 6 + rounded, spec.reduction)


def batch_norm_input_grad(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """dx = weight / sqrt(var + eps) * (dy - (sums[0] + x' * sums[1]) / n), x' the normalised input and n the values a channel.

    Without `sums` the statistics are constants (inference): dx = weight / sqrt(var + eps) * dy. `activation` as in batch_norm_sums.
    """
    g, n = before(a, params)[0], spec.reduction
    normal, inverse = _normal(a, params)
    if "weight" in a:
        inverse = inverse * per_channel(a["weight"], g.ndim)
    if "sums" not in a:
        return g * inverse
    first, second = (per_channel(row, g.ndim) for row in a["sums"])
    return inverse * (g - (first + normal * second) / g.dtype.type(n))


def batch_norm_input_grad_companions(spec: Any, a: Arrays, params: Params, value: np.ndarray) -> Companions:
    (g, rounded), (normal, inverse) = before(a, params), _normal(a, params)
    g = np.abs(g)
    inverse = np.abs(inverse * per_channel(a.get("weight", np.ones(g.shape[1])), g.ndim))
    terms = g
    if "sums" in a:
        first, second = (per_channel(row, g.ndim) for row in np.abs(a["sums"]))
        terms = g + (first + np.abs(normal) * second) / spec.reduction
    return _plain(inverse * terms, 12 + rounded)


ROWS = {
    "activation_grad": (activation_grad, activation_grad_companions, ("activation",)),
    "max_pool2d_grad": (max_pool2d_grad, max_pool2d_grad_companions, ("taps",)),
    "adaptive_max_pool2d_grad": (max_pool2d_grad, max_pool2d_grad_companions, ()),
    "avg_pool2d_grad": (avg_pool2d_grad, avg_pool2d_grad_companions, ()),
    "adaptive_avg_pool2d_grad": (adaptive_avg_pool2d_grad, adaptive_avg_pool2d_grad_companions, ()),
    "local_response_norm_grad": (
        local_response_norm_grad, local_response_norm_grad_companions, ("alpha", "beta", "k")
    ),
    "softmax_grad": (softmax_grad, softmax_grad_companions, ("dim",)),
    "batch_norm_stats": (batch_norm_stats, batch_norm_stats_companions, ()),
    "batch_norm_sums": (batch_norm_sums, batch_norm_sums_companions, ("eps", "activation", "return_masked")),
    "batch_norm_input_grad": (batch_norm_input_grad, batch_norm_input_grad_companions, ("eps", "activation")),
}  # fmt: skip
