"""Compiles by many processes what one process will time: Triton's and CuPy's caches are on disk and shared."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from convatlas.bench.contestants import contestants, with_folded
from convatlas.engine.single import operands
from convatlas.kernels.gemm.override import override
from convatlas.study.tracing import Layer

if TYPE_CHECKING:
    from convatlas.kernels.gemm.configs import TileConfig


@dataclass(frozen=True)
class Job:
    """One layer by one of our backends, with the config that the model chooses or with `config`."""

    layer: Layer
    dtype: str
    backend: str
    config: TileConfig | None = None


def compiled(job: Job) -> str:
    """Runs it once, which compiles what is not in a cache yet; "" or what went wrong."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        drawn = operands(job.layer, getattr(torch, job.dtype), device, 0, device.type)
        tensors = with_folded(job.layer, drawn)
        run = contestants(job.layer, ours=(job.backend,))[0].run
        if job.config is None:
            run(tensors)
        else:
            with override(job.config):
                run(tensors)
        if device.type == "cuda":
            torch.cuda.synchronize()
            del tensors, drawn
            torch.cuda.empty_cache()  # the other processes share the GPU's memory
    except Exception as error:  # it will fail again where it is timed, and be recorded there
        text = str(error).strip().splitlines() or [""]
        return f"{job.layer.op} {job.layer.spec}, {job.backend}: {type(error).__name__}: {text[0][:160]}"
    return ""


def compile_all(jobs: Sequence[Job], workers: int, seconds: float, say: Callable[[str], None]) -> tuple[int, list[str]]:
    """(how many jobs ended in time, what went wrong). At the limit the rest is left to be compiled where it is timed."""
    end = time.monotonic() + seconds
    done, errors = 0, []
    pool = multiprocessing.get_context("spawn").Pool(
        min(workers, len(jobs)) or 1
    )  # spawn: CUDA does not survive a fork
    try:
        results = pool.imap_unordered(compiled, jobs)
        for _ in jobs:
            error = results.next(timeout=max(end - time.monotonic(), 0.1))
            done += 1
            if error:
                errors.append(error)
                say(error)
    except multiprocessing.TimeoutError:
        say(f"{done} of {len(jobs)} compiled in {seconds:.0f} s, the rest on the way")
    finally:
        pool.terminate()
        pool.join()
    return done, errors
