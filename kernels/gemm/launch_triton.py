"""Pointwise (1x1) convolution: a GEMM of N*P*Q pixels by K filters over C channels (Lin et al. 2013, "Network in Network")."""

from __future__ import annotations

import torch
from torch import Tensor

from convatlas.kernels.common.launch import Launch, cdiv, channels_adjacent, is_wide, strides
from convatlas.kernels.common.precision import conv_tf32, matmul_tf32
from convatlas.kernels.common.splitk import reduce_launch
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import MAX_REGISTERS, tile_config
from convatlas.kernels.conv2d import launch_triton_tma as tma
from convatlas.kernels.gemm.triton import gemm_kernel
from convatlas.ops.observe import Call
from convatlas.specs import Conv2dSpec, dtype_name


def pointwise_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """One GEMM, or with split-K a GEMM and a reduction, for a 1x1 convolution without padding or groups."""
    x, w = channels_adjacent(tensors["input"]), tensors["weight"].flatten(1).contiguous()
    tf32 = conv_tf32(call)
    return gemm_launches(
        x,
        w,
        tensors.get("bias"),
        tensors.get("residual"),
        out,
        call.spec.stride,
        call.epilogue.activation,
        tf32,
        target,
    )


def linear_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """(..., C) x (K, C) -> (..., K): the same GEMM, its rows the width of a one-pixel-high image."""
    M, K, C = call.spec.gemm
    x = tensors["input"].reshape(M, C)
    x = x if C == 1 or x.stride(1) == 1 else x.contiguous()
    rows = x.t()[None, :, None, :]  # (1, C, 1, M)
    y = out.view(M, K).t()[None, :, None, :]
    w = tensors["weight"].contiguous()
    tf32 = matmul_tf32(call)
    return gemm_launches(rows, w, tensors.get("bias"), None, y, (1, 1), call.epilogue.activation, tf32, target)


def gemm_launches(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    stride: tuple[int, int],
    activation: str | None,
    tf32: bool,
    target: Target,
) -> list[Launch]:
    """x (N, C, H, W) with adjacent channels, w (K, C) contiguous, residual and out (N, K, P, Q)."""
    K, C = w.shape
    N, _, P, Q = out.shape
    M = N * P * Q
    images = [x, out] if residual is None else [x, out, residual]
    flat = stride == (1, 1) and all(map(_flat, images))
    dtype = dtype_name(x.dtype)
    if M and K and C and (copied := _by_tma(x, w, bias, residual, out, stride, activation, tf32, flat, target)):
        return copied
    config = tile_config(M, K, C, dtype, tf32, target, residual=residual is not None)
    split = config.SPLIT
    steps = cdiv(C, config.BK) // split
    y = out if split == 1 else torch.empty((split, M, K), dtype=torch.float32, device=out.device)
    arguments = dict(
        x=x, w=w, bias=bias if split == 1 else None, residual=residual if split == 1 else None, y=y,
        M=M, K=K, C=C, P=P, Q=Q, steps=steps, w_k=C,
        **_strides("x", x, "nhw", flat), **_strides("y", out, "nchw", flat),
        **_strides("res", residual if split == 1 else None, "nchw", flat),
    )  # fmt: skip
    constants = dict(
        STRIDE_H=stride[0], STRIDE_W=stride[1], ACTIVATION=activation if split == 1 else None,
        FLAT=flat, STEPS=steps if target.interpreted else 0, EVEN_C=C % config.BK == 0,
        SPLIT=split, BM=config.BM, BN=config.BN, BK=config.BK, GROUP=8,
        PRECISION="tf32" if tf32 else "ieee", WIDE=is_wide(*images, w), INTERPRET=target.interpreted,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(K, config.BN) * split,)
    gemm = Launch(gemm_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)
    return [gemm] if split == 1 else [gemm, reduce_launch(y, bias, residual, out, activation, target)]


def _by_tma(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    stride: tuple[int, int],
    activation: str | None,
    tf32: bool,
    flat: bool,
    target: Target,
) -> list[Launch]:
    """The launches of the TMA kernel, none where it does not fit. A flat image is one row: its boxes are runs of pixels."""
    K, C = w.shape
    if flat:
        x, residual, out = (None if t is None else _as_row(t) for t in (x, residual, out))
    spec = Conv2dSpec.of(tuple(x.shape), (K, C, 1, 1), stride)
    if not tma.fits(spec, dtype_name(x.dtype), tf32, x, target):
        return []
    return tma.launches(spec, x, w[:, None, None, :], bias, residual, out, activation, tf32, target)


def _strides(prefix: str, x: Tensor | None, axes: str, flat: bool) -> dict[str, int]:
    """Strides as arguments; those that a FLAT kernel does not read are 0, so that it is not compiled anew for each."""
    given = strides(prefix, x, axes)
    return {name: 0 if flat and name[-1] in "nh" else value for name, value in given.items()}


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
