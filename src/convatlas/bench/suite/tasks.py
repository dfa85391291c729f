"""What a stage's subprocess runs: python -m convatlas.bench.suite.tasks WHAT --out FILE --seconds N [--rehearse] [...].

ceilings   this machine's doctor report and this GPU's ceilings
profile    nets, each layer against its bound
tune       tile configs against the model's choice
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from convatlas.bench.ceilings import Ceilings, document, measure
from convatlas.bench.suite.state import read_json, write_json
from convatlas.bench.timing import CudaTimer, FakeTimer, Timer

BATCH, DTYPE = 32, "float16"
TOGETHER = (
    4  # layers whose configs are compiled at once: enough to keep the cores busy, few enough to be timed after all
)
# A rehearsal's: small enough for the interpreter, large enough for every layer of the net to have an output.
TINY_BATCH, TINY_SIZE = 1, 64


def say(line: str) -> None:
    print(line, flush=True)


def timer_for(given: argparse.Namespace, seconds: float) -> Timer:
    """CUDA events, or a rehearsal's invented clock about `seconds`."""
    return FakeTimer(seconds) if given.rehearse else CudaTimer()


def device_for(given: argparse.Namespace) -> torch.device:
    return torch.device("cpu" if given.rehearse else "cuda")


def ceilings(given: argparse.Namespace) -> None:
    """Sizes of a rehearsal are such that its invented microseconds give rates of a GPU's order."""
    from convatlas.doctor import backends, examine

    findings = examine()
    timer = timer_for(given, 1e-6)
    sizes = {"copy_bytes": 2**20, "n": 64} if given.rehearse else {}
    found = measure(timer, device_for(given), **sizes)
    doctor = {"findings": [asdict(f) for f in findings if not f.ok], "backends": backends(findings)}
    write_json(given.out, {**document(found, timer), "doctor": doctor})


def profile(given: argparse.Namespace) -> None:
    from convatlas.bench.profile import profile as run

    known = Ceilings.of(read_json(given.ceilings)) if given.ceilings else None
    rates = known or measure(timer_for(given, 1e-6), device_for(given), **({"n": 64} if given.rehearse else {}))
    size, batch = (TINY_SIZE, TINY_BATCH) if given.rehearse else (None, BATCH)
    end = time.monotonic() + given.seconds
    nets: dict[str, Any] = {}
    for name in given.nets.split(","):
        if nets and time.monotonic() > end:
            break
        timer = timer_for(given, 20e-6)
        say(name)
        nets[name] = run(name, batch, DTYPE, "auto", size, timer, device_for(given), rates).as_dict()
        write_json(given.out, {**document(rates, timer), "nets": nets})


def tune(given: argparse.Namespace) -> None:
    """The layers by weight until the time is up; the file is written anew after each."""
    from convatlas.bench.precompile import Job, in_time, run_once
    from convatlas.bench.suite import tuning
    from convatlas.kernels.common.target import TARGETS, of_device
    from convatlas.verify.single import operands

    end = time.monotonic() + given.seconds
    device, timer = device_for(given), timer_for(given, 20e-6)
    layers = tuning.representative(("squeezenet1_1",), 1)[-1:] if given.rehearse else tuning.representative()
    # In a rehearsal the interpreter runs a GPU's tiles, and two of them are enough.
    target, most = (TARGETS["interpreter"], 2) if given.rehearse else (of_device(torch.cuda.current_device()), None)
    entries: list[dict[str, Any]] = []
    for start in range(0, len(layers), TOGETHER):
        swept = []
        for layer in layers[start : start + TOGETHER]:
            tensors = operands(layer, getattr(torch, DTYPE), device, 0, device.type)
            launch = tuning.first_launch(layer, DTYPE, tensors, target)
            found = tuning.candidates(layer, launch, TARGETS["sm_90"] if given.rehearse else target)
            swept.append((layer, found[:most]))
        if not given.rehearse:
            jobs = [Job(layer, DTYPE, "cuda", config) for layer, configs in swept for config in configs]
            in_time(run_once, jobs, given.workers, max(end - time.monotonic(), 5) * 0.6)
        for layer, configs in swept:
            if entries and time.monotonic() > end:
                return
            entries.append(tuning.tune(layer, DTYPE, configs, timer, device, target))
            say(f"{entries[-1]['spec']}: regret {entries[-1]['regret']:.2f}")
            about = {"timer": timer.label, "gpu": None if given.rehearse else torch.cuda.get_device_name()}
            write_json(given.out, {**about, "layers": entries, "of": len(layers)})


TASKS = {"ceilings": ceilings, "profile": profile, "tune": tune}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m convatlas.bench.suite.tasks")
    parser.add_argument("what", choices=TASKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--ceilings", type=Path)
    parser.add_argument("--nets", default="")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    TASKS[given.what](given)


if __name__ == "__main__":
    main(sys.argv[1:])
