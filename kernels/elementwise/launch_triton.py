"""Launchers of the activations, residual_add and concat, one kernel with operands left out; and of channel_scale."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from convatlas.kernels.common.arguments import Block, image, mode
from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, cdiv, merge, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.elementwise.triton import channel_scale_kernel, elementwise_kernel
from convatlas.specs.activations import own_activation


class Runs(NamedTuple):
    """A tensor's first element, and the distances in elements along the four merged dimensions of the loop."""

    ptr: Any
    d0: int
    d1: int
    d2: int
    d3: int


def elementwise(
    p: Problem, x: Tensor, shortcut: Tensor | None, y: Tensor, activation: str | None, gradient: bool = False
) -> Launch:
    """y = activation(x + shortcut) as one launch, or with `gradient` x times the derivative that shortcut tells.

    More than four separate runs of dimensions are made fewer by a copy."""
    second = x if shortcut is None else shortcut
    sizes, runs = merge(tuple(y.shape), y.stride(), x.stride(), second.stride(), y.stride())
    if len(sizes) > 4:
        x, second = x.contiguous(), second.contiguous()
        sizes, runs = merge(tuple(y.shape), y.stride(), x.stride(), second.stride(), y.stride())
    lead = 4 - len(sizes)
    sizes, (xs, ss, ys) = [1] * lead + sizes, [[0] * lead + run for run in runs]
    count = y.numel()
    # 1024 elements on 128 threads: 8 halves, 16 bytes, a thread and operand.
    BLOCK = min(power_of_two(max(count, 1)), 1 << 19) if p.target.unbounded else 1024
    offsets = mode(p, x, second, y)
    return Launch(
        elementwise_kernel,
        (cdiv(count, BLOCK),),
        dict(
            x=Runs(x, *xs), shortcut=Runs(None if shortcut is None else second, *ss), y=Runs(y, *ys), count=count,
            D1=sizes[1], D2=sizes[2], D3=sizes[3],
        ),
        dict(
            mode=offsets.activated(activation)._replace(WIDE=count >= 2**31 or offsets.WIDE),
            RANK=max(4 - lead, 1), BLOCK=BLOCK, GRADIENT=gradient,
        ),
    )  # fmt: skip


def _activation(p: Problem) -> list[Launch]:
    """The op is an activation, named as it is."""
    return [elementwise(p, p["input"], None, p.out, own_activation(p.op, p.params))]


relu = relu6 = leaky_relu = sigmoid = hardsigmoid = silu = hardswish = _activation


def activation_grad(p: Problem) -> list[Launch]:
    """One pass over the gradient and over what tells the derivative."""
    return [elementwise(p, p["grad_output"], p["saved"], p.out, p.params["activation"], gradient=True)]


def residual_add(p: Problem) -> list[Launch]:
    """y = activation(x + shortcut), a kernel of its own only where it is not fused into a convolution; y may be x or shortcut."""
    return [elementwise(p, p["x"], p["shortcut"], p.out, p.activation)]


def channel_scale(p: Problem) -> list[Launch]:
    """y = activation(x * gate(scale) + residual); y may be x or residual."""
    x, y, residual = p["x"], p.out, p.get("residual")
    N, C, H, W = p.spec.shape
    M, scale = N * H * W, p["scale"].expand(N, C, 1, 1)
    config, how = block_config(M, C, y.stride(1) == 1, p.target), mode(p, x, scale, residual, y)
    arguments = dict(x=image(x), scale=image(scale), residual=image(residual), y=image(y), M=M, H=H, W=W, C=C)
    constants = dict(block=Block(config.BM, config.BC), gate=how.activated(p.spec.gate), mode=how)
    grid = (cdiv(M, config.BM) * cdiv(C, config.BC),)
    return [Launch(channel_scale_kernel, grid, arguments, constants, config.num_warps)]


def concat(p: Problem) -> list[Launch]:
    """One copy per tensor into its slice of out."""
    launches, start, dim = [], 0, p.spec.dim
    for x in p.operands.values():
        launches.append(elementwise(p, x, None, p.out.narrow(dim, start, x.shape[dim]), None))
        start += x.shape[dim]
    return launches
