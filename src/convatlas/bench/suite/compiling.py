"""Compiling a candidate config before it is timed: a job for bench/precompile.py's processes, which compile the model's own too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from convatlas.bench.contestants import contestants
from convatlas.engine.single import operands
from convatlas.kernels.common.override import override
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
