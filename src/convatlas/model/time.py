"""The time model: a layer's launches, what they take of an SM, and a GPU give a predicted time. docs/model.md has it in one screen.

Clocks of one SM, for a tile of BM x BN outputs and BK products a step, n blocks on the SM at once:

    step    = sqrt((n mma)^2 + (n l2)^2 + (latency / (stages - 1))^2)
    mma     = BM BN BK / (multiply-adds a clock * SHARE)          l2 = (BM + BN) BK bytes / L2_BYTES
    round   = OVERHEAD + steps * step + n * BM BN bytes / STORE_BYTES
    chip    = rounds of the SM that has most blocks, over the clock
    dram    = compulsory bytes / (DRAM_SHARE * bandwidth)
    time    = LAUNCH + sum over launches (chip^P + dram^P)^(1/P) + AGAIN for every launch after the first

A block of several ops (plan/blocks.py) has step = sqrt((n tensor)^2 + (n issue)^2 + wait^2), of which its launcher knows the terms.
What is no matrix product has chip = (OVERHEAD + window elements of the SM that has most / WINDOW) over the clock.

The constants were fitted to times of ResNet-50's and VGG-16's layers on an H100, and to nothing else (study/evaluation). They say
what fits the times, not what the chip is. For another GPU its SMs, clock, rates and bandwidth take the H100's place: no time of
one has been compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from convatlas.model.gpu import GPU
from convatlas.model.work import Work

LIMITS = ("tensor", "vector", "DRAM", "L2", "latency", "store", "launch")


@dataclass(frozen=True)
class Constants:
    """What was fitted: seconds, clocks, bytes a clock and SM, shares. Pairs are (Triton, CUDA C++)."""

    launch: float = 2.11e-6
    again: float = 1.31e-6
    dram_share: float = 0.987
    dram_share_stream: float = 0.925
    tma_share: float = 1.15
    mma_share: tuple[float, float] = (0.439, 0.398)
    l2_bytes: float = 56.1
    store_bytes: float = 15.6
    latency: float = 1040.0
    overhead: tuple[float, float] = (1490.0, 3450.0)
    stream_overhead: tuple[float, float] = (18.8, 793.0)
    window: tuple[float, float] = (12.9, 36.0)
    power: float = 1.81


FITTED = Constants()
# A depthwise tap is a multiply-add (128 a clock and SM), and half a conversion from half precision (64): one in 1/64 of a clock.
# Source: NVIDIA CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions". Not fitted.
DEPTHWISE = 64.0


@dataclass(frozen=True)
class LaunchTime:
    """One launch's part of a prediction, seconds.

    Attributes:
        chip: what the SMs need, the last wave included.
        dram: what the traffic needs.
        seconds: both together.
        parts: of chip: what each of LIMITS alone would take.
    """

    chip: float
    dram: float
    seconds: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """A layer's predicted time.

    Attributes:
        seconds: predicted.
        limiter: one of LIMITS, that takes the most of it.
        launches: of each.
    """

    seconds: float
    limiter: str
    launches: tuple[LaunchTime, ...]


def waves(work: Work, per_sm: int, gpu: GPU) -> tuple[float, float]:
    """(waves, idle share of the last one) of a launch whose SMs hold `per_sm` blocks at once; a full last wave idles 0.

    Of programs that stay it is their rounds of tiles: a wave is one tile each.
    """
    stays = work.tile.count > work.grid
    blocks, slots = (work.tile.count, work.grid) if stays else (work.grid, max(per_sm, 1) * gpu.sms)
    count = blocks / slots if slots else 0.0
    return count, ceil(count) - count


def launch_time(work: Work, per_sm: int, gpu: GPU, mode: str, constants: Constants = FITTED) -> LaunchTime:
    """One launch, without the launch latency, of which `per_sm` blocks fit on an SM."""
    c, t, size = constants, work.tile, work.size
    which = int(work.backend == "cuda")
    most = ceil(work.grid / gpu.sms)
    per_sm = max(per_sm, 1)
    if work.clocks is not None:
        share, overhead = c.dram_share, c.overhead[which]
        tensor, issue, wait = work.clocks
        clocks, parts = 0.0, dict.fromkeys(("tensor", "vector", "latency"), 0.0)
        for n, tiles in _rounds(work, most, per_sm):
            clocks += overhead + tiles * t.steps * ((n * tensor) ** 2 + (n * issue) ** 2 + wait**2) ** 0.5
            parts["tensor"] += tiles * t.steps * n * tensor
            parts["vector"] += tiles * t.steps * n * issue
            parts["latency"] += tiles * t.steps * wait + overhead
    elif not work.gemm:
        share = c.dram_share_stream
        window = DEPTHWISE if work.depthwise and which else c.window[which]
        overhead = c.stream_overhead[which]
        vector = most * work.window / max(work.grid, 1) / window
        clocks, parts = overhead + vector, {"vector": vector, "latency": overhead}
    else:
        share = c.dram_share
        rate = fma_rate(gpu, mode) * (c.tma_share if work.copied else c.mma_share[which])
        mma = t.BM * t.BN * t.BK / rate
        l2_rate = min(c.l2_bytes, (gpu.l2_bytes_per_clock or float("inf")) / gpu.sms)
        l2 = (t.BM + t.BN) * t.BK * size / l2_rate
        wait = c.latency / max(work.stages - 1, 1)
        store = t.BM * t.BN * (4 if t.split > 1 else size) / c.store_bytes
        overhead = c.overhead[which]
        rounds = _rounds(work, most, per_sm)
        clocks = 0.0
        parts = dict.fromkeys(("tensor", "L2", "latency", "store"), 0.0)
        for n, tiles in rounds:
            clocks += overhead + tiles * (t.steps * ((n * mma) ** 2 + (n * l2) ** 2 + wait**2) ** 0.5 + n * store)
            parts["tensor"] += tiles * t.steps * n * mma
            parts["L2"] += tiles * t.steps * n * l2
            parts["latency"] += tiles * t.steps * wait + overhead
            parts["store"] += tiles * n * store
    chip = clocks / gpu.clock_hz
    dram = work.moved / (share * gpu.dram_bytes_per_s)
    seconds = (chip**c.power + dram**c.power) ** (1 / c.power)
    return LaunchTime(
        chip, dram, seconds, {name: value / gpu.clock_hz for name, value in parts.items()} | {"DRAM": dram}
    )


def fma_rate(gpu: GPU, mode: str) -> float:
    """Multiply-adds a clock and SM: TF32 at half the rate of float16, IEEE float32 by the vector units."""
    if mode == "float32":
        return gpu.vector["float32"] / (2 * gpu.sms * gpu.clock_hz)
    return gpu.half_fma / 2 if mode == "tf32" else gpu.half_fma


def _rounds(work: Work, most: int, per_sm: int) -> list[tuple[int, int]]:
    """(blocks at once, tiles that each takes) of every round of the SM that has most blocks."""
    if work.tile.count > work.grid:  # programs that stay
        return [(min(per_sm, most), ceil(work.tile.count / work.grid))]
    full, rest = divmod(most, per_sm)
    return [(per_sm, 1)] * full + [(rest, 1)] * (rest > 0)


def predict(
    works: Sequence[Work], per_sm: Sequence[int], gpu: GPU, mode: str, constants: Constants = FITTED
) -> Prediction:
    """A layer's time: its launches one after another. `per_sm`: how many blocks of each fit on an SM (model.occupancy)."""
    launches = tuple(launch_time(work, n, gpu, mode, constants) for work, n in zip(works, per_sm))
    floor = constants.launch + constants.again * (len(launches) - 1)
    total: dict[str, float] = {"launch": floor}
    for launch in launches:
        for name, value in launch.parts.items():
            total[name] = total.get(name, 0.0) + value
    return Prediction(floor + sum(launch.seconds for launch in launches), max(total, key=total.__getitem__), launches)
