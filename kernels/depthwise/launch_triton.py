"""Depthwise convolution (Howard et al. 2017, MobileNets; Chollet 2016, Xception): one input channel a filter, any multiplier."""

from __future__ import annotations

from torch import Tensor

from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, cdiv, is_wide, strides
from convatlas.kernels.common.target import Target
from convatlas.kernels.depthwise.triton import depthwise_kernel
from convatlas.ops.observe import Call


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """One launch, on any memory format of input, weight, residual and out."""
    spec = call.spec
    x, w, residual = tensors["input"], tensors["weight"], tensors.get("residual")
    M = spec.N * spec.P * spec.Q
    config = block_config(M, spec.K, out.stride(1) == 1, target)
    (top, _), (left, _) = spec.padding
    arguments = dict(
        x=x, w=w, bias=tensors.get("bias"), residual=residual, y=out,
        M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, K=spec.K,
        **strides("x", x, "nchw"), w_k=w.stride(0), w_r=w.stride(2), w_s=w.stride(3),
        **strides("y", out, "nchw"), **strides("res", residual, "nchw"),
    )  # fmt: skip
    constants = dict(
        TOP=top, LEFT=left, R=spec.R, S=spec.S, STRIDE_H=spec.stride[0], STRIDE_W=spec.stride[1],
        DILATION_H=spec.dilation[0], DILATION_W=spec.dilation[1], MULTIPLIER=spec.K // spec.C,
        ACTIVATION=call.epilogue.activation, BM=config.BM, BC=config.BC,
        WIDE=is_wide(x, out, residual), INTERPRET=target.interpreted,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(spec.K, config.BC),)
    return [Launch(depthwise_kernel, grid, arguments, constants, config.num_warps)]
