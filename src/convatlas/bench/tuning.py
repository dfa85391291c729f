"""Whether the tile models choose well: the configs that a launcher considers for a layer, timed against the one that it chose.

    regret = seconds of the model's choice / seconds of the best candidate

1 is a perfect choice. The candidates are those of `convatlas explain` (study/explaining.py), forced on the launch by
kernels/common/override.py. They race in one process, by turns, cold, in CUDA graphs, after their outputs were checked.

`python -m convatlas.bench.tuning --out FILE --seconds N` sweeps the dense layers of NETS, the heaviest first, until the time is up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from convatlas.bench.cases import described, distinct, fused
from convatlas.bench.contestants import by_backend, data_sets
from convatlas.bench.environment import gpu_name
from convatlas.bench.precompile import Job, in_time, run_once
from convatlas.bench.racing import check, timed
from convatlas.bench.timing import Contestant, CudaTimer, FakeTimer, Protocol, Run, Tensors, Timer
from convatlas.codegen.resources import Task
from convatlas.errors import CheckError
from convatlas.files import write_json
from convatlas.kernels.common.override import override
from convatlas.kernels.common.target import TARGETS, Target, of_device
from convatlas.kernels.common.work import works
from convatlas.study.explaining import configs
from convatlas.study.tracing import Layer
from convatlas.verify.on_device import Judge

MODEL = "triton"  # the contestant that runs what the model chose, by the name of its backend
FINALISTS = 4
NETS, BATCH, DTYPE = ("resnet50", "vgg16", "googlenet"), 32, "float16"
TOGETHER = (
    4  # layers whose configs are compiled at once: enough to keep the cores busy, few enough to be timed after all
)


def representative(nets: Sequence[str] = NETS, batch: int = BATCH) -> list[Layer]:
    """The dense layers of the nets, those with most FLOPs in all their places first."""
    found = [
        t for t in distinct(nets, batch) if t.layer.op == "conv2d" and t.layer.spec.groups == 1 and t.layer.spec.C >= 16
    ]
    return [t.layer for t in sorted(found, key=lambda t: -t.layer.spec.flops * sum(t.places.values()))]


def candidates(layer: Layer, target: Target, dtype: str = DTYPE) -> list[Any]:
    """The configs that Triton's launcher considers for a layer on a GPU, and whose launches differ."""
    task = Task(replace(layer.call, dtype=dtype, backend="meta"), dtype, target, MODEL)
    found: dict[tuple, Any] = {}
    for _, config in configs(task):
        found.setdefault(tuple(works(task.call, replace(task, config=config).launches, dtype)), config)
    return list(found.values())


def name(config: Any) -> str:
    """Such as "BM128 BN128 BK64 SPLIT1 num_warps4 num_stages3"."""
    return " ".join(f"{key}{value}" for key, value in asdict(config).items())


def _with(config: Any, run: Run) -> Run:
    def forced(tensors: Tensors) -> object:
        with override(config):
            return run(tensors)

    return forced


def tune(
    layer: Layer, configs: Sequence[Any], timer: Timer, device: torch.device, dtype: str = DTYPE, samples: int = 5
) -> dict[str, Any]:
    """One layer's entry: seconds of the model's config and of the best one, the regret, and what became of the candidates."""
    sets = data_sets(layer, getattr(torch, dtype), device, timer, "cold")
    run = by_backend(layer, MODEL)
    racing = [Contestant(MODEL, run), *(Contestant(name(config), _with(config, run)) for config in configs)]
    found = check(racing, sets[0], Judge(layer, sets[0]))
    found.wrong |= {who: str(accuracy) for who, accuracy in found.accuracy.items() if not accuracy.ok}
    heats = _medians(timed(found, racing, sets, timer, Protocol("cold", "graph", samples)))
    if MODEL not in heats:
        raise CheckError(f"{layer.op} {layer.spec}: {found.wrong.get(MODEL) or found.absent.get(MODEL)}")
    # The least of many noisy medians is too small: the fastest few run again, and only that race is reported.
    finalists = {MODEL, *sorted(heats, key=lambda key: heats[key])[:FINALISTS]}
    final = [contestant for contestant in racing if contestant.name in finalists]
    seconds = _medians(timed(found, final, sets, timer, Protocol("cold", "graph", 3 * samples)))
    best = min(seconds, key=lambda key: seconds[key])
    return {
        "op": layer.op, "spec": described(layer.spec), "epilogue": fused(layer.epilogue), "dtype": dtype,
        "model_seconds": seconds[MODEL], "best": best, "best_seconds": seconds[best], "regret": seconds[MODEL] / seconds[best],
        "candidates": len(configs), "finalists": seconds, "wrong": found.wrong, "failed": found.absent,
    }  # fmt: skip


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(taken) for name, taken in seconds.items()}


def main(arguments: list[str] | None = None) -> None:
    """Writes the file anew after each layer. A rehearsal takes one small layer, and the interpreter two of a GPU's tiles."""
    parser = argparse.ArgumentParser(prog="python -m convatlas.bench.tuning", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes that compile")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with an invented clock")
    given = parser.parse_args(arguments)
    end = time.monotonic() + given.seconds
    timer = FakeTimer(20e-6) if given.rehearse else CudaTimer()
    device = torch.device("cpu" if given.rehearse else "cuda")
    target, most = (TARGETS["sm_90"], 2) if given.rehearse else (of_device(torch.cuda.current_device()), None)
    layers = representative(("squeezenet1_1",), 1)[-1:] if given.rehearse else representative()
    entries: list[dict[str, Any]] = []
    for start in range(0, len(layers), TOGETHER):
        swept = [(layer, candidates(layer, target)[:most]) for layer in layers[start : start + TOGETHER]]
        if not given.rehearse:
            jobs = [Job(layer, DTYPE, "cuda", config) for layer, found in swept for config in found]
            in_time(run_once, jobs, given.workers, max(end - time.monotonic(), 5) * 0.6)
        for layer, found in swept:
            if entries and time.monotonic() > end:
                return
            entries.append(tune(layer, found, timer, device))
            print(f"{entries[-1]['spec']}: regret {entries[-1]['regret']:.2f}", flush=True)
            about = {"timer": timer.label, "gpu": gpu_name()}
            write_json(given.out, {**about, "layers": entries, "of": len(layers)})


if __name__ == "__main__":
    main()
