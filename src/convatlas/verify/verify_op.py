"""One op on random operands of given shapes, held to the reference: verify for a layer that is in no network of ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.ops import functional as ops
from convatlas.ops.observe import observe
from convatlas.study.layer import Layer
from convatlas.verify.check import LayerCheck, check_alone
from convatlas.verify.device import device_for
from convatlas.verify.probes import probes
from convatlas.verify.single import operands

Shape = tuple[int, ...]


def verify_op(
    op: str,
    input: Shape | list[Shape],
    weight: Shape | None = None,
    *,
    bias: bool = False,
    residual: bool = False,
    dtype: str = "float16",
    backend: str = "triton",
    channels_last: bool = True,
    seed: int = 0,
    **arguments: Any,
) -> LayerCheck:
    """Runs `op` on normal random numbers, into a buffer full of NaN, and holds its output to the reference's bound.

    Then it runs once more, on operands on which a fault must show (verify.probes): where only that fails, its check is returned.

    Args:
        op: a public op's name, such as "conv2d".
        input: the input's shape; for concat a list with one shape a tensor. Operands of its size, and those of one number a
            channel, follow from it.
        weight: the weight's shape, for conv2d and linear.
        bias, residual: whether the op adds one, where it can.
        dtype, backend: as the op takes them.
        channels_last: four-dimensional operands are channels_last in memory; else contiguous.
        seed: seed of the numbers.
        arguments: the op's others, by their names.

    Raises ShapeError, DtypeError and BackendError as the op does.
    """
    device, kind = device_for(backend, dtype), getattr(torch, dtype)
    layer = described(op, input, weight, bias, residual, arguments)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    check = check_alone(layer, operands(layer, kind, device, seed, memory_format=memory_format), backend)
    probing = {
        name: x.contiguous(memory_format=memory_format) if x.dim() == 4 else x
        for name, x in probes(layer, kind, device, seed).items()
    }
    probed = check_alone(layer, probing, backend, probing=True)
    return probed if check.report.ok and not probed.report.ok else check


def described(
    op: str, input: Shape | list[Shape], weight: Shape | None, bias: bool, residual: bool, arguments: dict[str, Any]
) -> Layer:
    """The Layer of that call, which the op itself validates on the meta device."""

    def meta(shape: Shape) -> Tensor:
        return torch.empty(shape, device="meta")

    if op == "concat":
        given = [[meta(shape) for shape in input]]
    elif op == "residual_add":
        given = [meta(input), meta(input)]
    elif op == "channel_scale":
        given = [meta(input), meta((*input[:-2], 1, 1))]
    elif op == "batch_norm":
        given = [meta(input), *(meta(input[1:2]) for _ in range(4))]
    else:
        given = [meta(shape) for shape in (input, weight) if shape is not None]
    seen: list[Call] = []
    with observe(lambda call, tensors, output: seen.append(call)):
        getattr(ops, op)(*given, **arguments)
    call = seen[0]
    epilogue = call.epilogue
    if bias or residual:  # whose shapes follow from the spec
        epilogue = replace(epilogue, bias=bias, residual=residual)
    return Layer("", replace(call, epilogue=epilogue))
