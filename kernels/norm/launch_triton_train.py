"""Launchers of what training adds to the norms: batch statistics, the sums of their backward pass, gradients of the inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convatlas.kernels.common.arguments import Block, image, mode
from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, as_image, cdiv, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.norm.triton_train import (
    input_grad_kernel,
    join_stats_kernel,
    join_sums_kernel,
    response_norm_grad_kernel,
    stats_kernel,
    sums_kernel,
)

LEAST = 4  # steps that a program of a split takes at least: its last reduction over the lanes costs about one


def _reduction(
    p: Problem, images: dict[str, Any], extra: dict[str, Any], kernel: Any, join: Any, **joined: Any
) -> list[Launch]:
    """Parts of the pixels of each block of channels, enough programs for two a multiprocessor, and their join."""
    x = images["x"]
    N, C, H, W = x.shape
    M, unbounded = N * H * W, p.target.unbounded
    BC = min(power_of_two(C), 512 if unbounded else 64 if x.stride(1) == 1 else 1)
    # 2048 elements of two images, a thread's registers; with the output and the masked gradient beside them 2048 spill on Hopper.
    elements = 2048 if sum(one is not None for one in images.values()) <= 2 else 1024
    BM = min(power_of_two(max(M, 1)), max((1 << 16 if unbounded else elements) // BC, 1))
    blocks = cdiv(C, BC)
    split = 1 if unbounded else max(min(cdiv(2 * p.target.sms, blocks), M // (LEAST * BM)), 1)
    size = cdiv(cdiv(M, split), BM) * BM
    split = max(cdiv(M, max(size, 1)), 1)
    part = torch.empty((2, split, C), dtype=torch.float32, device=x.device)
    block, how = Block(BM, BC), mode(p, *images.values()).activated(p.params.get("activation"))
    arguments = {name: image(value) for name, value in images.items()}
    first = Launch(
        kernel, (blocks, split), dict(**arguments, part=part, M=M, H=H, W=W, C=C, PART=size, **extra), dict(block=block, mode=how)
    )  # fmt: skip
    joined = {name: dict(M=M, PART=size)[name] for name in joined}
    return [first, Launch(join, (blocks,), dict(part=part, y=p.out, C=C, **joined), dict(block=block, SPLIT=split))]


def batch_norm_stats(p: Problem) -> list[Launch]:
    """One read of the input."""
    return _reduction(p, dict(x=as_image(p["input"])), {}, stats_kernel, join_stats_kernel, M=True, PART=True)


GIVEN = {"g": "grad_output", "x": "input", "output": "output", "masked": "masked"}


def _image(p: Problem, name: str) -> Tensor | None:
    return None if (x := p.get(name)) is None else as_image(x)


def _statistics(p: Problem) -> dict[str, Any]:
    return dict(mean=p["running_mean"], var=p["running_var"], eps=p.params["eps"])


def batch_norm_sums(p: Problem) -> list[Launch]:
    """One read of the gradient and the input."""
    images = {name: _image(p, given) for name, given in GIVEN.items()}
    return _reduction(p, images, _statistics(p), sums_kernel, join_sums_kernel)


def _pixels(kernel: Any, p: Problem, extra: dict[str, Any], *more: Tensor | None, **constants: Any) -> list[Launch]:
    g, x, dx = as_image(p["grad_output"]), as_image(p["input"]), as_image(p.out)
    N, C, H, W = dx.shape
    M = N * H * W
    config = block_config(M, C, dx.stride(1) == 1, p.target)
    arguments = dict(g=image(g), x=image(x), dx=image(dx), M=M, H=H, W=W, C=C, **extra)
    constants = dict(
        block=Block(config.BM, config.BC),
        mode=mode(p, g, x, dx, *more).activated(p.params.get("activation")),
        **constants,
    )
    return [Launch(kernel, (cdiv(M, config.BM) * cdiv(C, config.BC),), arguments, constants, config.num_warps)]


def batch_norm_input_grad(p: Problem) -> list[Launch]:
    """One read of the gradient and, where the statistics are the batch's, of the input."""
    sums = p.get("sums")
    output = _image(p, "output")
    extra = dict(output=image(output), weight=p.get("weight"), sums=None if sums is None else sums.contiguous())
    return _pixels(input_grad_kernel, p, {**_statistics(p), **extra}, output)


def local_response_norm_grad(p: Problem) -> list[Launch]:
    """One pass; what the windows share comes from L1."""
    (before, after), s = p.spec.forward.reach, p.spec.forward
    extra = dict(beta=p.params["beta"], k=p.params["k"], scale=p.params["alpha"] / s.size)
    return _pixels(response_norm_grad_kernel, p, extra, BEFORE=before, AFTER=after)
