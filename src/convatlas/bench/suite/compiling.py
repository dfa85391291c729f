"""Compiles candidate configs by many processes before one process times them; bench/precompile.py does it for the model's own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from convatlas.bench.contestants import contestants
from convatlas.engine.single import operands
from convatlas.kernels.gemm.override import override
from convatlas.study.tracing import Layer

if TYPE_CHECKING:
    from convatlas.bench.suite.tuning import Config


@dataclass(frozen=True)
class Job:
    """One layer by one config."""

    layer: Layer
    dtype: str
    config: Config


def compiled(job: Job) -> str:
    """Runs it once, which puts its machine code into Triton's cache on disk; "" or what went wrong."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tensors = operands(job.layer, getattr(torch, job.dtype), device, 0, device.type)
        with override(job.config):
            contestants(job.layer, ours=("triton",))[0].run(tensors)
        if device.type == "cuda":
            torch.cuda.synchronize()
            del tensors
            torch.cuda.empty_cache()  # the other processes share the GPU's memory
    except Exception as error:  # it fails again where it is timed, and is recorded there
        return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:160]}"
    return ""


def compile_all(jobs: Sequence[Job], workers: int, seconds: float, work: Callable[[Job], str] = compiled) -> list[str]:
    """What became of the jobs that ended in time; the others compile where they are timed."""
    deadline, found = time.monotonic() + seconds, []
    pool = multiprocessing.get_context("spawn").Pool(max(1, min(workers, len(jobs))))  # CUDA does not survive a fork
    try:
        results = pool.imap_unordered(work, jobs)
        for _ in jobs:
            found.append(results.next(max(deadline - time.monotonic(), 0.0)))
    except multiprocessing.TimeoutError:
        pass
    finally:
        pool.terminate()
        pool.join()
    return found
