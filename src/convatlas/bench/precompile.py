"""Compiling ahead of timing: every kernel that a list of cases needs, on all cores, into the caches on disk.

Triton and NVRTC take a second or so a kernel on one core, far longer than timing it. Processes of their own run each case once;
what they compiled the timing process finds in ~/.triton/cache and in CuPy's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import TimeoutError, get_context
from typing import TypeVar

import torch

from convatlas.bench.accuracy import float32_products
from convatlas.bench.cases import PRECISIONS, Case
from convatlas.bench.contestants import OURS, contestants, with_folded
from convatlas.bench.layers import distinct
from convatlas.engine.single import operands
from convatlas.specs import dtype_name
from convatlas.study.tracing import Layer

Job, Done = TypeVar("Job"), TypeVar("Done")

# Bytes of a layer's operands above which it is compiled when its turn comes: all processes share one GPU's memory.
MOST = 512 * 2**20


def tasks(cases: Iterable[Case]) -> Iterator[tuple[Layer, str]]:
    """(layer, precision) of all cases, those of a network's layers too; each once, in order, without the largest."""
    seen = set()
    for case in cases:
        layers = [case.layer] if case.layer else [t.layer for t in distinct(tuple(case.places), case.batch)]
        for layer in layers:
            dtype = dtype_name(PRECISIONS[case.precision][0])
            key = layer.key, case.precision
            if key not in seen and layer.spec.bytes(dtype, layer.epilogue) <= MOST:
                seen.add(key)
                yield layer, case.precision


def run_once(task: tuple[Layer, str, str]) -> int:
    """Runs our contestants once on a (layer, precision, device); how many ran. The race itself reports what does not run."""
    layer, precision, name = task
    torch.set_num_threads(1)
    dtype, products = PRECISIONS[precision]
    device, ran = torch.device(name), 0
    data = with_folded(layer, operands(layer, dtype, device, 0, name))
    for contestant in contestants(layer):
        if contestant.name in OURS:
            try:
                with float32_products(products):
                    contestant.run(data)
                ran += 1
            except Exception:  # a wrong or missing kernel is the race's to report, with its case
                continue
    if device.type == "cuda":
        torch.cuda.synchronize()
        del data
        torch.cuda.empty_cache()  # the other processes share the GPU's memory
    return ran


def precompile(
    cases: Iterable[Case], seconds: float, device: str = "cuda", workers: int | None = None
) -> tuple[int, int]:
    """(layers run, layers there were) within `seconds`, on all cores but two unless told otherwise."""
    todo = [(layer, precision, device) for layer, precision in tasks(cases)]
    workers = (os.cpu_count() or 1) - 2 if workers is None else workers
    return len(in_time(run_once, todo, workers, seconds)), len(todo)


def in_time(work: Callable[[Job], Done], jobs: Sequence[Job], workers: int, seconds: float) -> list[Done]:
    """What the jobs that ended in time returned, by up to `workers` processes; what is missing compiles where it is timed."""
    deadline, done = time.monotonic() + seconds, []
    if not jobs:
        return done
    pool = get_context("spawn").Pool(max(1, min(workers, len(jobs))))  # CUDA does not survive a fork
    try:
        results = pool.imap_unordered(work, jobs)
        for _ in jobs:
            done.append(results.next(max(0.0, deadline - time.monotonic())))
    except TimeoutError:
        pass
    finally:
        pool.terminate()
        pool.join()
    return done
