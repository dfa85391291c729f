"""Tiles of the TMA kernel, chosen by a model of tensor-core time, L2 traffic and stores that was fitted to measurements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from convatlas.kernels.common.launch import cdiv, power_of_two
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import SPLIT_OVERHEAD
from convatlas.specs import Conv2dSpec

# Pixels x filters a program, and its warps. A warpgroup (4 warps) multiplies 64 rows at once: filters, or the pixels of a box of
# one row. At most 128 accumulators a thread.
SMALL = ((64, 64, 4), (64, 128, 4), (128, 64, 4))  # beside a residual: 64 accumulators a thread, since 128 spilled
TILES = (*SMALL, (128, 128, 4), (128, 128, 8), (128, 256, 8), (256, 128, 8))
ROW_TILES = (*SMALL, (128, 128, 4), (128, 256, 8), (256, 128, 8))
# The model's numbers: bytes a clock and SM, clocks, shares. Fitted to 43 layers of 0.5 GFLOP and more x 6 to 20 configs, timed on
# an H100 80GB HBM3 (float16, batches 1 to 128, torch 2.11, Triton 3.6; docs/tuning/triton.md): the config that the model picks is
# 2.6 % slower than the best of them in the geometric mean, 15 % at most. They say what fits the times, not what the chip is.
L2_BYTES = 40
STORE_BYTES = 12
BLOCK_OVERHEAD = 2500
TENSOR_SHARE = 0.7
# From a load's issue to its data.
LATENCY = 1700
# What a thread needs beside its accumulators.
REGISTERS = 40
# Programs that stay: pixels, filters, warps, stages, and how many an SM holds; the first two beside a residual too.
PERSISTENT = ((64, 64, 4, 4, 3), (128, 64, 4, 4, 2), (128, 128, 4, 3, 2), (256, 128, 8, 4, 1))
PERSISTENT_L2_BYTES = 48
PERSISTENT_STORE_BYTES = 32
PERSISTENT_SHARE = 0.8
PERSISTENT_LATENCY = 1300
# Ways to divide a reduction; 3 and 9 are for windows of an odd number of steps. Up to 4 were timed.
SPLITS = (1, 2, 3, 4)
# Pipeline depths that are tried: a window's many steps want a deep one, a 1x1's few rather a second block on the SM.
WINDOW_STAGES, POINT_STAGES = (3, 4), (2, 4)


@dataclass(frozen=True)
class TmaConfig:
    """A program's box of TN x TH x TW output pixels, BN filters, BK channels a step, SPLIT programs along the reduction.

    RESIDENT: programs an SM that take tile after tile, 0 for one program a tile.
    """

    TN: int
    TH: int
    TW: int
    BN: int
    BK: int
    SPLIT: int = 1
    num_warps: int = 4
    num_stages: int = 4
    RESIDENT: int = 0


def box_channels(C: int, dtype: str) -> int:
    """BK: 128 bytes of channels, a full line of L2 and the widest swizzle, or half of that; 0 where neither divides C."""
    line = 128 // (2 if dtype != "float32" else 4)
    return next((BK for BK in (line, line // 2) if C % BK == 0), 0)


def box(N: int, P: int, Q: int, BM: int) -> tuple[int, int, int]:
    """(TN, TH, TW), powers of two with product BM, that cover N x P x Q with the fewest programs; of these the widest.

    Wide boxes read each input row in one run, and neighbouring taps the same lines of L2.
    """
    best: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    TW = 1
    while TW <= BM:
        TH = 1
        while TW * TH <= BM:
            TN = BM // (TW * TH)
            programs = cdiv(N, TN) * cdiv(P, TH) * cdiv(Q, TW)
            rank = programs, -TW, -TH
            if best is None or rank < best[0]:
                best = rank, (TN, TH, TW)
            TH *= 2
        TW *= 2
    return best[1]


@lru_cache(maxsize=4096)
def tma_config(spec: Conv2dSpec, dtype: str, residual: bool, target: Target) -> TmaConfig:
    """The config with the least predicted time.

    Where there are tiles for more than one round of programs, the programs stay and take tile after tile; else there is one
    program a tile.
    """
    if target.unbounded:
        return _interpreted(spec, dtype)
    stay = min(_persistent(spec, dtype, residual, target), key=lambda one: one[0], default=None)
    if stay is not None and _rounds(spec, stay[1], target) > 1:
        return stay[1]
    return min(_one_tile(spec, dtype, residual, target), key=lambda one: one[0])[1]


def candidates(spec: Conv2dSpec, dtype: str, residual: bool, target: Target) -> Iterator[tuple[float, TmaConfig]]:
    """(predicted clocks, config) of all that tma_config considers; a model of their own orders those that stay."""
    yield from _persistent(spec, dtype, residual, target)
    yield from _one_tile(spec, dtype, residual, target)


def _steps(spec: Conv2dSpec, dtype: str) -> tuple[int, int]:
    """(BK, steps)."""
    BK = box_channels(spec.C, dtype)
    return BK, spec.R * spec.S * (spec.C // BK)


def _rounds(spec: Conv2dSpec, config: TmaConfig, target: Target) -> int:
    """Tiles that the busiest of programs that stay takes."""
    tiles = _tiles(spec, config.TN * config.TH * config.TW, config.BN)[1]
    return cdiv(tiles, target.sms * config.RESIDENT)


def _tiles(spec: Conv2dSpec, BM: int, BN: int) -> tuple[tuple[int, int, int], int]:
    """The box, and how many tiles cover the output. A flat image is one row: its boxes are runs of pixels."""
    N, P, Q = spec.N, spec.P, spec.Q
    TN, TH, TW = (1, 1, BM) if N == P == 1 else box(N, P, Q, BM)
    return (TN, TH, TW), cdiv(N, TN) * cdiv(P, TH) * cdiv(Q, TW) * cdiv(spec.K, BN)


def _persistent(spec: Conv2dSpec, dtype: str, residual: bool, target: Target) -> Iterator[tuple[float, TmaConfig]]:
    """Programs that stay: n of them share an SM, and load the next tile while they store one.

    The predicted time is rounds * (steps * max(n * step, LATENCY / (stages - 1)) + n * store), step the longer of tensor cores
    and L2. Fitted like the other model, on 29 layers x 8 to 18 configs; the shortlist holds what was within 3 % of the best
    somewhere. With a residual and a single step there are only two kinds of loads to overlap, and programs of one tile were
    quicker.
    """
    BK, steps = _steps(spec, dtype)
    size = 4 if dtype == "float32" else 2
    rate = target.fma_rate(dtype, True) * PERSISTENT_SHARE
    if residual and steps == 1:
        return
    # A tile of 256 x 128 float32 numbers is stored through more shared memory than four stages leave.
    shortlist = PERSISTENT[:2] if residual else PERSISTENT[:3] if size == 4 else PERSISTENT
    for BM, BN, warps, stages, resident in shortlist:
        if BN > max(power_of_two(spec.K), 64):
            continue
        (TN, TH, TW), tiles = _tiles(spec, BM, BN)
        step = max(BM * BN * BK / rate, (BM + BN) * BK * size / PERSISTENT_L2_BYTES)
        store = BM * BN * size * (2 if residual else 1) / PERSISTENT_STORE_BYTES
        rounds = cdiv(tiles, target.sms * resident)
        n = min(resident, cdiv(tiles, target.sms))
        clocks = rounds * (steps * max(n * step, PERSISTENT_LATENCY / (stages - 1)) + n * store)
        yield clocks, TmaConfig(TN, TH, TW, BN, BK, 1, warps, stages, resident)


def _one_tile(spec: Conv2dSpec, dtype: str, residual: bool, target: Target) -> Iterator[tuple[float, TmaConfig]]:
    """One program a tile, or with split-K several.

    A step needs the larger of its tensor-core time, BM*BN*BK / (rate * TENSOR_SHARE), and its L2 time, (BM+BN)*BK*size / L2_BYTES.
    The n blocks that share an SM take n of those a step, or the LATENCY that their stages do not hide; then they store (and load
    the residual). The SM that has most blocks runs them in rounds of as many as fit. A split adds the reduction.
    """
    N, P, Q, K = spec.N, spec.P, spec.Q, spec.K
    BK, steps = _steps(spec, dtype)
    size = 4 if dtype == "float32" else 2
    rate = target.fma_rate(dtype, True) * TENSOR_SHARE
    flat = N == P == 1
    for BM, BN, warps in SMALL if residual else ROW_TILES if flat else TILES:
        if BN > max(power_of_two(K), 64):
            continue
        (TN, TH, TW), blocks = _tiles(spec, BM, BN)
        step = max(BM * BN * BK / rate, (BM + BN) * BK * size / L2_BYTES)
        store = BM * BN * size * (2 if residual else 1) / STORE_BYTES
        by_registers = 65536 // (32 * warps * (BM * BN // (32 * warps) + REGISTERS))
        for stages in sorted({min(steps, n) for n in (WINDOW_STAGES if spec.R * spec.S > 1 else POINT_STAGES)}):
            shared = (BM + BN) * BK * size * stages + 1024
            if shared > target.shared:
                continue
            resident = max(1, min(target.shared // shared, by_registers))
            for split in SPLITS:
                if split > 1 and (steps % split or steps // split < 8 or blocks * split > 2 * target.sms):
                    continue
                most = cdiv(blocks * split, target.sms)
                rounds = [resident] * (most // resident) + [most % resident] * (most % resident > 0)
                wait = LATENCY / max(stages - 1, 1)
                clocks = sum(steps // split * max(n * step, wait) + n * store + BLOCK_OVERHEAD for n in rounds)
                if split > 1:
                    clocks += SPLIT_OVERHEAD + 8 * N * P * Q * K * split / (L2_BYTES * target.sms)
                yield clocks, TmaConfig(TN, TH, TW, BN, BK, split, warps, stages)


def _interpreted(spec: Conv2dSpec, dtype: str) -> TmaConfig:
    """Blocks as big as Triton allows (2^20 elements): the interpreter's cost is per operation, not per element."""
    BN, BK = min(power_of_two(spec.K), 256), box_channels(spec.C, dtype)
    while spec.C % (2 * BK) == 0 and BK < 256:
        BK *= 2
    pixels = power_of_two(max(spec.N * spec.P * spec.Q, 16))
    return TmaConfig(*box(spec.N, spec.P, spec.Q, min(pixels, (1 << 20) // max(BN, BK))), BN, BK, 1, 1, 1)
