"""Launcher of 3x3 max pooling of stride 1 with the 1x1 convolution behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from convatlas.errors import ShapeError
from convatlas.kernels.bottleneck.configs import BANKS, LATENCY, LINE, PIXELS, PRODUCTS, WIDTH
from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch, aligned, strides, vectors, with_activation
from convatlas.kernels.common.launch import cdiv, is_wide
from convatlas.model.work import Tiling, Work
from convatlas.specs import INPUT, BlockSpec, itemsize
from convatlas.specs.activations import exact

if TYPE_CHECKING:
    from convatlas.call import Call
    from convatlas.kernels.common.problem import Problem

HEIGHT, FILTERS, DEPTH, THREADS, WARPS, STAGES, RESIDENT = 4, 64, 64, 256, 8, 4, 2  # pool_pointwise.cu's
STAGE = 2 * ((HEIGHT + 2) * PIXELS + FILTERS) * LINE  # bytes
GRID_LIMIT = 65535  # blocks along y and z


def takes(spec: BlockSpec, dtype: str) -> bool:
    """Whether the kernel computes a block of this shape: half precision, a 3x3 window of stride 1 padded to its input's size, whole
    vectors of channels and filters.
    """
    parts = {part.name: part for part in spec.parts}
    if dtype not in ("float16", "bfloat16") or spec.stored != dtype or parts.keys() != {"pool", "conv"}:
        return False
    pool, conv = parts["pool"], parts["conv"]
    s, c = pool.spec, conv.spec
    if pool.op != "max_pool2d" or pool.sources != {"input": INPUT} or conv.sources != {"input": "pool"}:
        return False
    window = (s.R, s.S, s.stride, s.padding, s.dilation) == (3, 3, (1, 1), (1, 1), (1, 1))
    plain = (c.R, c.S, c.stride, c.padding, c.groups) == (1, 1, (1, 1), ((0, 0), (0, 0)), 1)
    return window and plain and c.C % 8 == 0 and c.K % 8 == 0 and exact(conv.epilogue.activation)


def pool_pointwise(p: Problem) -> list[CudaLaunch]:
    """One launch. Raises ShapeError for what no grid or 32-bit offset reaches."""
    conv, x, out = p.spec.part("conv"), p["input"], p.out
    if not vectors(x):
        x = x.contiguous(memory_format=torch.channels_last)
    N, C, H, W = x.shape
    K, columns, rows = conv.spec.K, cdiv(W, WIDTH), cdiv(H, HEIGHT)
    if max(N, rows) > GRID_LIMIT or is_wide(x[:1], out[:1]):
        raise ShapeError(
            f"{p.spec.pattern}: {N} images of {H}x{W}, expected at most {GRID_LIMIT} images, each below 2^31 elements"
        )
    w, bias = (None if x is None else x if aligned(x) else x.clone() for x in (_matrix(p), p.get("conv.bias")))
    _, activation = with_activation("", conv.epilogue.activation)
    arguments = dict(
        x=x, w=w, bias=bias, y=out, H=H, W=W, C=C, K=K, **strides("x", x, "nhw"), **strides("y", out, "nhw"),
        activation=activation, columns=columns,
    )  # fmt: skip
    grid, template = (columns * cdiv(K, FILTERS), rows, N), (TYPES[p.dtype], str(STAGES))
    source = "pool_pointwise/pool_pointwise.cu"
    return [CudaLaunch(source, "pool_pointwise", template, grid, THREADS, arguments, STAGES * STAGE, True)]


def _matrix(p: Problem) -> torch.Tensor:
    """The convolution's weights, filter after filter."""
    w = p["conv.weight"]
    return w.reshape(w.shape[:2]).contiguous()


def work(call: Call, launch: CudaLaunch) -> Work:
    """What the time model has to know of a launch; rates are those of the kernels of ResNet's blocks, whose steps are alike."""
    spec = call.spec.part("conv").spec
    blocks, steps = launch.grid[0] * launch.grid[1] * launch.grid[2], cdiv(spec.C, DEPTH)
    products = HEIGHT * PIXELS * FILTERS * DEPTH
    # Of a warp's 16 channels: 12 fragments of pixels and 4 pairs of filters, 512 bytes each; and the copies into the stage.
    traffic = WARPS * 16 * 512 + STAGE
    clocks = products / PRODUCTS, traffic / BANKS, LATENCY / (STAGES - 1)
    tiling = Tiling(HEIGHT * WIDTH, FILTERS, DEPTH, steps, 1, blocks, (1, HEIGHT, WIDTH))
    return Work(
        launch.kernel, launch.expression, blocks, launch.block, STAGES, tiling, 2 * products * steps * blocks,
        STAGE * steps * blocks, call.spec.bytes(call.dtype), "cuda", itemsize(call.dtype), resident=RESIDENT, clocks=clocks,
    )  # fmt: skip
