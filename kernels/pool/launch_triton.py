"""Pooling: max, average, adaptive average and, as its own kernel, global average (every network's last pooling)."""

from __future__ import annotations

from torch import Tensor

from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, cdiv, is_wide, power_of_two, strides
from convatlas.kernels.common.target import Target
from convatlas.kernels.pool.triton import (
    adaptive_pool_kernel,
    avg_pool_kernel,
    global_pool_kernel,
    max_pool_kernel,
)
from convatlas.ops.observe import Call


def _common(call: Call, x: Tensor, out: Tensor, target: Target) -> tuple[dict, dict, tuple[int], int]:
    spec = call.spec
    M = spec.N * spec.P * spec.Q
    config = block_config(M, spec.C, out.stride(1) == 1, target)
    arguments = dict(
        x=x, y=out, M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, C=spec.C,
        **strides("x", x, "nchw"), **strides("y", out, "nchw"),
    )  # fmt: skip
    constants = dict(BM=config.BM, BC=config.BC, WIDE=is_wide(x, out), INTERPRET=target.interpreted)
    return arguments, constants, (cdiv(M, config.BM) * cdiv(spec.C, config.BC),), config.num_warps


def _window(call: Call) -> dict[str, int]:
    spec = call.spec
    (R0, R1), (S0, S1) = spec.live(0), spec.live(1)
    return dict(
        R0=R0, R1=R1, S0=S0, S1=S1, TOP=spec.padding[0], LEFT=spec.padding[1],
        STRIDE_H=spec.stride[0], STRIDE_W=spec.stride[1],
    )  # fmt: skip


def max_launches(
    call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target, indices: Tensor | None = None
) -> list[Launch]:
    """max_pool2d; `indices`, of out's shape and strides, gets each maximum's position."""
    spec = call.spec
    arguments, constants, grid, warps = _common(call, tensors["input"], out, target)
    arguments.update(indices=indices)
    constants.update(**_window(call), DILATION_H=spec.dilation[0], DILATION_W=spec.dilation[1])
    # Left to itself ptxas gives a float32 window 40 registers, and spills 8 bytes to get there.
    registers = 96 if out.element_size() == 4 else None
    return [Launch(max_pool_kernel, grid, arguments, constants, warps, max_registers=registers)]


def avg_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """avg_pool2d."""
    spec = call.spec
    arguments, constants, grid, warps = _common(call, tensors["input"], out, target)
    divisor = float(spec.divisor_override or 0)
    constants.update(**_window(call), R=spec.R, S=spec.S, COUNT_INCLUDE_PAD=spec.count_include_pad, DIVISOR=divisor)
    return [Launch(avg_pool_kernel, grid, arguments, constants, warps)]


def adaptive_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """adaptive_avg_pool2d: the global kernel for one output pixel, else one window a pixel."""
    spec, x = call.spec, tensors["input"]
    if spec.P == spec.Q == 1:
        # One program reads all pixels of BC channels: few channels each, so that an image's C/BC programs spread over SMs.
        BC = min(power_of_two(spec.C), 512 if target.unbounded else 64 if x.stride(1) == 1 else 1)
        pixels = power_of_two(spec.H * spec.W)
        BM = min(pixels, 2048 if target.unbounded else max(2048 // BC, 1))
        arguments = dict(x=x, y=out, W=spec.W, C=spec.C, **strides("x", x, "nchw"), **strides("y", out, "nc"))
        constants = dict(PIXELS=spec.H * spec.W, BM=BM, BC=BC, WIDE=is_wide(x, out), INTERPRET=target.interpreted)
        return [Launch(global_pool_kernel, (spec.N * cdiv(spec.C, BC),), arguments, constants)]
    arguments, constants, grid, warps = _common(call, x, out, target)
    long = max((spec.P + 1) * spec.H + spec.P, (spec.Q + 1) * spec.W + spec.Q) >= 2**31
    constants.update(R=spec.largest(0), S=spec.largest(1), LONG=long)
    return [Launch(adaptive_pool_kernel, grid, arguments, constants, warps)]
