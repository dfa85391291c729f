"""Pointwise (1x1) convolution and linear layers, one GEMM of pixels or rows by K filters over C channels.

Source: Lin et al. 2013, "Network in Network", for the 1x1 convolution.
"""

from __future__ import annotations

from torch import Tensor

from convatlas.kernels.common.arguments import Tile, Window, image, mode, partials
from convatlas.kernels.common.launch import Launch, cdiv, channels_adjacent
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.splitk import reduce_launch, workspace
from convatlas.kernels.common.tiles import MAX_REGISTERS, tile_config
from convatlas.kernels.conv2d import launch_triton_tma as tma
from convatlas.kernels.gemm.triton import gemm_kernel
from convatlas.specs import Conv2dSpec


def pointwise(p: Problem) -> list[Launch]:
    """A 1x1 convolution without padding or groups."""
    return gemm(p, channels_adjacent(p["input"]), p["weight"].flatten(1).contiguous())


def linear(p: Problem) -> list[Launch]:
    """(..., C) x (K, C) -> (..., K): the same GEMM, its rows the width of a one-pixel-high image."""
    M, K, C = p.spec.gemm
    x = p["input"].reshape(M, C)
    x = x if C == 1 or x.stride(1) == 1 else x.contiguous()
    rows = x.t()[None, :, None, :]  # (1, C, 1, M)
    y = p.out.view(M, K).t()[None, :, None, :]
    spec = Conv2dSpec(1, C, 1, M, K, 1, 1)
    return gemm(p.seen_as(spec, y), rows, p["weight"].contiguous())


def gemm(p: Problem, x: Tensor, w: Tensor) -> list[Launch]:
    """One GEMM, or with split-K a GEMM and a reduction: x (N, C, H, W) with adjacent channels, w (K, C) contiguous.

    Where all pixels lie the same distance apart (flat), no pixel number is split into n, p, q, and the TMA kernel sees the
    image as one row.
    """
    spec, target, residual = p.spec, p.target, p.get("residual")
    M, K, C = spec.N * spec.P * spec.Q, spec.K, spec.C
    images = [x, p.out] if residual is None else [x, p.out, residual]
    flat = spec.stride == (1, 1) and all(map(_flat, images))
    if M and K and C and (copied := _by_tma(p, x, w, flat)):
        return copied
    config = tile_config(M, K, C, p.dtype, p.tf32, target, residual=residual is not None)
    split = config.SPLIT
    steps = cdiv(C, config.BK) // split
    partial = workspace(p.out, split) if split > 1 else None
    added, y = partials(p, partial)
    if flat:  # strides that are not read are 0, so that the kernel is not compiled anew for each
        added, y = added._replace(n=0, h=0), y._replace(n=0, h=0)
    seen = image(x)._replace(c=1, **(dict(n=0, h=0) if flat else {}))
    arguments = dict(x=seen, w=w, epilogue=added, y=y, M=M, K=K, C=C, P=spec.P, Q=spec.Q, steps=steps, w_k=C)
    constants = dict(
        window=Window(1, 1, *spec.stride), tile=Tile(config.BM, config.BN, config.BK, SPLIT=split),
        mode=mode(p, *images, w, whole=partial is None), FLAT=flat, STEPS=steps if target.interpreted else 0,
        EVEN_C=C % config.BK == 0,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(K, config.BN) * split,)
    launch = Launch(gemm_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)
    return [launch] if partial is None else [launch, reduce_launch(partial, p)]


def _by_tma(p: Problem, x: Tensor, w: Tensor, flat: bool) -> list[Launch]:
    """The launches of the TMA kernel, or none where it does not fit.

    It sees a flat image as one row, its boxes as runs of pixels.
    """
    if flat:
        x, out, residual = (None if t is None else _as_row(t) for t in (x, p.out, p.get("residual")))
        spec = Conv2dSpec(1, p.spec.C, 1, x.shape[3], p.spec.K, 1, 1)
        p = p.seen_as(spec, out, residual=residual)
    return tma.launches(p, x, w[:, None, None, :]) if tma.fits(p, x) else []


def _as_row(x: Tensor) -> Tensor:
    """A _flat image as (1, C, 1, N*H*W)."""
    N, C, H, W = x.shape
    M, row = N * H * W, x.stride(3)
    return x.as_strided((1, C, 1, M), (M * row, x.stride(1), M * row, row))


def _flat(x: Tensor) -> bool:
    """Whether pixel m = (n*H + h)*W + w starts at m * stride(w)."""
    N, _, H, W = x.shape
    row = x.stride(3)
    return (H == 1 or x.stride(2) == W * row) and (N == 1 or x.stride(0) == H * W * row)
