"""How a weight gradient is packed, tiled and split: pure functions of spec, dtype and target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from convatlas.kernels.common.blocks import BlockConfig
from convatlas.kernels.common.launch import cdiv, power_of_two
from convatlas.kernels.common.override import forced, note
from convatlas.kernels.common.packing import pack
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import BLOCK_OVERHEAD, L2_BYTES, SPLIT_OVERHEAD, TileConfig, stages
from convatlas.kernels.conv2d.configs import VECTOR
from convatlas.specs import Conv2dWeightGradSpec
from convatlas.specs.conv import STEM_CHANNELS

# Ways to divide a reduction: a sum of 128 parts is still one short loop. Each part has as many steps at least as fill a pipeline.
SPLITS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128)
LEAST = 8
# From a load's issue to its data, in clocks, as for the forward kernels (configs_tma.py).
LATENCY = 1700
# Programs an SM of the depthwise kernel, 128 threads each.
DEPTHWISE_PROGRAMS = 8
# Filters x columns a program, and its warps, of tiles whose operands come in vectors; a warpgroup multiplies 64 filters at once.
TILES = ((64, 64, 4), (64, 128, 4), (128, 64, 4), (128, 128, 8), (128, 256, 8))


@dataclass(frozen=True)
class CopyConfig:
    """A TileConfig for the TMA kernel, which no launch takes on a GPU unless it is forced; with BM = 0 the model's."""

    BM: int = 0
    BN: int = 0
    BK: int = 0
    SPLIT: int = 1
    num_warps: int = 4
    num_stages: int = 3


def packed(spec: Conv2dWeightGradSpec) -> tuple[int, int, int, int]:
    """(groups a pack, packs, filters and channels of a pack)."""
    f = spec.forward
    together = pack(f.groups, f.C // f.groups, f.K // f.groups)
    packs = f.groups // together
    return together, packs, f.K // packs, f.C // packs


def in_taps(C: int) -> bool:
    """Whether a tile of columns lies within one tap: a pack's channels fill an MMA."""
    return C >= STEM_CHANNELS


def columns(spec: Conv2dWeightGradSpec, C: int, BN: int) -> int:
    """Tiles of columns."""
    taps = spec.forward.R * spec.forward.S
    return taps * cdiv(C, BN) if in_taps(C) else cdiv(taps * C, BN)


def interpreter_config(K: int, width: int, pixels: int) -> TileConfig:
    """Blocks as big as Triton allows (2^20 elements): the interpreter's cost is per operation, not per element."""
    BM, BN = (min(power_of_two(max(n, 16)), 512) for n in (K, width))
    return TileConfig(BM, BN, min(power_of_two(max(pixels, 16)), (1 << 20) // max(BM, BN)), 1, 1, 1)


def weight_grad_config(spec: Conv2dWeightGradSpec, dtype: str, tf32: bool, target: Target) -> TileConfig:
    """BM filters x BN columns, BK pixels a step, SPLIT parts of the reduction, for the kernel that gathers."""
    if (config := forced(TileConfig)) is not None:
        return config
    _, _, K, C = packed(spec)
    if target.unbounded:
        width = C if in_taps(C) else C * spec.forward.R * spec.forward.S
        return interpreter_config(K, width, spec.reduction)
    return _least_time(spec, dtype, tf32, target, *_gathered(spec, K, C, dtype, tf32, target))


def _gathered(
    spec: Conv2dWeightGradSpec, K: int, C: int, dtype: str, tf32: bool, target: Target
) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """(tiles, pixels a step) that spill no registers, found by cross-compiling: what is read one by one has an address each, a mask
    and, in float32 without tensor cores, passes through registers as well.
    """
    simt, vectors = dtype == "float32" and not tf32, K % VECTOR == 0 and C % VECTOR == 0
    if simt:
        tiles, BK = ((32, 32, 4), (32, 64, 4)), 16
    elif not (vectors and in_taps(C)):
        tiles, BK = ((64, 64, 4) if in_taps(C) else (64, 32, 4),), 32 if dtype != "float32" else 16
    else:
        tiles, BK = TILES[:4], 64 if dtype != "float32" else 32
        tiles = tiles if target.arch >= 90 and dtype != "float32" else tiles[:1]
    width = C if in_taps(C) else C * spec.forward.R * spec.forward.S
    # No wider than what there is; on sm_80 no higher either, where an MMA has 16 rows.
    least = 64 if target.arch >= 90 and not simt else 16
    clipped = ((min(BM, max(power_of_two(K), least)), min(BN, max(power_of_two(width), 16)), w) for BM, BN, w in tiles)
    return tuple(dict.fromkeys(clipped)), BK


def tma_config(spec: Conv2dWeightGradSpec, images: int, dtype: str, target: Target) -> TileConfig | CopyConfig:
    """The same for the TMA kernel, whose step is a pixel of BK of the `images`: what is forced, or what the model finds."""
    if (config := forced(CopyConfig)) is not None and config.BM:
        return config
    f = spec.forward
    if target.unbounded:
        return interpreter_config(f.K, f.C, images)
    tiles = tuple(
        tile for tile in TILES if tile[0] <= max(power_of_two(f.K), 64) and tile[1] <= max(power_of_two(f.C), 64)
    )
    return _least_time(spec, dtype, False, target, tiles, 64 if images > 32 else 32 if images > 16 else 16, images)


def _least_time(
    spec: Conv2dWeightGradSpec, dtype: str, tf32: bool, target: Target, tiles: tuple, BK: int, images: int | None = None
) -> TileConfig:
    arguments = spec, dtype, tf32, target, tiles, BK, images
    note(lambda: candidates(*arguments))
    return _least(*arguments)


@lru_cache(maxsize=4096)
def _least(*arguments: object) -> TileConfig:
    return min(candidates(*arguments), key=lambda one: one[0])[1]


def candidates(
    spec: Conv2dWeightGradSpec,
    dtype: str,
    tf32: bool,
    target: Target,
    tiles: Iterable[tuple[int, int, int]],
    BK: int,
    images: int | None,
) -> Iterator[tuple[float, TileConfig]]:
    """(predicted clocks, config) for each tile and each way to split.

    A step needs the larger of its tensor-core time and its L2 time, and the programs that share an SM need that together, or the
    LATENCY that their stages do not hide. A split adds the second kernel, and its partial sums, written and read once. A model: its
    clocks are predictions, which order configs.
    """
    _, packs, K, C = packed(spec)
    L, size = spec.reduction, 2 if dtype != "float32" else 4
    steps = cdiv(L, BK) if images is None else L // images * cdiv(images, BK)
    outputs = spec.elements["output"]
    for BM, BN, warps in tiles:
        blocks = cdiv(K, BM) * columns(spec, C, BN) * packs
        step = max(BM * BN * BK / target.fma_rate(dtype, tf32), (BM + BN) * BK * size / L2_BYTES)
        depth = stages(target, BM, BN, BK, size) if BK * size == 128 else 2  # one by one through registers
        if images is not None:  # steps of few images are short ones: as many bytes on their way as with 4 steps of 64
            depth = min(256 // BK, 8, (target.shared - 8192) // ((BM + BN) * BK * size))
        resident = max(1, min(target.shared // ((BM + BN) * BK * size * depth), 512 // (32 * warps)))
        for wanted in SPLITS:
            if wanted > 1 and (steps < wanted * LEAST or blocks * wanted > 8 * target.sms):
                continue
            split = cdiv(steps, max(cdiv(steps, wanted), 1)) or 1  # so that no part is without a step
            most = cdiv(blocks * split, target.sms)
            n = min(resident, most)
            clocks = (
                cdiv(most, n) * cdiv(steps, split) * max(n * step, LATENCY / max(depth - 1, 1)) + most * BLOCK_OVERHEAD
            )
            if split > 1:
                clocks += SPLIT_OVERHEAD + 8 * outputs * split / (L2_BYTES * target.sms)
            yield clocks, TileConfig(BM, BN, BK, split, warps, depth)


def parts(tiles: int, steps: int, target: Target) -> int:
    """Parts of the reduction for CUDA C++'s kernel: two blocks an SM, none below LEAST steps."""
    wanted = min(2 * target.sms // max(tiles, 1), steps // LEAST, SPLITS[-1])
    return max((split for split in SPLITS if split <= wanted), default=1)


def depthwise_config(
    spec: Conv2dWeightGradSpec, bands: int, adjacent: bool, target: Target
) -> tuple[BlockConfig, int, int]:
    """(block, parts, steps of a part) of a depthwise weight gradient, `bands` programs for the rows of a window.

    adjacent: channels lie side by side. A thread has 8 elements of a block, and as many sums a tap. Programs are enough for
    DEPTHWISE_PROGRAMS an SM, as bandwidth needs many loads on their way.
    """
    M, K = spec.reduction, spec.forward.K
    if target.unbounded:
        BC = min(power_of_two(K), 512)
        BM = min(power_of_two(max(M, 1)), (1 << 19) // BC)
        return BlockConfig(BM, BC, 1), 1, cdiv(M, BM)
    BC = min(power_of_two(K), 64) if adjacent else 1
    BM = 1024 // BC
    tiles, steps = cdiv(K, BC) * bands, cdiv(M, BM)
    split = max(1, min(DEPTHWISE_PROGRAMS * target.sms // tiles, steps // LEAST))
    each = max(cdiv(steps, split), 1)
    return BlockConfig(BM, BC), max(cdiv(steps, each), 1), each
