"""Launchers of ResNet's blocks as one kernel: the bottleneck (1x1, 3x3, 1x1 and the shortcut) and the basic block (3x3, 3x3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.errors import ShapeError
from convatlas.kernels.bottleneck.configs import BASIC_BLOCKS, BOTTLENECKS, LINE, WIDTH, Tile, tile_for
from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch, strides, vectors, with_vectors
from convatlas.kernels.common.launch import is_wide
from convatlas.kernels.common.packing import krsc
from convatlas.model.work import Tiling, Work
from convatlas.specs import INPUT, BlockSpec, Part
from convatlas.specs.common import itemsize

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

GRID_LIMIT = 65535  # blocks along y and z


# Of each part: its window, its activation, and where it reads what is no weight.
_BOTTLENECK = {
    "reduce": (1, "relu", {"input": INPUT}),
    "window": (3, "relu", {"input": "reduce"}),
    "expand": (1, "relu", {"input": "window", "residual": INPUT}),
}
_DOWNSAMPLED = {
    **_BOTTLENECK,
    "downsample": (1, None, {"input": INPUT}),
    "expand": (1, "relu", {"input": "window", "residual": "downsample"}),
}
_BASIC_BLOCK = {"first": (3, "relu", {"input": INPUT}), "second": (3, "relu", {"input": "first", "residual": INPUT})}


def takes(spec: BlockSpec, dtype: str) -> bool:
    """Whether a kernel computes a block of this shape: half precision, stride 1, 64 or 128 channels between, relu everywhere."""
    parts = {part.name: part for part in spec.parts}
    if spec.pattern == "basic_block":
        expected = _BASIC_BLOCK
    else:
        expected = _DOWNSAMPLED if "downsample" in parts else _BOTTLENECK
    if dtype not in ("float16", "bfloat16") or spec.stored != dtype or parts.keys() != expected.keys():
        return False
    if not all(_plain(part, *expected[name]) for name, part in parts.items()):
        return False
    if spec.pattern == "basic_block":
        return parts["first"].spec.C == 64
    C, middle, K = parts["reduce"].spec.C, parts["reduce"].spec.K, parts["expand"].spec.K
    channels = C == middle == 64 if "downsample" in parts else C == K
    return channels and middle in BOTTLENECKS and C % 32 == 0 and K % middle == 0


def _plain(part: Part, window: int, activation: str | None, sources: dict[str, str]) -> bool:
    """A convolution of stride 1 by a square window, padded to its input's size."""
    s, side = part.spec, (window // 2, window // 2)
    square = (s.R, s.S, s.padding) == (window, window, (side, side))
    one = s.stride == s.dilation == (1, 1) and s.groups == 1
    return square and one and part.epilogue.activation == activation and part.sources == sources


def bottleneck(p: Problem) -> list[CudaLaunch]:
    """One launch. Raises ShapeError for what no grid or 32-bit offset reaches."""
    reduce, expand, down = (p.spec.part(name) for name in ("reduce", "expand", "downsample"))
    middle, channels = reduce.spec.K, (reduce.spec.C, expand.spec.K)
    tile = tile_for(BOTTLENECKS[middle], _image(p), channels, down is not None, p.target)
    arguments = dict(
        **_convolution(p, "reduce", 1), **_convolution(p, "window", 2), **_convolution(p, "expand", 3),
        wd=with_vectors(krsc(p["downsample.weight"])) if down else None, bd=with_vectors(p.get("downsample.bias")),
        C=channels[0], K=channels[1],
    )  # fmt: skip
    template = (*map(str, (middle, tile.height, tile.warps, tile.across, tile.stages)), "true" if down else "false")
    return _launch(p, tile, "bottleneck", template, arguments)


def basic_block(p: Problem) -> list[CudaLaunch]:
    """One launch. Raises ShapeError for what no grid or 32-bit offset reaches."""
    tile = tile_for(BASIC_BLOCKS[64], _image(p), (64, 64), False, p.target)
    template = tuple(map(str, (tile.height, tile.warps, tile.across, tile.stages)))
    arguments = {**_convolution(p, "first", 1), **_convolution(p, "second", 2)}
    return _launch(p, tile, "basic_block", template, arguments)


def _image(p: Problem) -> tuple[int, int, int]:
    N, _, H, W = p["input"].shape
    return N, H, W


def _convolution(p: Problem, part: str, number: int) -> dict[str, Tensor | None]:
    return {f"w{number}": with_vectors(krsc(p[f"{part}.weight"])), f"b{number}": with_vectors(p.get(f"{part}.bias"))}


def _launch(
    p: Problem, tile: Tile, kernel: str, template: tuple[str, ...], arguments: dict[str, Any]
) -> list[CudaLaunch]:
    x, out = p["input"], p.out
    if not vectors(x):
        x = x.contiguous(memory_format=torch.channels_last)
    (N, H, W), grid = _image(p), tile.grid(*_image(p))
    if max(grid[1:]) > GRID_LIMIT or is_wide(x[:1], out[:1]):
        raise ShapeError(
            f"{p.spec.pattern}: {N} images of {H}x{W}, expected at most {GRID_LIMIT} images, each below 2^31 elements"
        )
    resident = tile.blocks(p.target)
    return [
        CudaLaunch(
            f"bottleneck/{kernel}.cu", kernel, (TYPES[p.dtype], *template, str(resident)), grid, tile.warps * 32,
            dict(x=x, y=out, H=H, W=W, **strides("x", x, "nhw"), **strides("y", out, "nhw"), **arguments), tile.shared, True,
        )
    ]  # fmt: skip


def work(call: Call, launch: CudaLaunch) -> Work:
    """What the time model has to know of a launch; of a step it has clocks as `Tile.clocks` reckons them."""
    spec = call.spec
    first, last = spec.parts[0].spec, spec.parts[-1].spec
    down = spec.part("downsample") is not None
    basic = launch.kernel == "basic_block"
    middle = 64 if basic else int(launch.template[1])
    height, warps, across, stages = map(int, launch.template[1 if basic else 2 :][:4])
    tile = Tile(middle, height, warps, across, stages, int(launch.template[-1]), basic)
    cost, blocks = tile.cost(first.C, last.K, down), launch.grid[0] * launch.grid[1] * launch.grid[2]
    tiling = Tiling(height * WIDTH, last.K, LINE // 2, cost.steps, 1, blocks, (1, height, WIDTH))
    size, moved = itemsize(call.dtype), spec.bytes(call.dtype, None)
    return Work(
        launch.kernel, launch.expression, blocks, launch.block, stages, tiling, 2 * cost.products * blocks, cost.read * blocks,
        moved, "cuda", size, resident=tile.resident, clocks=tile.clocks(cost),
    )  # fmt: skip
