"""Compiling ahead of timing: every kernel that a list of cases or configs needs, on all cores, into the caches on disk.

Triton and NVRTC take a second or so a kernel on one core, far longer than timing it. Processes of their own run each layer once;
what they compiled the timing process finds in ~/.triton/cache and in CuPy's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import TimeoutError, get_context
from typing import Any, TypeVar

import torch

from convatlas.bench.cases import PRECISIONS, Case, distinct
from convatlas.bench.contestants import contestants, with_folded
from convatlas.bench.timing import reason
from convatlas.kernels.common.override import override
from convatlas.kernels.common.precision import float32_products
from convatlas.results.standings import OURS
from convatlas.specs import dtype_name
from convatlas.study.tracing import Layer
from convatlas.verify.single import operands

Work, Done = TypeVar("Work"), TypeVar("Done")

# Bytes of a layer's operands above which it is compiled when its turn comes: all processes share one GPU's memory.
MOST = 512 * 2**20


@dataclass(frozen=True)
class Job:
    """One layer by all of our backends, or by Triton with one config.

    Attributes:
        layer, precision, device: what is run, where.
        config: of Triton's kernel; None is what the models choose.
    """

    layer: Layer
    precision: str
    device: str
    config: Any = None


def jobs(cases: Iterable[Case], device: str = "cuda") -> list[Job]:
    """The jobs of all cases, those of a network's layers too: each layer once in each precision, in order, without the largest."""
    found: dict[tuple, Job] = {}
    for case in cases:
        layers = [case.layer] if case.layer else [t.layer for t in distinct(tuple(case.places), case.batch)]
        for layer in layers:
            dtype = dtype_name(PRECISIONS[case.precision][0])
            if layer.spec.bytes(dtype, layer.epilogue) <= MOST:
                found.setdefault((layer.key, case.precision), Job(layer, case.precision, device))
    return list(found.values())


def run_once(job: Job) -> str:
    """Runs the job, which puts its machine code into the caches; "" or what went wrong, which the race will report as well."""
    torch.set_num_threads(1)
    dtype, products = PRECISIONS[job.precision]
    data, wrong = with_folded(job.layer, operands(job.layer, dtype, torch.device(job.device), 0, job.device)), []
    for contestant in contestants(job.layer, OURS if job.config is None else ("triton",)):
        if contestant.name not in OURS:
            continue
        try:
            with float32_products(products), override(job.config) if job.config else nullcontext():
                contestant.run(data)
        except Exception as error:
            wrong.append(f"{contestant.name}: {reason(error)}")
    if job.device == "cuda":
        torch.cuda.synchronize()
        del data
        torch.cuda.empty_cache()  # the other processes share the GPU's memory
    return "; ".join(wrong)


def precompile(
    cases: Iterable[Case], seconds: float, device: str = "cuda", workers: int | None = None
) -> tuple[int, int]:
    """(layers run, layers there were) within `seconds`, on all cores but two unless told otherwise."""
    todo = jobs(cases, device)
    workers = (os.cpu_count() or 1) - 2 if workers is None else workers
    return len(in_time(run_once, todo, workers, seconds)), len(todo)


def in_time(work: Callable[[Work], Done], todo: Sequence[Work], workers: int, seconds: float) -> list[Done]:
    """What the pieces of work that ended in time returned, by up to `workers` processes; the rest compiles where it is timed."""
    deadline, done = time.monotonic() + seconds, []
    if not todo:
        return done
    pool = get_context("spawn").Pool(max(1, min(workers, len(todo))))  # CUDA does not survive a fork
    try:
        results = pool.imap_unordered(work, todo)
        for _ in todo:
            done.append(results.next(max(0.0, deadline - time.monotonic())))
    except TimeoutError:
        pass
    finally:
        pool.terminate()
        pool.join()
    return done
