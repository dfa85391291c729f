"""Launcher of the weight gradient: one launch, or with a split one more that adds the parts in order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convatlas.kernels.common.arguments import Block, Tile, image, mode, window
from convatlas.kernels.common.launch import Launch, cdiv, channels_adjacent, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.weight_grad import launch_triton_tma as tma
from convatlas.kernels.weight_grad.configs import columns, depthwise_config, in_taps, packed, weight_grad_config
from convatlas.kernels.weight_grad.triton import weight_grad_kernel
from convatlas.kernels.weight_grad.triton_depthwise import depthwise_weight_grad_kernel
from convatlas.kernels.weight_grad.triton_reduce import weight_reduce_kernel

# The widest window of a depthwise convolution whose row of sums a thread can hold.
WIDEST = 9


def conv2d_weight_grad(p: Problem) -> list[Launch]:
    """The launches of a weight gradient, and of the bias's where it is among the operands."""
    f = p.spec.forward
    if f.kind == "depthwise" and f.S <= WIDEST:
        return depthwise(p)
    _, _, _, C = packed(p.spec)
    dy = channels_adjacent(p["grad_output"])
    x = channels_adjacent(p["input"]) if in_taps(C) else p["input"]  # a few channels are gathered one by one anyway
    rows = tma.as_rows(p, dy, x)
    return by_tma(p, *rows) if rows else gather(p, dy, x)


def gather(p: Problem, dy: Tensor, x: Tensor) -> list[Launch]:
    """Pixels read one by one, of any convolution. dy has adjacent channels, and x where there are enough of them."""
    spec, f, bias = p.spec, p.spec.forward, p.get("bias_grad")
    together, packs, K, C = packed(spec)
    config = weight_grad_config(spec, p.dtype, p.tf32, p.target)
    steps = cdiv(cdiv(spec.reduction, config.BK), config.SPLIT)
    places = workspaces(p, config.SPLIT)
    arguments = dict(
        dy=image(dy)._replace(c=1), x=image(x)._replace(**({"c": 1} if in_taps(C) else {})), **places,
        M=spec.reduction, H=f.H, W=f.W, P=f.P, Q=f.Q, C=C, K=K, FILTERS=f.K, steps=steps,
    )  # fmt: skip
    constants = dict(
        window=window(f), tile=Tile(config.BM, config.BN, config.BK, SPLIT=config.SPLIT), mode=mode(p, dy, x, p.out),
        GROUP_C=f.C // f.groups if together > 1 else 0, GROUP_K=f.K // f.groups if together > 1 else 0, TAP=in_taps(C),
        EVEN=C % config.BN == 0, BIAS=int(bias is not None), STEPS=steps if p.target.interpreted else 0,
    )  # fmt: skip
    grid = (cdiv(K, config.BM) * (columns(spec, C, config.BN) + (bias is not None)) * packs * config.SPLIT,)
    launch = Launch(weight_grad_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)
    return [launch, *reduction(p, config.SPLIT, places)]


def by_tma(p: Problem, dy: Tensor, x: Tensor) -> list[Launch]:
    """The same by the copy engine, of images that tma.as_rows has found to fit."""
    config = tma.config(p, dy)
    places = workspaces(p, config.SPLIT)
    return [tma.launch(p, dy, x, config, places), *reduction(p, config.SPLIT, places)]


def depthwise(p: Problem) -> list[Launch]:
    """One input channel a filter, in any memory format: all rows of a small window at once, else one."""
    spec, f, dy, x, bias = p.spec, p.spec.forward, p["grad_output"], p["input"], p.get("bias_grad")
    ROWS = f.R if f.R * f.S <= WIDEST else 1
    config, split, steps = depthwise_config(spec, f.R // ROWS, dy.stride(1) == 1, p.target)
    places = workspaces(p, split)
    arguments = dict(
        dy=image(dy), x=image(x), **places, M=spec.reduction, H=f.H, W=f.W, P=f.P, Q=f.Q, K=f.K, steps=steps,
    )  # fmt: skip
    constants = dict(
        window=window(f), block=Block(config.BM, config.BC), mode=mode(p, dy, x, p.out), MULTIPLIER=f.K // f.C, ROWS=ROWS,
        SPLIT=split > 1, BIAS=bias is not None, STEPS=steps if p.target.interpreted else 0,
    )  # fmt: skip
    grid = (cdiv(f.K, config.BC) * (f.R // ROWS) * split,)
    launch = Launch(depthwise_weight_grad_kernel, grid, arguments, constants, config.num_warps)
    return [launch, *reduction(p, split, places)]


def workspaces(p: Problem, split: int) -> dict[str, Any]:
    """The operands that say where sums go: dw and db or, of a split, the parts of either in float32."""
    out, bias = p.out, p.get("bias_grad")
    places = dict(y=image(out), partial=None, bias=bias, bias_partial=None)
    if split > 1:
        weights = split * out.numel()
        partial = torch.empty(
            weights + split * p.spec.forward.K * (bias is not None), dtype=torch.float32, device=out.device
        )
        places |= dict(partial=partial, bias_partial=None if bias is None else partial[weights:])
    return places


def reduction(p: Problem, split: int, places: dict[str, Any]) -> list[Launch]:
    """The launch that adds the parts; none where nothing was split."""
    if split == 1:
        return []
    f = p.spec.forward
    channels, unbounded = f.C // f.groups, p.target.unbounded
    BLOCK = 1024 if unbounded else 64
    ROWS = min(power_of_two(split), 1024 if unbounded else 32)
    grid = (cdiv(p.out.numel(), BLOCK) + cdiv(f.K, BLOCK) * (places["bias"] is not None),)
    arguments = dict(**places, FILTERS=f.K, CHANNELS=channels, parts=split)
    constants = dict(
        window=window(f), mode=mode(p, p.out), ROWS=ROWS, BLOCK=BLOCK, PARTS=split if p.target.interpreted else 0
    )
    return [Launch(weight_reduce_kernel, grid, arguments, constants)]
