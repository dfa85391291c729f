"""What this GPU reaches at its best, measured: the ceilings that a layer's time is held against.

    copy bandwidth   bytes read and written by a copy of a buffer that no cache holds
    matmul rate      2 n^3 FLOPs of an n x n x n product by cuBLAS, n = 8192, by dtype; random operands, which draw full power
    launch           a graph-replayed kernel of one element: below that no kernel goes, however small

`python -m convatlas.bench.ceilings --out FILE` writes them and what `convatlas doctor` has to say.

A layer's bound is the longest of its FLOPs at the matmul rate (where tensor cores can multiply it), its compulsory bytes at the
copy bandwidth, and one launch (Williams, Waterman, Patterson 2009, "Roofline", with a floor).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from convatlas.bench.clocks import sample
from convatlas.bench.environment import environment
from convatlas.bench.timing import CudaTimer, FakeTimer, Timer
from convatlas.doctor import backends, examine
from convatlas.errors import InputError
from convatlas.files import write_json
from convatlas.kernels.common.precision import float32_products
from convatlas.model.ceilings import Ceilings

MODES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}
COPY_BYTES = 2**30  # of the source: 20 times an H100's L2
PAUSE = 0.1  # seconds
MATMUL = 8192


def _least(run: Callable[[Any], object], data: dict[str, torch.Tensor], timer: Timer, samples: int) -> float:
    """Seconds a launch, warm (one data set), in a graph: the least of the samples, each after a pause that lets a GPU cool.

    A ceiling is what can be reached, so it is no median, and not what is left of it once the power limit has lowered the clocks, as
    it does within a second of large products. Raises InputError with the reason where it cannot run.
    """
    try:
        sampler = timer.prepare(run, [data], "graph")
    except Exception as error:
        raise InputError(f"a ceiling could not be measured: {type(error).__name__}: {error}") from error
    seconds = []
    for _ in range(samples):
        time.sleep(PAUSE if data["y"].is_cuda else 0)
        seconds.append(sampler())
    return min(seconds)


def copy_bandwidth(timer: Timer, device: torch.device, size: int = COPY_BYTES, samples: int = 7) -> float:
    """Bytes a second, read and written: the quicker of the driver's copy and a kernel that negates every number."""
    x = torch.randn(size // 4, device=device)
    data = {"x": x, "y": torch.empty_like(x)}
    ways = (lambda t: t["y"].copy_(t["x"]), lambda t: torch.neg(t["x"], out=t["y"]))
    return 2 * size / min(_least(way, data, timer, samples) for way in ways)


def matmul_rate(timer: Timer, device: torch.device, mode: str, n: int = MATMUL, samples: int = 7) -> float:
    """FLOPs a second of n x n x n in `mode`, one of MODES; torch's own setting of TF32 is as before afterwards."""
    a, b = (torch.randn(n, n, device=device, dtype=MODES[mode]) for _ in range(2))
    y = torch.empty_like(a)
    with float32_products("tf32" if mode == "tf32" else "ieee"):
        seconds = _least(lambda t: torch.mm(t["a"], t["b"], out=t["y"]), {"a": a, "b": b, "y": y}, timer, samples)
    return 2 * n**3 / seconds


def launch_seconds(timer: Timer, device: torch.device, samples: int = 15) -> float:
    """Seconds of the launch of a kernel that adds to one number."""
    return _least(lambda t: t["y"].add_(1), {"y": torch.zeros(1, device=device)}, timer, samples)


def measure(timer: Timer, device: torch.device, copy_bytes: int = COPY_BYTES, n: int = MATMUL) -> Ceilings:
    """All ceilings of `device`; smaller sizes than the given ones measure caches and launches instead."""
    return Ceilings(
        copy_bandwidth(timer, device, copy_bytes),
        {mode: matmul_rate(timer, device, mode, n) for mode in MODES},
        launch_seconds(timer, device),
    )


def document(ceilings: Ceilings, timer: Timer) -> dict[str, Any]:
    """ceilings.json: the rates, and on what and when they were measured."""
    return {**environment(), "timer": timer.label, "clocks": sample(), **asdict(ceilings)}


def main(arguments: list[str] | None = None) -> None:
    """A rehearsal's sizes are such that its invented microseconds give rates of a GPU's order."""
    parser = argparse.ArgumentParser(prog="python -m convatlas.bench.ceilings", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with an invented clock")
    given = parser.parse_args(arguments)
    findings = examine()
    if given.rehearse:
        timer: Timer = FakeTimer(1e-6)
        found = measure(timer, torch.device("cpu"), copy_bytes=2**20, n=64)
    else:
        timer = CudaTimer()
        found = measure(timer, torch.device("cuda"))
    doctor = {"findings": [asdict(f) for f in findings if not f.ok], "backends": backends(findings)}
    write_json(given.out, {**document(found, timer), "doctor": doctor})


if __name__ == "__main__":
    main()
