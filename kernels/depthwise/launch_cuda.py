"""Launcher of the depthwise convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convatlas.kernels.common.cuda.launch import (
    TYPES,
    CudaLaunch,
    aligned,
    chunk,
    strides,
    vectors,
    window,
    with_activation,
)
from convatlas.kernels.common.cuda.tiling import tiling
from convatlas.kernels.common.launch import cdiv

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

THREADS = 256
# Windows that the tile kernel is written out for: those of MobileNet, EfficientNet and ConvNeXt.
WINDOWS = ((3, 3), (5, 5), (7, 7))


def depthwise(p: Problem) -> list[CudaLaunch]:
    """One launch, on any memory format of input, weight, residual and out."""
    spec, x, weight, bias, residual, out = p.spec, p["input"], p["weight"], p.get("bias"), p.get("residual"), p.out
    source, activation = with_activation("depthwise/depthwise.cu", p.activation)
    arguments = dict(
        x=x, w=weight, bias=bias, residual=residual, y=out,
        N=spec.N, C=spec.C, K=spec.K, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q,
        **window(spec), **strides("x", x, "nchw"), w_k=weight.stride(0), w_r=weight.stride(2), w_s=weight.stride(3),
        **strides("y", out, "nchw"), **strides("res", residual, "nchw"),
        activation=activation, channels_last=int(out.stride(1) == 1),
        lanes=0, groups=0, by_lanes=0, by_groups=0,
    )  # fmt: skip
    T, n = TYPES[p.dtype], chunk(x)
    whole = spec.K == spec.C and vectors(x, out, residual) and aligned(bias)
    written = (spec.R, spec.S) in WINDOWS and spec.dilation == (1, 1) and spec.stride in ((1, 1), (2, 2))
    tiles = tiling(spec, x, spec.K // n, spec.stride[0], p.target) if whole and written else None
    if tiles is None:
        VEC = n if whole else 1
        grid = (cdiv(spec.K // VEC * spec.N * spec.P * spec.Q, THREADS),)
        return [CudaLaunch(source, "depthwise_any", (T, str(VEC)), grid, THREADS, arguments)]
    template = (T, str(n), str(spec.R), str(spec.stride[0]), str(tiles.height))
    shared = tiles.shared(spec.R, spec.stride[0]) + 4 * spec.R * spec.S * tiles.lanes * n
    return [
        CudaLaunch(
            source, "depthwise_tile", template, tiles.grid, tiles.threads,
            arguments | tiles.arguments, shared, True,
        )
    ]  # fmt: skip
