"""Element-wise kernels: relu, relu6, residual_add and concat are one kernel with operands left out."""

from __future__ import annotations

from torch import Tensor

from convatlas.kernels.common.launch import Launch, cdiv, is_wide, merge, power_of_two
from convatlas.kernels.common.target import Target
from convatlas.kernels.elementwise.triton import elementwise_kernel
from convatlas.ops.observe import Call


def elementwise_launch(x: Tensor, shortcut: Tensor | None, y: Tensor, activation: str | None, target: Target) -> Launch:
    """y = activation(x + shortcut) as one launch. More than four separate runs of dimensions are made fewer by a copy."""
    second = x if shortcut is None else shortcut
    sizes, (xs, ss, ys) = merge(tuple(y.shape), y.stride(), x.stride(), second.stride(), y.stride())
    if len(sizes) > 4:
        x, second = x.contiguous(), second.contiguous()
        sizes, (xs, ss, ys) = merge(tuple(y.shape), y.stride(), x.stride(), second.stride(), y.stride())
    lead = 4 - len(sizes)
    sizes, xs, ss, ys = [1] * lead + sizes, [0] * lead + xs, [0] * lead + ss, [0] * lead + ys
    count = y.numel()
    # 1024 elements on 128 threads: 8 halves, 16 bytes, a thread and operand.
    BLOCK = min(power_of_two(max(count, 1)), 1 << 19) if target.unbounded else 1024
    names = [f"{prefix}_{i}" for prefix in "xsy" for i in range(4)]
    return Launch(
        elementwise_kernel,
        (cdiv(count, BLOCK),),
        dict(
            x=x, shortcut=None if shortcut is None else second, y=y, count=count,
            D1=sizes[1], D2=sizes[2], D3=sizes[3], **dict(zip(names, xs + ss + ys)),
        ),
        dict(
            RANK=max(4 - lead, 1), ACTIVATION=activation, BLOCK=BLOCK,
            WIDE=count >= 2**31 or is_wide(x, second, y), INTERPRET=target.interpreted,
        ),
    )  # fmt: skip


def activation_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """relu and relu6."""
    return [elementwise_launch(tensors["input"], None, out, call.op, target)]


def residual_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """y = activation(x + shortcut), a kernel of its own only where it is not fused into a convolution; y may be x or shortcut."""
    return [elementwise_launch(tensors["x"], tensors["shortcut"], out, call.epilogue.activation, target)]


def concat_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """One copy per tensor into its slice of out."""
    launches, start = [], 0
    for x in tensors.values():
        size = x.shape[call.spec.dim]
        launches.append(elementwise_launch(x, None, out.narrow(call.spec.dim, start, size), None, target))
        start += size
    return launches
