"""Launchers of batch norm at inference (where it is not folded into a convolution) and local response normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convatlas.kernels.common.arguments import Block, image, mode
from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, as_image, cdiv
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.norm.launch_triton_train import (  # noqa: F401 (a room's launchers are found in this module)
    batch_norm_input_grad,
    batch_norm_stats,
    batch_norm_sums,
    local_response_norm_grad,
)
from convatlas.kernels.norm.triton import batch_norm_kernel, local_response_norm_kernel


def _launch(kernel: Any, p: Problem, extra: dict[str, Any], *more: Tensor | None, **constants: Any) -> Launch:
    x, y = as_image(p["input"]), as_image(p.out)
    N, C, H, W = y.shape
    M = N * H * W
    config = block_config(M, C, y.stride(1) == 1, p.target)
    arguments = dict(x=image(x), y=image(y), M=M, H=H, W=W, C=C, **extra)
    constants = dict(block=Block(config.BM, config.BC), mode=mode(p, x, y, *more), **constants)
    return Launch(kernel, (cdiv(M, config.BM) * cdiv(C, config.BC),), arguments, constants, config.num_warps)


def batch_norm(p: Problem) -> list[Launch]:
    """One pass over the input."""
    names = {"mean": "running_mean", "var": "running_var", "weight": "weight", "bias": "bias"}
    vectors = {name: p.get(given) for name, given in names.items()}
    residual = p.get("residual")
    residual = None if residual is None else as_image(residual)
    return [_launch(batch_norm_kernel, p, {**vectors, "residual": image(residual), "eps": p.params["eps"]}, residual)]


def local_response_norm(p: Problem) -> list[Launch]:
    """One pass; the window's channels come from L1."""
    (before, after), beta = p.spec.reach, p.params["beta"]
    extra = dict(beta=beta, k=p.params["k"], scale=p.params["alpha"] / p.spec.size)
    kind = "zero" if beta == 0 else "fraction" if beta % 1 else "odd" if beta % 2 else "even"
    return [_launch(local_response_norm_kernel, p, extra, BEFORE=before, AFTER=after, BETA=kind)]
