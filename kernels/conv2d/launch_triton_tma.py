"""Launcher of the implicit GEMM by tensor memory access, and which layers it takes. Windows, 1x1 and linear layers share it."""

from __future__ import annotations

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.kernels.common.arguments import Box, mode, partials, window
from convatlas.kernels.common.launch import Launch, cdiv
from convatlas.kernels.common.override import forced, note
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.splitk import reduce_launch, workspace
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.conv2d.configs_tma import TmaConfig, box_channels, candidates, tma_config
from convatlas.kernels.conv2d.triton_tma import conv2d_tma_kernel

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


def fits(p: Problem, x: Tensor) -> bool:
    """Whether the TMA kernel can compute the convolution of p on x, its input with adjacent channels, and pays there.

    It needs Hopper's copy engine, one group, whole steps of channels, an input that a descriptor can describe and, along a strided
    axis, an extent that the stride divides. IEEE float32 multiplies without tensor cores, and fewer filters than a
    warpgroup's 64 rows would leave half of them idle. The interpreter runs it wherever it can run.
    """
    spec, target = p.spec, p.target
    if (
        "triton/tma" in target.held
        or spec.groups != 1
        or (not target.unbounded and (target.arch < 90 or p.simt or spec.flops < FLOPS))
    ):
        return False
    SH, SW = spec.stride
    dense = SW == 1 or x.stride(3) == spec.C
    whole = spec.H % SH == 0 and spec.W % SW == 0 and box_channels(spec.C, p.dtype) > 0
    return whole and dense and spec.K >= 64 and aligned(x)


def launches(p: Problem, x: Tensor, w: Tensor, config: TmaConfig | None = None) -> list[Launch]:
    """x channels_last, w (K, R, S, C) contiguous; with split-K a second launch, the reduction.

    config: tiles in place of the model's.
    """
    spec, out, residual, target = p.spec, p.out, p.get("residual"), p.target
    if config is None:
        if not target.unbounded:
            note(lambda: candidates(spec, p.dtype, residual is not None, target))
        config = forced(TmaConfig) or tma_config(spec, p.dtype, residual is not None, target)
    SH, SW = spec.stride
    N, C, H, W = x.shape
    x_n, _, x_h, x_w = x.stride()
    pixels = TensorDescriptor(
        x,
        [N, H // SH, SH, W // SW, SW * C],
        [x_n, SH * x_h, x_h, SW * x_w, 1],
        [config.TN, config.TH, 1, config.TW, config.BK],
    )
    filters = TensorDescriptor(w, [spec.K, w[0].numel()], [w[0].numel(), 1], [config.BN, config.BK])
    partial = workspace(out, config.SPLIT) if config.SPLIT > 1 else None
    added, y = partials(p, partial)
    tiles = cdiv(N, config.TN), cdiv(spec.P, config.TH), cdiv(spec.Q, config.TW)
    count = tiles[0] * tiles[1] * tiles[2] * cdiv(spec.K, config.BN) * config.SPLIT
    programs = min(count, target.sms * config.RESIDENT) if config.RESIDENT else count
    arguments = dict(
        x=pixels, w=filters, epilogue=added, y=y, N=N, P=spec.P, Q=spec.Q, K=spec.K, tiles_p=tiles[1], tiles_q=tiles[2],
        tiles=count,
    )  # fmt: skip
    constants = dict(
        window=window(spec), box=Box(config.TN, config.TH, config.TW, config.BN, config.BK, config.SPLIT),
        mode=mode(p, out, residual, whole=partial is None), C=C, RESIDENT=config.RESIDENT,
        TILES=count if target.interpreted else 0, PROGRAMS=programs if target.interpreted else 0,
    )  # fmt: skip
    conv = Launch(
        conv2d_tma_kernel, (programs,), arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS
    )
    return [conv] if partial is None else [conv, reduce_launch(partial, p)]
