"""Launchers of the activations, residual_add, concat and channel_scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from convatlas.kernels.common.cuda.launch import (
    TYPES,
    CudaLaunch,
    aligned,
    chunk,
    dtype_name,
    reciprocal,
    strides,
    vectors,
    with_activation,
)
from convatlas.kernels.common.launch import cdiv, merge
from convatlas.specs.activations import own_activation

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

THREADS = 256
# Pixels of a thread of channel_scale where that leaves as many threads as the SMs hold, 2048 each: four loads are then in flight.
PIXELS, RESIDENT = 4, 2048


def elementwise(
    x: Tensor, shortcut: Tensor | None, y: Tensor, activation: str | None, kernel: str = "elementwise"
) -> CudaLaunch:
    """y = activation(x + shortcut) as one launch, or by the kernel "activation_grad" x times the derivative that shortcut tells.

    More than four separate runs of dimensions are made fewer by a copy.
    """
    second = x if shortcut is None else shortcut
    sizes, strides = merge(tuple(y.shape), y.stride(), x.stride(), second.stride(), y.stride())
    if len(sizes) > 4:
        x, second = x.contiguous(), second.contiguous()
        sizes, strides = merge(tuple(y.shape), y.stride(), x.stride(), second.stride(), y.stride())
    lead = 4 - len(sizes)
    sizes, strides = [1] * lead + sizes, [[0] * lead + s for s in strides]
    n = chunk(y)
    inner = all(s[3] == 1 and all(other % n == 0 for other in s[:3]) for s in strides)
    VEC = n if inner and sizes[3] % n == 0 and aligned(x, second, y) else 1
    count = y.numel() // VEC
    source, code = with_activation("elementwise/elementwise.cu", activation)
    return CudaLaunch(
        source, kernel, (TYPES[dtype_name(y)], str(VEC)), (cdiv(count, THREADS),), THREADS,
        dict(
            x=x, shortcut=None if shortcut is None else second, y=y, count=count, rank=4 - lead if lead < 3 else 1,
            D1=sizes[1], D2=sizes[2], D3=sizes[3] // VEC, activation=code,
            **{f"{prefix}_{i}": s[i] for prefix, s in zip("xsy", strides) for i in range(4)},
        ),
    )  # fmt: skip


def _activation(p: Problem) -> list[CudaLaunch]:
    """The op is an activation, named as it is."""
    return [elementwise(p["input"], None, p.out, own_activation(p.op, p.params))]


relu = relu6 = leaky_relu = sigmoid = hardsigmoid = silu = hardswish = _activation


def activation_grad(p: Problem) -> list[CudaLaunch]:
    """One pass over the gradient and over what tells the derivative."""
    return [elementwise(p["grad_output"], p["saved"], p.out, p.params["activation"], "activation_grad")]


def residual_add(p: Problem) -> list[CudaLaunch]:
    """y = activation(x + shortcut); y may be x or shortcut."""
    return [elementwise(p["x"], p["shortcut"], p.out, p.activation)]


def channel_scale(p: Problem) -> list[CudaLaunch]:
    """y = activation(x * gate(scale) + residual); y may be x or residual."""
    x, y, residual = p["x"], p.out, p.get("residual")
    N, C, H, W = p.spec.shape
    scale = p["scale"].expand(N, C, 1, 1)
    VEC = chunk(y) if vectors(x, scale, residual, y) else 1
    each = PIXELS if N * H * W * (C // VEC) >= PIXELS * RESIDENT * p.target.sms else 1
    parts = cdiv(H * W, each)
    source, codes = "elementwise/channel_scale.cu", {}
    for name, activation in (("gate", p.spec.gate), ("activation", p.activation)):
        own, codes[name] = with_activation("elementwise/channel_scale.cu", activation)
        source = max(source, own, key=len)  # the one with every activation, where either needs it
    count = N * parts * (C // VEC)
    arguments = dict(
        x=x, scale=scale, residual=residual, y=y, count=count, C=C, pixels=H * W, parts=parts, by_W=reciprocal(W), W=W,
        **strides("x", x, "nchw"), **strides("r", residual, "nchw"), **strides("y", y, "nchw"), **strides("scale", scale, "nc"),
        channels_last=int(y.stride(1) == 1), **codes,
    )  # fmt: skip
    template = (TYPES[p.dtype], str(VEC), str(each))
    return [CudaLaunch(source, "channel_scale", template, (cdiv(count, THREADS),), THREADS, arguments)]


def concat(p: Problem) -> list[CudaLaunch]:
    """One copy per tensor into its slice of out."""
    launches, start, dim = [], 0, p.spec.dim
    for x in p.operands.values():
        launches.append(elementwise(x, None, p.out.narrow(dim, start, x.shape[dim]), None))
        start += x.shape[dim]
    return launches
