"""Max, average and adaptive pooling. Each loops over the taps of the window and treats all outputs at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from convatlas.specs import AdaptivePool2dSpec, Pool2dSpec


def max_pool2d(
    x: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    dtype: Any = np.float64,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """y[n, c, p, q] = max over r, s of x[n, c, p*u - t + r*d, q*v - l + s*e], -inf outside, as torch.nn.functional.max_pool2d.

    A NaN in the window wins. With return_indices, also the winner's place h*W + w in the H x W input, int64. It is the first
    maximum in row-major order; the last NaN, if there is one; and where all is -inf, the first place of the window that is not
    above or left of the input. Raises ShapeError.
    """
    x = np.asarray(x, dtype)
    return max_pool(x, Pool2dSpec.of("max", x.shape, kernel_size, stride, padding, dilation, ceil_mode), return_indices)


def avg_pool2d(
    x: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dtype: Any = np.float64,
) -> np.ndarray:
    """y[n, c, p, q] = sum over the window of x, 0 outside, / divisor, as torch.nn.functional.avg_pool2d.

    The divisor is `divisor_override`, else the window's pixels inside the padded input (count_include_pad), else those
    inside the input itself. Raises ShapeError.
    """
    x = np.asarray(x, dtype)
    args = (kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override)
    spec = Pool2dSpec.of("avg", x.shape, *args)
    return average(x, spec)


def adaptive_avg_pool2d(x: np.ndarray, output_size: Any, *, dtype: Any = np.float64) -> np.ndarray:
    """The mean over rows floor(p*H/P) .. ceil((p+1)*H/P) - 1 and the columns likewise, as F.adaptive_avg_pool2d.

    Raises ShapeError.
    """
    x = np.asarray(x, dtype)
    spec = AdaptivePool2dSpec.of(x.shape, output_size)
    return adaptive_mean(x, spec)


def adaptive_max_pool2d(
    x: np.ndarray, output_size: Any, return_indices: bool = False, *, dtype: Any = np.float64
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """The maximum over rows floor(p*H/P) .. ceil((p+1)*H/P) - 1 and the columns likewise, as F.adaptive_max_pool2d.

    A NaN in the window wins. return_indices as max_pool2d's. Raises ShapeError.
    """
    x = np.asarray(x, dtype)
    return adaptive_max(x, AdaptivePool2dSpec.of(x.shape, output_size, "max"), return_indices)


def max_pool(x: np.ndarray, spec: Pool2dSpec, return_indices: bool) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """max_pool2d for arguments that were checked."""
    best = np.full(spec.output_shape, -np.inf, x.dtype)
    where = np.empty(spec.output_shape, np.int64)
    where[...] = first_inside(spec, 0)[:, None] * spec.W + first_inside(spec, 1)
    rows, columns = corners(spec)
    for r, s, tap in taps(x, spec, -np.inf):
        wins = (tap > best) | np.isnan(tap)
        np.copyto(best, tap, where=wins)
        if return_indices:
            place = (rows + r * spec.dilation[0]) * spec.W + columns + s * spec.dilation[1]
            np.copyto(where, place, where=wins)
    return (best, where) if return_indices else best


def corners(spec: Pool2dSpec) -> tuple[np.ndarray, np.ndarray]:
    """The row (a column vector) and the column of the input at which each window begins."""
    rows, columns = (np.arange(n) * u - t for n, u, t in zip((spec.P, spec.Q), spec.stride, spec.padding))
    return rows[:, None], columns


def tap_numbers(where: np.ndarray, spec: Pool2dSpec) -> np.ndarray:
    """The number r*S + s of each winner in its window, one byte, from its place h*W + w; of a window outside the image, any."""
    rows, columns = corners(spec)
    r, s = (where // spec.W - rows) // spec.dilation[0], (where % spec.W - columns) // spec.dilation[1]
    return np.clip(r * spec.S + s, 0, 255).astype(np.uint8)


def first_inside(spec: Pool2dSpec, axis: int) -> np.ndarray:
    """The first row (axis 0) or column (1) of each window that is not above or left of the input."""
    out = (spec.P, spec.Q)[axis]
    start = np.arange(out) * spec.stride[axis] - spec.padding[axis]
    return start + -(np.minimum(start, 0) // spec.dilation[axis]) * spec.dilation[axis]


def taps(x: np.ndarray, spec: Pool2dSpec, fill: float) -> Iterator[tuple[int, int, np.ndarray]]:
    """(r, s, the N x C x P x Q array of the pixels that the windows have at r, s), `fill` outside the input.

    Taps that lie outside for every window are left out.
    """
    (u, v), (d, e), (top, left) = spec.stride, spec.dilation, spec.padding
    # Ceil mode lets the last window pass the padding; these sizes hold every window whole.
    height = max((spec.P - 1) * u + (spec.R - 1) * d + 1, top + spec.H)
    width = max((spec.Q - 1) * v + (spec.S - 1) * e + 1, left + spec.W)
    padded = np.full((spec.N, spec.C, height, width), fill, x.dtype)
    padded[:, :, top : top + spec.H, left : left + spec.W] = x
    for r in range(*spec.live(0)):
        for s in range(*spec.live(1)):
            rows = slice(r * d, r * d + (spec.P - 1) * u + 1, u)
            yield r, s, padded[:, :, rows, s * e : s * e + (spec.Q - 1) * v + 1 : v]


def average(x: np.ndarray, spec: Pool2dSpec) -> np.ndarray:
    """avg_pool2d for arguments that were checked."""
    return window_sum(x, spec) / divisors(spec).astype(x.dtype)


def window_sum(x: np.ndarray, spec: Pool2dSpec) -> np.ndarray:
    """The sum of each window, zeros outside the input."""
    total = np.zeros(spec.output_shape, x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for _, _, tap in taps(x, spec, 0.0):
            total += tap
    return total


def divisors(spec: Pool2dSpec) -> np.ndarray:
    """What avg_pool2d divides each of its P x Q sums by."""
    if spec.divisor_override is not None:
        return np.full((spec.P, spec.Q), spec.divisor_override)

    def pixels(axis: int) -> np.ndarray:
        out, size, kernel = ((spec.P, spec.H, spec.R), (spec.Q, spec.W, spec.S))[axis]
        pad = spec.padding[axis]
        start = np.arange(out) * spec.stride[axis] - pad
        stop = np.minimum(
            start + kernel, size + pad
        )  # a window past the padding, in ceil mode, does not count what is beyond
        return stop - start if spec.count_include_pad else np.minimum(stop, size) - np.maximum(start, 0)

    return pixels(0)[:, None] * pixels(1)


def adaptive_mean(x: np.ndarray, spec: AdaptivePool2dSpec) -> np.ndarray:
    """adaptive_avg_pool2d for arguments that were checked."""
    return adaptive_sum(x, spec) / adaptive_divisors(spec).astype(x.dtype)


def adaptive_sum(x: np.ndarray, spec: AdaptivePool2dSpec) -> np.ndarray:
    """The sum of each of the P x Q windows: first over rows, then over columns."""
    by_row = np.zeros((spec.N, spec.C, spec.P, spec.W), x.dtype)
    total = np.zeros(spec.output_shape, x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for p in range(spec.P):
            by_row[:, :, p] = x[:, :, slice(*spec.window(0, p))].sum(axis=2)
        for q in range(spec.Q):
            total[..., q] = by_row[..., slice(*spec.window(1, q))].sum(axis=3)
    return total


def adaptive_max(
    x: np.ndarray, spec: AdaptivePool2dSpec, return_indices: bool
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """adaptive_max_pool2d for arguments that were checked; with places it goes over the taps of the largest window."""
    (top, height), (left, width) = (adaptive_windows(spec, axis) for axis in (0, 1))
    best = np.full(spec.output_shape, -np.inf, x.dtype)
    where = np.empty(spec.output_shape, np.int64)
    where[...] = top[:, None] * spec.W + left
    if not return_indices:  # first over rows, then over columns
        by_row = np.empty((spec.N, spec.C, spec.P, spec.W), x.dtype)
        for p in range(spec.P):
            by_row[:, :, p] = x[:, :, top[p] : top[p] + height[p]].max(axis=2)
        for q in range(spec.Q):
            best[..., q] = by_row[..., left[q] : left[q] + width[q]].max(axis=3)
        return best
    for r in range(spec.largest(0)):
        rows = np.minimum(top + r, spec.H - 1)[:, None]
        for s in range(spec.largest(1)):
            columns = np.minimum(left + s, spec.W - 1)
            tap = x[:, :, rows, columns]
            wins = ((tap > best) | np.isnan(tap)) & (r < height)[:, None] & (s < width)
            np.copyto(best, tap, where=wins)
            np.copyto(where, rows * spec.W + columns, where=wins)
    return best, where


def adaptive_windows(spec: AdaptivePool2dSpec, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(first row, rows) of each window (axis 0), or columns (axis 1)."""
    found = [spec.window(axis, i) for i in range((spec.P, spec.Q)[axis])]
    start, stop = np.array(found, np.int64).reshape(-1, 2).T
    return start, stop - start


def adaptive_divisors(spec: AdaptivePool2dSpec) -> np.ndarray:
    """The pixels of each of the P x Q windows."""
    return adaptive_windows(spec, 0)[1][:, None] * adaptive_windows(spec, 1)[1]
