"""Launcher of the weight gradient: one launch, or with a split one more that adds the parts in order."""

from __future__ import annotations

import torch

from convatlas.kernels.common.arguments import Tile, image, mode, window
from convatlas.kernels.common.launch import Launch, cdiv, channels_adjacent
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.splitk import reduce_launch, workspace
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.weight_grad.configs import columns, in_taps, packed, weight_grad_config
from convatlas.kernels.weight_grad.triton import weight_grad_kernel


def conv2d_weight_grad(p: Problem) -> list[Launch]:
    """The launches of a weight gradient, and of the bias's where it is among the operands."""
    spec, f, bias, out = p.spec, p.spec.forward, p.get("bias_grad"), p.out
    together, packs, K, C = packed(spec)
    config = weight_grad_config(spec, p.dtype, p.tf32, p.target)
    split, L = config.SPLIT, spec.reduction
    dy = channels_adjacent(p["grad_output"])
    x = channels_adjacent(p["input"]) if in_taps(C) else p["input"]  # a few channels are gathered one by one anyway
    partial = workspace(out, split) if split > 1 else None
    sums = (
        torch.empty((split, 1, f.K), dtype=torch.float32, device=out.device) if bias is not None and split > 1 else None
    )
    steps = cdiv(cdiv(L, config.BK), split)
    arguments = dict(
        dy=image(dy)._replace(c=1), x=image(x)._replace(**({"c": 1} if in_taps(C) else {})), y=image(out), partial=partial,
        bias=bias, bias_partial=sums, M=L, H=f.H, W=f.W, P=f.P, Q=f.Q, C=C, K=K, FILTERS=f.K, steps=steps,
    )  # fmt: skip
    constants = dict(
        window=window(f), tile=Tile(config.BM, config.BN, config.BK, SPLIT=split), mode=mode(p, dy, x, out),
        GROUP_C=f.C // f.groups if together > 1 else 0, GROUP_K=f.K // f.groups if together > 1 else 0, TAP=in_taps(C),
        EVEN=C % config.BN == 0, BIAS=int(bias is not None), STEPS=steps if p.target.interpreted else 0,
    )  # fmt: skip
    tiles = cdiv(K, config.BM) * (columns(spec, C, config.BN) + (bias is not None))
    grid = (tiles * split * packs,)
    launches = [
        Launch(weight_grad_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)
    ]
    if partial is not None:
        launches.append(reduce_launch(partial, p))
    if sums is not None:
        launches.append(reduce_launch(sums, p.seen_as(spec, bias[None, :, None, None])))
    return launches
