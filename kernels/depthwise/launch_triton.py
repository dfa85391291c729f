"""Launcher of the depthwise convolution (Howard et al. 2017, MobileNets; Chollet 2016, Xception)."""

from __future__ import annotations

from convatlas.kernels.common.arguments import Block, epilogue, image, mode, window
from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, cdiv
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.depthwise.triton import depthwise_kernel


def depthwise(p: Problem) -> list[Launch]:
    """One launch, on any memory format of input, weight, residual and out."""
    spec, x, w, out = p.spec, p["input"], p["weight"], p.out
    M = spec.N * spec.P * spec.Q
    config = block_config(M, spec.K, out.stride(1) == 1, p.target)
    arguments = dict(
        x=image(x), w=image(w)._replace(c=1), epilogue=epilogue(p), y=image(out),
        M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, K=spec.K,
    )  # fmt: skip
    constants = dict(
        window=window(spec), block=Block(config.BM, config.BC), mode=mode(p, x, out, p.get("residual")),
        MULTIPLIER=spec.K // spec.C,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(spec.K, config.BC),)
    return [Launch(depthwise_kernel, grid, arguments, constants, config.num_warps)]
