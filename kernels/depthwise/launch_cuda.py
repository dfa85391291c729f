"""Launcher of the depthwise convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from convatlas.kernels.common.cuda.launch import ACTIVATIONS, TYPES, CudaLaunch, aligned, chunk, dtype_name, vectors
from convatlas.kernels.common.cuda.tiling import tiling
from convatlas.kernels.common.launch import cdiv, strides

if TYPE_CHECKING:
    from convatlas.kernels.common.target import Target
    from convatlas.ops.observe import Call

THREADS = 256
# Windows that the tile kernel is written out for: those of MobileNet, EfficientNet and ConvNeXt.
WINDOWS = ((3, 3), (5, 5), (7, 7))


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[CudaLaunch]:
    """One launch, on any memory format of input, weight, residual and out."""
    spec, x, residual = call.spec, tensors["input"], tensors.get("residual")
    weight, bias = tensors["weight"], tensors.get("bias")
    (top, _), (left, _) = spec.padding
    arguments = dict(
        x=x, w=weight, bias=bias, residual=residual, y=out,
        N=spec.N, C=spec.C, K=spec.K, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, R=spec.R, S=spec.S,
        stride_h=spec.stride[0], stride_w=spec.stride[1], dilation_h=spec.dilation[0], dilation_w=spec.dilation[1],
        top=top, left=left, **strides("x", x, "nchw"), w_k=weight.stride(0), w_r=weight.stride(2), w_s=weight.stride(3),
        **strides("y", out, "nchw"), **strides("res", residual, "nchw"),
        activation=ACTIVATIONS[call.epilogue.activation], channels_first=int(out.stride(1) == 1),
        lanes=0, groups=0, by_lanes=0, by_groups=0,
    )  # fmt: skip
    T, n = TYPES[dtype_name(x)], chunk(x)
    whole = spec.K == spec.C and vectors(x, out, residual) and aligned(bias)
    written = (spec.R, spec.S) in WINDOWS and spec.dilation == (1, 1) and spec.stride in ((1, 1), (2, 2))
    tiles = tiling(spec, x, spec.K // n, spec.stride[0], target) if whole and written else None
    if tiles is None:
        VEC = n if whole else 1
        grid = (cdiv(spec.K // VEC * spec.N * spec.P * spec.Q, THREADS),)
        return [CudaLaunch("depthwise/depthwise.cu", "depthwise_any", (T, str(VEC)), grid, THREADS, arguments)]
    template = (T, str(n), str(spec.R), str(spec.stride[0]), str(tiles.height))
    shared = tiles.shared(spec.R, spec.stride[0]) + 4 * spec.R * spec.S * tiles.lanes * n
    return [
        CudaLaunch(
            "depthwise/depthwise.cu", "depthwise_tile", template, tiles.grid, tiles.threads,
            arguments | tiles.arguments, shared, True,
        )
    ]  # fmt: skip
