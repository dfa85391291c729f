"""Launcher of the depthwise convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from convatlas.kernels.cuda.launch import ACTIVATIONS, TYPES, CudaLaunch, aligned, chunk, dtype_name, vectors
from convatlas.kernels.launch import cdiv, power_of_two, strides

if TYPE_CHECKING:
    from convatlas.kernels.target import Target
    from convatlas.ops.observe import Call

THREADS = 256
# Windows that the strip kernel is written out for: those of MobileNet, EfficientNet and ConvNeXt.
WINDOWS = ((3, 3), (5, 5), (7, 7))
# Outputs of a strip: sums of 4 outputs x 8 channels are 32 registers, S taps x 8 channels up to 56 more.
STRIP = 4


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[CudaLaunch]:
    """One launch, on any memory format of input, weight, residual and out."""
    spec, x, residual = call.spec, tensors["input"], tensors.get("residual")
    weight, bias = tensors["weight"], tensors.get("bias")
    (top, _), (left, _) = spec.padding
    arguments = dict(
        x=x, w=weight, bias=None if bias is None else bias.contiguous(), residual=residual, y=out,
        N=spec.N, C=spec.C, K=spec.K, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, R=spec.R, S=spec.S,
        stride_h=spec.stride[0], stride_w=spec.stride[1], dilation_h=spec.dilation[0], dilation_w=spec.dilation[1],
        top=top, left=left, **strides("x", x, "nchw"), w_k=weight.stride(0), w_r=weight.stride(2), w_s=weight.stride(3),
        **strides("y", out, "nchw"), **strides("res", residual, "nchw"),
        activation=ACTIVATIONS[call.epilogue.activation], lanes=0, channels_first=int(out.stride(1) == 1),
    )  # fmt: skip
    T, n = TYPES[dtype_name(x)], chunk(x)
    whole = spec.K == spec.C and vectors(x, out, residual) and aligned(arguments["bias"])
    strip = whole and (spec.R, spec.S) in WINDOWS and spec.dilation == (1, 1) and spec.stride[1] in (1, 2)
    if not strip:
        VEC = n if whole else 1
        grid = (cdiv(spec.K // VEC * spec.N * spec.P * spec.Q, THREADS),)
        return [CudaLaunch("depthwise/depthwise.cu", "depthwise_any", (T, str(VEC)), grid, THREADS, arguments)]
    # Up to 16 threads along the channels: 256 bytes of a pixel, and the 49 taps of 128 halves' channels are 25 KB as floats.
    lanes = min(power_of_two(spec.K // n), 16)
    tiles = cdiv(spec.N * spec.P * cdiv(spec.Q, STRIP), THREADS // lanes)
    template = (T, str(n), str(spec.R), str(spec.S), str(spec.stride[1]), str(STRIP))
    shared = 4 * spec.R * spec.S * lanes * n
    grid = (tiles, cdiv(spec.K, lanes * n))
    arguments["lanes"] = lanes
    return [CudaLaunch("depthwise/depthwise.cu", "depthwise_strip", template, grid, THREADS, arguments, shared, True)]
