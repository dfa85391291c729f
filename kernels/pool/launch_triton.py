"""Launchers of max, average and adaptive pooling; to one pixel, which is global pooling, there is a kernel of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from convatlas.kernels.common.arguments import Block, Window, image, mode
from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, cdiv, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.pool.triton import (
    adaptive_pool_kernel,
    avg_pool_kernel,
    global_pool_kernel,
    max_pool_kernel,
)
from convatlas.kernels.pool.triton_grad import adaptive_pool_grad_kernel, avg_pool_grad_kernel, max_pool_grad_kernel
from convatlas.specs import Pool2dSpec
from convatlas.specs.pool import meeting


def _launch(
    kernel: Any, p: Problem, extra: dict[str, Any], registers: int | None = None, **constants: Any
) -> list[Launch]:
    spec, x, out = p.spec, p["input"], p.out
    M = spec.N * spec.P * spec.Q
    config = block_config(M, spec.C, out.stride(1) == 1, p.target)
    arguments = dict(x=image(x), y=image(out), M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, C=spec.C, **extra)
    constants = dict(block=Block(config.BM, config.BC), mode=mode(p, x, out), **constants)
    grid = (cdiv(M, config.BM) * cdiv(spec.C, config.BC),)
    return [Launch(kernel, grid, arguments, constants, config.num_warps, max_registers=registers)]


class Live(NamedTuple):
    """Rows R0 .. R1 - 1 and columns S0 .. S1 - 1 of the window: those that lie inside the image for any output at all."""

    R0: int
    R1: int
    S0: int
    S1: int


def _window(s: Pool2dSpec) -> dict[str, Any]:
    return dict(window=Window(s.R, s.S, *s.stride, *s.dilation, *s.padding), live=Live(*s.live(0), *s.live(1)))


def max_pool2d(p: Problem) -> list[Launch]:
    """Max pooling. The operand "indices" or "winners", of out's shape and strides, gets each maximum's position or tap."""
    # Left to itself ptxas gives a float32 window 40 registers, and spills 8 bytes to get there.
    registers = 96 if p.out.element_size() == 4 else None
    winners = p.get("winners")
    where = p.get("indices") if winners is None else winners
    return _launch(max_pool_kernel, p, dict(indices=where), registers, **_window(p.spec), TAPS=winners is not None)


def avg_pool2d(p: Problem) -> list[Launch]:
    """One window for each output pixel."""
    count, divisor = p.spec.count_include_pad, float(p.spec.divisor_override or 0)
    return _launch(avg_pool_kernel, p, {}, **_window(p.spec), COUNT_INCLUDE_PAD=count, DIVISOR=divisor)


def _adaptive(p: Problem) -> list[Launch]:
    """The global kernel for a single output pixel, else, and where places are asked for, one window for each output pixel."""
    spec, indices, largest = p.spec, p.get("indices"), p.spec.kind == "max"
    if spec.P == spec.Q == 1 and indices is None:
        return [_global(p)]
    long = max((spec.P + 1) * spec.H + spec.P, (spec.Q + 1) * spec.W + spec.Q) >= 2**31
    window = Window(spec.largest(0), spec.largest(1))
    return _launch(adaptive_pool_kernel, p, dict(indices=indices), window=window, LONG=long, MAX=largest)


adaptive_avg_pool2d = adaptive_max_pool2d = _adaptive


def _global(p: Problem) -> Launch:
    """One program reads all pixels of BC channels. BC is small, so that the C/BC programs of an image spread over the SMs."""
    spec, x, unbounded = p.spec, p["input"], p.target.unbounded
    BC = min(power_of_two(spec.C), 512 if unbounded else 64 if x.stride(1) == 1 else 1)
    pixels = power_of_two(spec.H * spec.W)
    BM = min(pixels, 2048 if unbounded else max(2048 // BC, 1))
    y = image(p.out)._replace(h=0, w=0)
    arguments = dict(x=image(x), y=y, W=spec.W, C=spec.C)
    constants = dict(block=Block(BM, BC), mode=mode(p, x, p.out), PIXELS=spec.H * spec.W, MAX=spec.kind == "max")
    return Launch(global_pool_kernel, (spec.N * cdiv(spec.C, BC),), arguments, constants)


def _gather(kernel: Any, p: Problem, extra: dict[str, Any], **constants: Any) -> list[Launch]:
    """A launch whose programs own pixels of the input, for the gradient by it."""
    spec, g, dx = p.spec.forward, p["grad_output"], p.out
    M = spec.N * spec.H * spec.W
    config = block_config(M, spec.C, dx.stride(1) == 1, p.target)
    arguments = dict(g=image(g), dx=image(dx), M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, C=spec.C, **extra)
    constants = dict(block=Block(config.BM, config.BC), mode=mode(p, g, dx), **constants)
    grid = (cdiv(M, config.BM) * cdiv(spec.C, config.BC),)
    return [Launch(kernel, grid, arguments, constants, config.num_warps)]


def max_pool2d_grad(p: Problem) -> list[Launch]:
    """The windows' winners are given by their place in the input or, in a byte, by their number in the window."""
    winners, window = image(p["winners"]), _window(p.spec.forward)
    return _gather(max_pool_grad_kernel, p, dict(winners=winners), **window, TAPS="taps" in p.params)


def avg_pool2d_grad(p: Problem) -> list[Launch]:
    """One pass over the windows of each input pixel."""
    s = p.spec.forward
    count, divisor = s.count_include_pad, float(s.divisor_override or 0)
    return _gather(avg_pool_grad_kernel, p, {}, **_window(s), COUNT_INCLUDE_PAD=count, DIVISOR=divisor)


def adaptive_avg_pool2d_grad(p: Problem) -> list[Launch]:
    """The same with windows that differ in size."""
    s = p.spec.forward
    long = max((s.P + 1) * (s.H + 1), (s.Q + 1) * (s.W + 1)) >= 2**31
    met = Window(meeting(s.P, s.H), meeting(s.Q, s.W))
    return _gather(adaptive_pool_grad_kernel, p, dict(winners=image(p.get("winners"))), window=met, LONG=long)


adaptive_max_pool2d_grad = adaptive_avg_pool2d_grad  # with the operand "winners"
