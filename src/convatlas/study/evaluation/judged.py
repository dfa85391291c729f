"""What the time model's errors do not say: whether it names the right limiter, puts two kernels in the right order, and picks the
config that the launchers' own choosers pick. Against the stored times of an H100; docs/model.md shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, log

from convatlas.codegen.resources import Task
from convatlas.kernels.common.target import of
from convatlas.kernels.common.work import works
from convatlas.model.ceilings import Ceilings
from convatlas.model.gpu import GPU
from convatlas.model.occupancy import occupancy
from convatlas.model.time import predict
from convatlas.model.work import Work
from convatlas.study.evaluation.fitted import Summed, Timed, by_kind
from convatlas.study.explaining import configs
from convatlas.study.mapping import element_of

# Two kernels of one layer are told apart where their times differ by this share.
APART = 0.1
# What times show. Batch 32 is 32 times the work: a layer whose time grows less than FIXED-fold was held by launch or latency at
# batch 1, one that grows more than GROWN-fold by throughput. At batch 32 it is held by DRAM, or by the tensor cores, where it
# reaches this share of the measured rate.
FIXED, GROWN = 8, 16
AT_RATE = {"DRAM": 0.6, "tensor": 0.5}
HELD_BY = {"launch": "launch, latency", "latency": "launch, latency"}
# Registers of a thread beside its accumulators, and bytes of shared memory beside the stages, where nothing is compiled.
BESIDE, RESERVED = {"triton": 48, "cuda": 80}, 1024
REGISTERS = 255


@dataclass(frozen=True)
class Right:
    """How many of some cases the model had right."""

    right: int
    of: int

    @property
    def share(self) -> float:
        return self.right / self.of if self.of else 0.0

    def __str__(self) -> str:
        return f"{self.right} of {self.of}, {100 * self.share:.0f} %" if self.of else "none"


def order(layers: Iterable[Timed], gpu: GPU) -> Right:
    """Pairs of kernels of one layer and batch, Triton's and CUDA C++'s, whose measured times are APART: are they in that order?"""
    pairs: dict[tuple, list[Timed]] = {}
    for one in layers:
        pairs.setdefault((one.call.op, one.call.spec, one.call.epilogue, one.batch, one.mode), []).append(one)
    right = count = 0
    for pair in pairs.values():
        if len(pair) != 2:
            continue
        a, b = sorted(pair, key=lambda one: one.seconds)
        if b.seconds >= a.seconds * (1 + APART):
            count += 1
            right += a.predicted(gpu) < b.predicted(gpu)
    return Right(right, count)


def shown(one: Timed, other: Timed, ceilings: Ceilings) -> str | None:
    """What the times of a layer at two batches show to limit it: "launch, latency", "throughput", "DRAM", "tensor"; None for none.

    The smaller batch is told by growth, the larger one by the rate that it reaches.
    """
    if one.batch < other.batch:
        growth = other.seconds / one.seconds
        return "launch, latency" if growth < FIXED else "throughput" if growth > GROWN else None
    dtype = element_of(one.mode)
    traffic = one.call.spec.bytes(dtype, one.call.epilogue) / one.seconds / ceilings.copy_bytes_per_s
    rate = one.call.spec.flops / one.seconds / ceilings.matmul_flops_per_s[one.mode]
    if one.call.spec.tensor_cores and rate >= AT_RATE["tensor"]:
        return "tensor"
    return "DRAM" if traffic >= AT_RATE["DRAM"] else None


def limiters(layers: Iterable[Timed], gpu: GPU, ceilings: Ceilings) -> dict[str, Right]:
    """By what the times of two batches show: whether the model names it."""
    pairs: dict[tuple, list[Timed]] = {}
    for one in layers:
        spec = one.call.spec
        images = next((name for name in ("N", "lead") if hasattr(spec, name)), None)
        if images is not None:  # the same layer of one image and of 32
            key = one.backend, one.call.op, replace(spec, **{images: 0}), one.call.epilogue, one.mode
            pairs.setdefault(key, []).append(one)
    found: dict[str, list[bool]] = {}
    for pair in pairs.values():
        if len(pair) != 2 or pair[0].batch == pair[1].batch:
            continue
        for one, other in (pair, pair[::-1]):
            if (says := shown(one, other, ceilings)) is None:
                continue
            named = predict(one.works, one.per_sm, gpu, one.mode).limiter
            held = HELD_BY.get(named, "throughput")
            found.setdefault(says, []).append(says in (named, held))
    return {says: Right(sum(cases), len(cases)) for says, cases in sorted(found.items())}


@dataclass(frozen=True)
class Choice:
    """A layer's configs by the time model, without a compiler.

    Attributes:
        same: whether the one that the launcher chose is the model's own choice, or within 1 % of it.
        gain: its predicted time over the model's choice's.
        what: the layer, the chosen tile and the model's, in words.
    """

    same: bool
    gain: float
    what: tuple[str, str, str]


def estimated(work: Work, gpu: GPU) -> int:
    """Blocks of a launch on an SM, by its tile alone: a chooser has no compiler."""
    tile = work.tile
    if not work.gemm:
        return gpu.architecture.threads // work.threads
    registers = min(REGISTERS, tile.BM * tile.BN // work.threads + BESIDE[work.backend])
    shared = (tile.BM + tile.BN) * tile.BK * work.size * max(work.stages, 1) + RESERVED
    shared = min(shared, gpu.architecture.block_shared)
    return max(1, occupancy(gpu.architecture, work.threads, registers, shared).blocks)


def choice(one: Timed, gpu: GPU) -> Choice | None:
    """The model's choice among what the launcher considers; None where it considers one config."""
    task = Task(replace(one.call, dtype=element_of(one.mode), backend="meta"), one.mode, of(gpu), one.backend)
    times = []
    for _, config in configs(task):
        own = replace(task, config=config)
        found = works(own.call, own.launches, element_of(one.mode))
        blocks = [estimated(work, gpu) for work in found]
        times.append((predict(found, blocks, gpu, one.mode).seconds, found))
    mine = next((time for time in times if time[1] == list(one.works)), None)
    if len(times) < 2 or mine is None:
        return None
    best = min(times, key=lambda time: time[0])
    gain = mine[0] / best[0]
    return Choice(gain < 1.01, gain, (f"{one.call.op} {one.call.spec}", _config(mine[1]), _config(best[1])))


def _config(found: Sequence[Work]) -> str:
    main = next((work for work in found if work.gemm), found[0])
    return f"{main.tile}, {main.config}"


def choices(layers: Iterable[Timed], gpu: GPU) -> dict[str, list[Choice]]:
    """By backend."""
    found: dict[str, list[Choice]] = {}
    for one in layers:
        if (made := choice(one, gpu)) is not None:
            found.setdefault(one.backend, []).append(made)
    return dict(sorted(found.items()))


def tables(layers: Sequence[Timed], halves: Sequence[Timed], gpu: GPU, ceilings: Ceilings) -> str:
    """Markdown: bfloat16 (`halves`), order of pairs, limiters, and choices of configs."""
    held = [one for one in layers if one.held_out]
    lines = ["| bfloat16, batch 32 | held out | median | nine in ten | bias |", "|---|--:|--:|--:|--:|"]
    other = [one for one in halves if one.held_out]
    for (backend, kind), errors in by_kind(other, gpu).items():
        lines.append(f"| {kind}, {backend} | {_errors(errors)} |")
    lines.append(f"| **all** | {_errors(Summed.of([one.error(gpu) for one in other]))} |")
    lines += ["", "| of the layers held out | right |", "|---|--:|"]
    lines.append(
        f"| order of Triton's and CUDA C++'s kernel, where they differ by {100 * APART:.0f} % and more | {order(held, gpu)} |"
    )
    for batch in (1, 32):
        lines.append(f"| the same, batch {batch} | {order([one for one in held if one.batch == batch], gpu)} |")
    for says, right in limiters(held, gpu, ceilings).items():
        lines.append(f"| limiter, where the times show {says} | {right} |")
    head = "| configs of | layers | chosen as the model would, within 1 % | predicted gain of the others | at most |"
    lines += ["", head, "|---|--:|--:|--:|--:|"]
    for backend, made in choices(layers, gpu).items():
        others = [one.gain for one in made if not one.same]
        mean = exp(sum(map(log, others)) / len(others)) if others else 1.0
        same = Right(sum(one.same for one in made), len(made))
        most = max(one.gain for one in made)
        lines.append(f"| {backend} | {len(made)} | {same} | {100 * (mean - 1):.1f} % | {100 * (most - 1):.0f} % |")
    lines += [
        "",
        "| where the two differ most | layer | chosen | the model's | predicted gain |",
        "|---|---|---|---|--:|",
    ]
    for backend, made in choices(layers, gpu).items():
        for one in sorted(made, key=lambda each: -each.gain)[:4]:
            lines.append(f"| {backend} | {' | '.join(one.what)} | {100 * (one.gain - 1):.0f} % |")
    return "\n".join(lines)


def _errors(found: Summed) -> str:
    return f"{found.count} | {100 * found.middle:.1f} % | {100 * found.ninth:.1f} % | {100 * found.bias:+.1f} %"
