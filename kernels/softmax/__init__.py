"""softmax along any dimension."""

from __future__ import annotations

from math import prod

from torch import Tensor

from convatlas.kernels.launch import Launch, power_of_two
from convatlas.kernels.softmax.triton_softmax import softmax_kernel
from convatlas.kernels.target import Target
from convatlas.ops.observe import Call


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """One program a row. `out` is contiguous (backend.run sees to it)."""
    shape, dim = call.spec.shape, call.params["dim"]
    length, inner = shape[dim], prod(shape[dim + 1 :])
    BLOCK = min(power_of_two(length), 1 << 16 if target.interpreted else 1024)
    arguments = dict(x=tensors["input"].contiguous(), y=out, INNER=inner)
    constants = dict(LENGTH=length, BLOCK=BLOCK, INTERPRET=target.interpreted)
    rows = out.numel() // length if length else 0
    return [Launch(softmax_kernel, (rows,), arguments, constants)]
