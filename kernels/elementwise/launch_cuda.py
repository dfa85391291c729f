"""Launchers of relu, relu6, residual_add and concat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from convatlas.kernels.common.cuda.launch import ACTIVATIONS, TYPES, CudaLaunch, aligned, chunk, dtype_name
from convatlas.kernels.common.launch import cdiv, merge

if TYPE_CHECKING:
    from convatlas.kernels.common.target import Target
    from convatlas.ops.observe import Call

THREADS = 256


def elementwise_launch(x: Tensor, shortcut: Tensor | None, y: Tensor, activation: str | None) -> CudaLaunch:
    """y = activation(x + shortcut) as one launch. More than four separate runs of dimensions are made fewer by a copy."""
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
    return CudaLaunch(
        "elementwise/elementwise.cu", "elementwise", (TYPES[dtype_name(y)], str(VEC)), (cdiv(count, THREADS),), THREADS,
        dict(
            x=x, shortcut=None if shortcut is None else second, y=y, count=count, rank=4 - lead if lead < 3 else 1,
            D1=sizes[1], D2=sizes[2], D3=sizes[3] // VEC, activation=ACTIVATIONS[activation],
            **{f"{prefix}_{i}": s[i] for prefix, s in zip("xsy", strides) for i in range(4)},
        ),
    )  # fmt: skip


def activation_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[CudaLaunch]:
    """relu and relu6."""
    return [elementwise_launch(tensors["input"], None, out, call.op)]


def residual_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[CudaLaunch]:
    """y = activation(x + shortcut); y may be x or shortcut."""
    return [elementwise_launch(tensors["x"], tensors["shortcut"], out, call.epilogue.activation)]


def concat_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[CudaLaunch]:
    """One copy per tensor into its slice of out."""
    launches, start = [], 0
    for x in tensors.values():
        size = x.shape[call.spec.dim]
        launches.append(elementwise_launch(x, None, out.narrow(call.spec.dim, start, size), None))
        start += size
    return launches
