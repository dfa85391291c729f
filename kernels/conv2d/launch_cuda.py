"""Launcher of conv2d: depthwise, the few-channel kernel (stem.cu, an image's 3 channels in half precision), or the GEMM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from convatlas.kernels.common.cuda.launch import (
    TYPES,
    CudaLaunch,
    reciprocal,
    strides,
    vectors,
    window,
    with_activation,
)
from convatlas.kernels.common.launch import cdiv, channels_adjacent, is_wide
from convatlas.kernels.common.packing import krsc
from convatlas.kernels.depthwise.launch_cuda import depthwise
from convatlas.kernels.gemm.launch_cuda import gemm
from convatlas.specs import Conv2dSpec
from convatlas.specs.conv import STEM_CHANNELS

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

TILE_H, TILE_W, THREADS, WARPS = 8, 16, 128, 4  # stem.cu's
CHANNELS = 4  # a pixel of the patch
BLOCKS_PER_SM = 4  # of 128 threads with up to 128 registers each


def conv2d(p: Problem) -> list[CudaLaunch]:
    """A convolution of any kind, with its epilogue."""
    if p.spec.kind == "depthwise":
        return depthwise(p)
    if few := stem(p):
        return few
    # An NCHW input of few channels is gathered in place: an image's copy would cost more than its gather.
    x = p["input"] if p.spec.C < STEM_CHANNELS else channels_adjacent(p["input"])
    return gemm(p, x, krsc(p["weight"]))


def stem(p: Problem) -> list[CudaLaunch] | None:
    """One launch for an input in any memory format; None for a layer that the kernel does not take.

    Blocks are as many as the SMs hold at once: each loads the filters once and then walks over tiles.
    """
    spec, x, w, bias, out, T = p.spec, p["input"], p["weight"], p.get("bias"), p.out, TYPES[p.dtype]
    if T == "float" or spec.groups != 1 or spec.C > CHANNELS or spec.C == 0 or p.epilogue.residual or not vectors(out):
        return None
    BN = 32 if spec.K <= 32 else 64
    patch = patch_of(spec, TILE_H)
    shared = stem_shared(spec, BN, patch, WARPS)
    across = cdiv(spec.P, TILE_H), cdiv(spec.Q, TILE_W)
    tiles = spec.N * across[0] * across[1]
    if shared > p.target.shared // 2 or tiles >= 1 << 30 or is_wide(x[:1]):
        return None
    source, activation = with_activation("conv2d/stem.cu", p.activation)
    arguments = stem_arguments(spec, x, w, bias, out, across, patch) | dict(
        activation=activation, pooled_h=0, pooled_w=0, pool_top=0, pool_left=0
    )
    grid = (min(tiles, BLOCKS_PER_SM * p.target.sms), cdiv(spec.K, BN))
    template = (T, str(spec.C), str(BN))
    return [CudaLaunch(source, "conv2d_stem", template, grid, THREADS, arguments, shared, True)]


def patch_of(spec: Conv2dSpec, rows: int) -> tuple[int, int]:
    """Rows and columns of the image below `rows` x TILE_W outputs."""
    return (
        (rows - 1) * spec.stride[0] + (spec.R - 1) * spec.dilation[0] + 1,
        (TILE_W - 1) * spec.stride[1] + (spec.S - 1) * spec.dilation[1] + 1,
    )


def stem_shared(spec: Conv2dSpec, BN: int, patch: tuple[int, int], warps: int) -> int:
    """Bytes of the filters, offsets, bias, patch and stashes, in stem.cuh's order."""
    steps = cdiv(spec.R * spec.S, 4)
    filters = BN * (steps * 16 + 8) * 2 + steps * 16 + BN * 4
    return filters + cdiv(patch[0] * patch[1], 2) * 16 + warps * 32 * (BN + 8) * 2


def stem_arguments(
    spec: Conv2dSpec,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    y: Tensor,
    across: tuple[int, int],
    patch: tuple[int, int],
) -> dict[str, Any]:
    """The fields of StemParams but for the activation's and the pooling's; `across`: tiles along an image's height and width."""
    steps = cdiv(spec.R * spec.S, 4)
    return dict(
        x=x, w=w, bias=bias, y=y, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, K=spec.K,
        **window(spec), **strides("x", x, "nchw"),
        w_k=w.stride(0), w_c=w.stride(1), w_r=w.stride(2), w_s=w.stride(3), **strides("y", y, "nhw"),
        tiles=spec.N * across[0] * across[1], tiles_h=across[0], tiles_w=across[1], steps=steps,
        patch_h=patch[0], patch_w=patch[1], by_tiles_h=reciprocal(across[0]), by_tiles_w=reciprocal(across[1]),
        by_taps=reciprocal(4 * steps), by_S=reciprocal(spec.S), by_patch_w=reciprocal(patch[1]),
    )  # fmt: skip
