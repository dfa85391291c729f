"""Implicit GEMM by tensor memory access: which convolutions take it, and how it is launched. Windows, 1x1 and linear share it."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.kernels.common.launch import Launch, cdiv, is_wide, strides
from convatlas.kernels.common.override import forced
from convatlas.kernels.common.splitk import reduce_launch
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.conv2d.configs_tma import TmaConfig, step_channels, tma_config
from convatlas.kernels.conv2d.triton_tma import conv2d_tma_kernel
from convatlas.specs import Conv2dSpec, dtype_name

# cuTensorMapEncodeTiled: addresses and strides are multiples of 16 bytes; a box has at most 256 elements a side.
ALIGNMENT = 16
# Work from which the copy engine's set-up pays: below it the gather kernel and the GEMM, with finer tiles, are as quick or quicker
# (timed on an H100 at batches 1 and 8, docs/tuning/triton.md).
FLOPS = 5e8


def aligned(x: Tensor) -> bool:
    """Whether x can be the base of a descriptor, channels innermost."""
    size = x.element_size()
    steps = (x.stride(0), x.stride(2), x.stride(3))
    return (
        x.stride(1) == 1 and x.data_ptr() % ALIGNMENT == 0 and all(s > 0 and s * size % ALIGNMENT == 0 for s in steps)
    )


def fits(spec: Conv2dSpec, dtype: str, tf32: bool, x: Tensor, target: Target) -> bool:
    """Whether the TMA kernel can take the convolution, and is not wasted on it.

    It needs Hopper's copy engine, one group, whole steps of channels, an input that a descriptor can describe and, along a strided
    axis, an extent that the stride divides. IEEE float32 multiplies without tensor cores, and fewer filters than a
    warpgroup's 64 rows would leave half of them idle. The interpreter runs it wherever it can run.
    """
    simt = dtype == "float32" and not tf32
    if spec.groups != 1 or (not target.unbounded and (target.arch < 90 or simt or spec.flops < FLOPS)):
        return False
    SH, SW = spec.stride
    dense = SW == 1 or x.stride(3) == spec.C
    whole = spec.H % SH == 0 and spec.W % SW == 0 and step_channels(spec.C, dtype) > 0
    return whole and dense and spec.K >= 64 and aligned(x)


def launches(
    spec: Conv2dSpec,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    activation: str | None,
    tf32: bool,
    target: Target,
    config: TmaConfig | None = None,
) -> list[Launch]:
    """x channels_last, w (K, R, S, C) contiguous; with split-K a second launch, the reduction.

    config: other tiles than the model's.
    """
    if config is None:
        config = forced(TmaConfig) or tma_config(spec, dtype_name(x.dtype), residual is not None, target)
    (top, _), (left, _) = spec.padding
    SH, SW = spec.stride
    N, C, H, W = x.shape
    x_n, _, x_h, x_w = x.stride()
    image = TensorDescriptor(
        x,
        [N, H // SH, SH, W // SW, SW * C],
        [x_n, SH * x_h, x_h, SW * x_w, 1],
        [config.TN, config.TH, 1, config.TW, config.BK],
    )
    filters = TensorDescriptor(w, [spec.K, w[0].numel()], [w[0].numel(), 1], [config.BN, config.BK])
    whole = config.SPLIT == 1
    y = (
        out
        if whole
        else torch.empty((config.SPLIT, N * spec.P * spec.Q, spec.K), dtype=torch.float32, device=out.device)
    )
    tiles = cdiv(N, config.TN), cdiv(spec.P, config.TH), cdiv(spec.Q, config.TW)
    count = tiles[0] * tiles[1] * tiles[2] * cdiv(spec.K, config.BN) * config.SPLIT
    programs = min(count, target.sms * config.RESIDENT) if config.RESIDENT else count
    arguments = dict(
        x=image, w=filters, bias=bias if whole else None, residual=residual if whole else None, y=y,
        N=N, P=spec.P, Q=spec.Q, K=spec.K, tiles_p=tiles[1], tiles_q=tiles[2], tiles=count,
        **strides("y", out, "nchw"), **strides("res", residual if whole else None, "nchw"),
    )  # fmt: skip
    constants = dict(
        C=C, TOP=top, LEFT=left, R=spec.R, S=spec.S, STRIDE_H=SH, STRIDE_W=SW,
        DILATION_H=spec.dilation[0], DILATION_W=spec.dilation[1], ACTIVATION=activation if whole else None,
        SPLIT=config.SPLIT, TN=config.TN, TH=config.TH, TW=config.TW, BN=config.BN, BK=config.BK,
        PRECISION="tf32" if tf32 else "ieee", WIDE=is_wide(out, residual), INTERPRET=target.interpreted,
        RESIDENT=config.RESIDENT, TILES=count if target.interpreted else 0, PROGRAMS=programs if target.interpreted else 0,
    )  # fmt: skip
    conv = Launch(
        conv2d_tma_kernel, (programs,), arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS
    )
    return [conv] if whole else [conv, reduce_launch(y, bias, residual, out, activation, target)]
