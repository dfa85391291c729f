"""How a weight gradient is tiled and split: pure functions of spec, dtype and target."""

from __future__ import annotations

from convatlas.kernels.common.launch import cdiv, power_of_two
from convatlas.kernels.common.override import forced
from convatlas.kernels.common.packing import pack
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import TileConfig
from convatlas.specs import Conv2dWeightGradSpec
from convatlas.specs.conv import STEM_CHANNELS

# Programs an SM that a split aims at, the most parts that a sum has, and the fewest steps of a part, which fill a pipeline.
PROGRAMS, PARTS, LEAST = 2, 128, 8
# The partial sums may be as many bytes as the operands times this: they are written once and read once.
SHARE = 1


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


def weight_grad_config(spec: Conv2dWeightGradSpec, dtype: str, tf32: bool, target: Target) -> TileConfig:
    """BM filters x BN columns, BK pixels a step, SPLIT parts of the reduction."""
    if (config := forced(TileConfig)) is not None:
        return config
    _, packs, K, C = packed(spec)
    L = spec.reduction
    width = C if in_taps(C) else C * spec.forward.R * spec.forward.S
    if target.unbounded:
        BM, BN = (min(power_of_two(max(n, 16)), 512) for n in (K, width))
        return TileConfig(BM, BN, min(power_of_two(max(L, 16)), (1 << 20) // max(BM, BN)), 1, 1, 1)
    half, simt = dtype != "float32", dtype == "float32" and not tf32
    most = 128 if half and target.arch >= 90 and in_taps(C) else 64
    BM, BN = (min(power_of_two(max(n, 16)), most) for n in (K, width))
    if simt:
        BM, BN = min(BM, 32), min(BN, 64)
    BM = max(BM, 64) if target.arch >= 90 and half else BM  # a warpgroup's rows
    BK = 64 if half else 16
    warps = 8 if BM * BN > 128 * 64 else 4
    stages = 2 if simt else 4 if half else 3
    tiles = cdiv(K, BM) * columns(spec, C, BN) * packs
    return TileConfig(BM, BN, BK, parts(spec, tiles, cdiv(L, BK), target), warps, stages)


def parts(spec: Conv2dWeightGradSpec, tiles: int, steps: int, target: Target) -> int:
    """Parts of the reduction, a power of two: enough programs for every SM, no part below LEAST steps, and no more bytes of partial
    sums than of operands.
    """
    split = 1
    moved = SHARE * 2 * (spec.elements["grad_output"] + spec.elements["input"])
    while (
        tiles * split < PROGRAMS * target.sms
        and split < PARTS
        and steps >= 2 * split * LEAST
        and 2 * split * spec.elements["output"] * 8 <= moved
    ):
        split *= 2
    return split
