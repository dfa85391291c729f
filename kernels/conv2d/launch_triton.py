"""conv2d: chooses among the depthwise, pointwise, stem, TMA and gather kernels, and launches."""

from __future__ import annotations

import torch
from torch import Tensor

from convatlas.kernels.common.launch import Launch, cdiv, channels_adjacent, is_wide, strides
from convatlas.kernels.common.precision import conv_tf32
from convatlas.kernels.common.splitk import reduce_launch
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.conv2d import launch_triton_rows as rows
from convatlas.kernels.conv2d import launch_triton_tma as tma
from convatlas.kernels.conv2d.configs import gather_config, kind, pack, stem_config
from convatlas.kernels.conv2d.triton_gather import conv2d_gather_kernel
from convatlas.kernels.conv2d.triton_stem import conv2d_stem_kernel
from convatlas.kernels.depthwise import launch_triton as depthwise
from convatlas.kernels.gemm import launch_triton as gemm
from convatlas.ops.observe import Call
from convatlas.specs import Conv2dSpec


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """The launches of one convolution with its epilogue."""
    launcher = {
        "depthwise": depthwise.launches,
        "pointwise": gemm.pointwise_launches,
        "stem": _stem,
        "gather": _gather,
    }[kind(call.spec)]
    return launcher(call, tensors, out, target)


def _krsc(weight: Tensor) -> Tensor:
    """The filter as (K, R, S, C) with C innermost: the weight's own memory when it is channels_last, else a copy."""
    return weight.permute(0, 2, 3, 1).contiguous()


def _window(spec: Conv2dSpec) -> dict[str, int]:
    (top, _), (left, _) = spec.padding
    return dict(
        TOP=top, LEFT=left, R=spec.R, S=spec.S, STRIDE_H=spec.stride[0], STRIDE_W=spec.stride[1],
        DILATION_H=spec.dilation[0], DILATION_W=spec.dilation[1],
    )  # fmt: skip


def _gather(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    spec, tf32, activation = call.spec, conv_tf32(call), call.epilogue.activation
    x, w = channels_adjacent(tensors["input"]), _krsc(tensors["weight"])
    bias, residual = tensors.get("bias"), tensors.get("residual")
    if tma.fits(spec, call.dtype, tf32, x, target):
        return tma.launches(spec, x, w, bias, residual, out, activation, tf32, target)
    config = gather_config(spec, call.dtype, tf32, residual is not None, target)
    together = pack(spec)
    packs = spec.groups // together
    M, K, C = spec.N * spec.P * spec.Q, spec.K // packs, spec.C // packs
    split = config.SPLIT
    whole = split == 1
    y = out if whole else torch.empty((split, M, K), dtype=torch.float32, device=out.device)
    arguments = dict(
        x=x, w=w, bias=bias if whole else None, residual=residual if whole else None, y=y,
        M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, C=C, K=K,
        **strides("x", x, "nhw"), **strides("y", out, "nchw"), **strides("res", residual if whole else None, "nchw"),
    )  # fmt: skip
    constants = dict(
        **_window(spec), C_BLOCKS=cdiv(C, config.BK), EVEN_C=C % config.BK == 0,
        GROUP_C=spec.C // spec.groups if together > 1 else 0, GROUP_K=spec.K // spec.groups if together > 1 else 0,
        PACK=together, BITS=max(spec.R, spec.S) <= 31, ACTIVATION=activation if whole else None,
        SPLIT=split, BM=config.BM, BN=config.BN, BK=config.BK, GROUP=8, PRECISION="tf32" if tf32 else "ieee",
        WIDE=is_wide(x, w, out, residual), INTERPRET=target.interpreted,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(K, config.BN) * split * packs,)
    conv = Launch(conv2d_gather_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)
    return [conv] if whole else [conv, reduce_launch(y, bias, residual, out, activation, target)]


def _stem(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    spec, tf32 = call.spec, conv_tf32(call)
    x, residual = tensors["input"], tensors.get("residual")
    if rows.fits(spec, call.dtype, tf32, target):
        bias, activation = tensors.get("bias"), call.epilogue.activation
        return rows.launches(spec, x, tensors["weight"], bias, residual, out, activation, tf32, target)
    w = _krsc(tensors["weight"])
    config = stem_config(spec, call.dtype, tf32, target)
    M = spec.N * spec.P * spec.Q
    arguments = dict(
        x=x, w=w, bias=tensors.get("bias"), residual=residual, y=out,
        M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, K=spec.K,
        **strides("x", x, "nchw"), **strides("y", out, "nchw"), **strides("res", residual, "nchw"),
    )  # fmt: skip
    constants = dict(
        C=spec.C, **_window(spec), ACTIVATION=call.epilogue.activation,
        BM=config.BM, BN=config.BN, BK=config.BK, GROUP=8, PRECISION="tf32" if tf32 else "ieee",
        WIDE=is_wide(x, w, out, residual), INTERPRET=target.interpreted,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(spec.K, config.BN),)
    return [Launch(conv2d_stem_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)]
