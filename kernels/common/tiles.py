"""Tile configs of the dense kernels (GEMM and implicit GEMM), chosen by a model of waves, tensor-core time and L2 traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from convatlas.kernels.common.launch import cdiv, power_of_two
from convatlas.kernels.common.override import forced, note
from convatlas.kernels.common.target import Target

# L2 -> SM bytes per clock and SM. Source: Jia et al. 2018 ("Dissecting the NVIDIA Volta GPU architecture via
# microbenchmarking", table 3.1: 64 B/clk/SM ports); what a kernel sustains is nearer half of that.
L2_BYTES = 32
# A block's fixed cost in clocks: launch, index arithmetic, the pipeline's first loads (about one DRAM latency) and the epilogue.
BLOCK_OVERHEAD = 1500
# What a split adds: the second kernel's launch, in clocks (about 2.5 us at 1.7 GHz).
SPLIT_OVERHEAD = 4000


# Steps up to which a GEMM is bound by its stores. On an H100, float16, batch 32: 24 -> 144 channels at 56x56 in one step takes 25
# us with 128 x 64 tiles, 35 with 128 x 128; 64 -> 64 13 against 21.
FEW = 2
# Ways to divide a reduction; 3 and 9 are for windows of an odd number of steps, 5 for channels of five blocks.
SPLITS = (1, 2, 3, 4, 5, 8, 9, 15, 16)

# What a thread holds beside the rest where it reads elements one by one: an accumulator is a register, an element that is read
# has an address and a mask until it is multiplied. More of both than this spilled (cross-compiled for sm_80, sm_90 and sm_100).
HELD = 48

# What dense kernels tell ptxas: all of a thread's registers are theirs. Left to itself it aims at more blocks an SM than shared
# memory allows, and spills to get there (72 registers and 16 bytes of stack where 88 and none will do, sm_100).
MAX_REGISTERS = 255


@dataclass(frozen=True)
class TileConfig:
    """BM x BN outputs a program, BK products a step, SPLIT programs along the reduction, warps and pipeline stages."""

    BM: int
    BN: int
    BK: int
    SPLIT: int = 1
    num_warps: int = 4
    num_stages: int = 3


def interpreter_config(M: int, K: int, C: int) -> TileConfig:
    """Blocks as big as Triton allows (2^20 elements): the interpreter's cost is per operation, not per element."""
    BN = min(power_of_two(max(K, 16)), 512)
    BK = min(power_of_two(max(C, 16)), 512)
    BM = min(power_of_two(max(M, 16)), (1 << 20) // max(BN, BK))
    return TileConfig(BM, BN, BK, num_warps=1, num_stages=1)


def stages(target: Target, BM: int, BN: int, BK: int, size: int) -> int:
    """The deepest pipeline that shared memory holds, at most 4: a DRAM latency is about 3 steps of a 128x128x64 tile."""
    return max(2, min(4, (target.shared - 8192) // ((BM + BN) * BK * size)))


def step_channels(C: int, dtype: str, tf32: bool) -> int:
    """BK: 64 halves or 32 TF32 numbers are 128 bytes, a full line of L2; IEEE float32 multiplies out of registers, half of that.

    It is half a line where half a line divides the channels and a whole one does not, so that no step is masked. It is at least 16,
    the depth of an MMA.
    """
    line = 64 if dtype != "float32" else 32 if tf32 else 16
    if line > 16 and C % line and C % (line // 2) == 0:
        line //= 2
    return max(16, min(line, power_of_two(C)))


def tile_config(M: int, K: int, C: int, dtype: str, tf32: bool, target: Target, **options: Any) -> TileConfig:
    """The config of an override, or the interpreter's, or the one that least_time chooses with these options."""
    if (config := forced(TileConfig)) is not None:
        return config
    if target.unbounded:
        return interpreter_config(M, K, C)
    note(lambda: candidates(M, K, C, dtype, tf32, target, **options))
    return least_time(M, K, C, dtype, tf32, target, **options)


@lru_cache(maxsize=4096)
def least_time(M: int, K: int, C: int, dtype: str, tf32: bool, target: Target, **options: Any) -> TileConfig:
    """The one of `candidates` with the fewest clocks. Answers are cached, since a network asks again on every run."""
    return min(candidates(M, K, C, dtype, tf32, target, **options), key=lambda one: one[0])[1]


def candidates(
    M: int,
    K: int,
    C: int,
    dtype: str,
    tf32: bool,
    target: Target,
    *,
    problems: int = 1,
    max_warps: int = 8,
    max_split: int = 16,
    BK: int | None = None,
    residual: bool = False,
    ragged: bool = False,
    accumulators: int = 128,
    max_stages: int = 4,
    held: int | None = None,
) -> Iterator[tuple[float, TileConfig]]:
    """(predicted clocks, config) for `problems` GEMMs of M x K outputs and C products each.

    Registers bound the tile (each bound was found by cross-compiling and reading the cubin for spills). A thread holds at most
    `accumulators`; at most 64 where operands pass through registers too (mma on sm_80, fp32), or a residual is added, or the
    last step is masked (`ragged`: BK does not divide the channels); half of that for two of these at once, and half again for
    three. A masked step of IEEE float32 counts twice. `held` bounds the
    accumulators and the elements of the BM x BK operand together, for kernels that read those one by one, with an address each.

    Per tile and step a program needs the larger of its tensor-core time, BM*BN*BK / rate, and its L2 time, (BM+BN)*BK*size /
    L2_BYTES; programs come in waves of one an SM. Splitting the reduction fills SMs that would idle, for a float32 workspace
    written and read once. This is a model, not a measurement: it orders configs, and its clocks are predictions. A reduction of
    FEW steps is an exception that was measured: it consists of little but stores, and small tiles, of which an SM holds many,
    overlap them best.
    """
    size = 2 if dtype != "float32" else 4
    BK = BK or step_channels(C, dtype, tf32)
    simt = dtype == "float32" and not tf32
    rate = target.fma_rate(dtype, tf32)
    ragged = ragged or C % BK != 0
    pressure = (target.arch < 90) + (size == 4) + residual + ragged + (simt and ragged)
    budget = min(accumulators, 128 >> min(pressure, 3))
    few = cdiv(C, BK) <= FEW
    if few:
        budget, max_stages = min(budget, 64), min(max_stages, cdiv(C, BK) + 1)
    for BM in (64,) if simt else (128, 64):
        for BN in (16, 32, 64) if simt else (16, 32, 64, 128, 256):
            if BN > power_of_two(max(K, 16)) or (few and BN > 64):
                continue
            # 8 warps only for the tiles that need them: a smaller one spilled, the compiler aiming at three blocks an SM.
            warps = 8 if BM * BN >= 128 * 128 and max_warps == 8 else 4
            if BM * BN > budget * 32 * warps or (held and BM * (BN + BK) > held * 32 * warps):
                continue
            blocks, steps = cdiv(M, BM) * cdiv(K, BN) * problems, cdiv(C, BK)
            step = max(BM * BN * BK / rate, (BM + BN) * BK * size / L2_BYTES)
            for split in SPLITS:
                # A split that does not divide the steps would leave some programs idle while others end.
                if split > 1 and (split > max_split or steps % split or blocks * split > 2 * target.sms):
                    continue
                waves = cdiv(blocks * split, target.sms)
                clocks = waves * (cdiv(steps, split) * step + BLOCK_OVERHEAD)
                if split > 1:
                    clocks += SPLIT_OVERHEAD + 8 * M * K * split / (L2_BYTES * target.sms)
                config = TileConfig(
                    BM, BN, BK, split, warps, min(stages(target, BM, BN, BK, size), 2 if simt else max_stages)
                )
                yield clocks, config
