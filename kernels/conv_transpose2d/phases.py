"""A transposed convolution as dense ones: for both backends.

Output pixels of one phase, (p mod stride_h, q mod stride_w), meet the same taps of the filter, and form a convolution of stride 1
of the input with those taps, flipped. Each phase is a launch of conv2d's kernels into a strided view of the output. No zeros are
inserted and no product is made that the definition has not, but those at the border. Where a phase has no taps (a stride above the
kernel's size, or a dilation that shares a factor with it) its outputs are bias and activation alone: a first launch fills the whole
output with them, and costs a second writing of the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from convatlas.kernels.common.launch import channels_adjacent
from convatlas.kernels.common.problem import Problem
from convatlas.specs import Conv2dSpec
from convatlas.specs.conv_transpose import ConvTranspose2dSpec, Phase

# Kinds of convolutions whose kernels take every tap for itself, in whatever order the taps lie. Those of a depthwise one and of few
# channels load a window as a whole.
WINDOWED = ("dense", "grouped", "pointwise")

Launches = TypeVar("Launches", bound=list[Any])


def by_phases(
    p: Problem, convolve: Callable[[Problem], Launches], fill: Callable[[Problem, Tensor], Launches]
) -> Launches:
    """The launches of p: `convolve` lists those of a dense convolution, `fill` those that set p.out to activation(bias)."""
    spec, x, (u, v) = p.spec, p["input"], p.spec.stride
    windows = [(rows, columns) for rows in spec.phases(0) for columns in spec.phases(1)]
    if any(spec.part(*window).kind in WINDOWED for window in windows):
        x = channels_adjacent(x)  # once, not once a phase
    launches = [] if spec.whole else fill(p, background(p))
    for rows, columns in windows:
        y = p.out[:, :, rows.start :: u, columns.start :: v]
        pixels = x[:, :, rows.begin : rows.end, columns.begin : columns.end]
        part, weight = spec.part(rows, columns), taps(p["weight"], spec, rows, columns)
        part, weight = (backwards(part), weight) if part.kind in WINDOWED else (part, weight.flip(2, 3))
        launches += convolve(p.seen_as(part, y, input=pixels, weight=weight))
    return launches


def backwards(part: Conv2dSpec) -> Conv2dSpec:
    """The same convolution of a filter that is not flipped: its taps walk backwards, from the last pixel of a window to the first.

    Pixel p - top + (R - 1 - r)*d is p - top' + r*(-d) with top' = top - (R - 1)*d. So the filter's own memory serves, where a flip
    would be one more copy of it.
    """
    (top, bottom), (left, right), (d, e) = *part.padding, part.dilation
    rows, columns = (part.R - 1) * d, (part.S - 1) * e
    return replace(part, padding=((top - rows, bottom - rows), (left - columns, right - columns)), dilation=(-d, -e))


def background(p: Problem) -> Tensor:
    """The bias, or a zero, as a tensor of the output's shape all of whose pixels are one place in memory."""
    bias = p.get("bias")
    if bias is None:
        return p["input"].new_zeros(()).expand(p.out.shape)
    return bias[:, None, None].expand(p.out.shape)


def taps(weight: Tensor, spec: ConvTranspose2dSpec, rows: Phase, columns: Phase) -> Tensor:
    """The filter of one phase with a dense one's dimensions: (C, K/G, R, S) -> (K, C/G, taps of rows, of columns), not flipped."""
    own = weight[:, :, rows.taps.start :: rows.taps.step, columns.taps.start :: columns.taps.step]
    return own.unflatten(0, (spec.groups, -1)).transpose(1, 2).flatten(0, 1)
