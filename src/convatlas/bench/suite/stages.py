"""The stages by priority: what each runs, how long it may take, and what becomes of its output.

Minutes: a stage may take `seconds`, or `share` of the budget where that is more; what it leaves, the next ones have. With the
default of eight minutes the first three fit, and the others run in what those leave; with 25 all run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from convatlas.bench.suite import collected, verification
from convatlas.bench.suite.stage import Settings, Stage, Step

PROFILED = ("resnet50", "mobilenet_v2", "googlenet", "resnext50_32x4d")
HEADLINE = (*PROFILED, "vgg16")
PLANNED = ("resnet50", "mobilenet_v2")  # whose plans race first, against all that a user would take instead
# A rehearsal's: every kind of layer that benchmarks/conftest.py rehearses, one small net.
REHEARSED = {
    "layers": ("--dtypes", "float16", "--samples", "3"),
    "nets": ("--nets", "squeezenet1_1", "--batches", "1", "--dtypes", "float16", "--samples", "3"),
}
# Runs of their own, the most wanted first: what one finished is on disk when the next is killed.
LAYERS = ("float16 32", "float16 1", "bfloat16 32", "tf32 32", "float32 32", "float16 128")
NETWORKS = ("float16 32", "float16 1", "float16 128")
# torch.compile(mode="max-autotune") takes more than two minutes a case: each is a step of its own, begun only with that much left.
COMPILED, MOST_COMPILED, LEAST_COMPILED = ("32", "1", "128"), 240.0, 150.0
# pytest's own start and end (imports, its reports), which its --seconds does not count.
START = 14.0


def task(settings: Settings, what: str, *arguments: str) -> Callable[[Path, float], list[str]]:
    """A command of convatlas.bench.suite.tasks."""

    def command(output: Path, seconds: float) -> list[str]:
        where = ["--out", str(output), "--seconds", f"{seconds - START:.0f}"]
        module = [sys.executable, "-m", "convatlas.bench.suite.tasks", what]
        return [*module, *where, *settings.rehearse, *ceilings(settings), *arguments]

    return command


def ceilings(settings: Settings) -> list[str]:
    """--ceilings FILE, once that file is there."""
    file = settings.out / "ceilings.json"
    return ["--ceilings", str(file)] if file.exists() else []


def benchmark(name: str, settings: Settings, files: list[Path], *arguments: str) -> Step:
    """A pytest-benchmark run. Its own --seconds ends it in time to write its file; the cases that it cut are unfinished.

    Exit code 1, tests that failed, means that something was computed wrongly, which the file says.
    """

    def command(output: Path, seconds: float) -> list[str]:
        pytest = [sys.executable, "-m", "pytest", *map(str, files), "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        reports = [f"--benchmark-json={output}", f"--junitxml={collected.junit_of(output)}"]
        limit = ["--seconds", f"{max(seconds - START, 1):.0f}"]
        return [*pytest, *reports, *limit, *settings.rehearse, *ceilings(settings), *arguments]

    return Step(name, command, (0, 1), least=20, unfinished=collected.cut_short)


def _ceilings(settings: Settings) -> list[Step]:
    return [Step("ceilings", task(settings, "ceilings"))]


def _tests(settings: Settings) -> list[Step]:
    suite = Step("pytest", verification.suite(settings), (0, 1), {"OMP_NUM_THREADS": "1"}, least=20)
    return [suite, *verification.sanitizers(settings)]


def _raced(suite: str, waves: Sequence[str], settings: Settings, nets: Sequence[str] = HEADLINE) -> list[Step]:
    """A step a precision and batch of one of benchmarks/bench_*.py, on the networks of the headline."""
    files = [settings.benchmarks / f"bench_{suite}.py"]
    if settings.rehearsal:
        return [benchmark("rehearsal", settings, files, *REHEARSED[suite])]
    chosen = [(wave, *wave.split()) for wave in waves]
    named = "--nets", ",".join(nets)
    return [benchmark(wave, settings, files, *named, "--dtypes", dtype, "--batches", n) for wave, dtype, n in chosen]


def _layers(settings: Settings) -> list[Step]:
    files = [settings.benchmarks / "bench_published.py"]
    published = [] if settings.rehearsal else [benchmark("published", settings, files, "--dtypes", "float16")]
    return [*_raced("layers", LAYERS, settings), *published]


def _networks(settings: Settings) -> list[Step]:
    """Plans first, then torch.compile beside them at the batch most wanted, the other networks, and torch.compile at the others."""
    others = _raced("nets", NETWORKS, settings, [name for name in HEADLINE if name not in PLANNED])
    if settings.rehearsal:
        return others
    files = [settings.benchmarks / "bench_nets.py"]
    batches = "--dtypes", "float16", "--batches"
    plans = benchmark("plans", settings, files, "--nets", ",".join(PLANNED), *batches, "32,1,128")
    first, *compiled = (
        replace(
            benchmark(f"compiled {batch}", settings, files, "--nets", PLANNED[0], *batches, batch, "--compile"),
            most=MOST_COMPILED, least=LEAST_COMPILED,
        )
        for batch in COMPILED
    )  # fmt: skip
    return [plans, first, *others, *compiled]


def _profile(settings: Settings) -> list[Step]:
    # In a rehearsal nothing is timed, so that one small net shows as much as four.
    names = ("squeezenet1_1",) if settings.rehearsal else PROFILED
    return [Step(name, task(settings, "profile", "--nets", name), least=15) for name in names]


def _tuning(settings: Settings) -> list[Step]:
    return [Step("tuning", task(settings, "tune", "--workers", str(settings.workers)), least=15)]


STAGES = (
    Stage("ceilings", "ceilings.json", 45, 0.03, 10, _ceilings, collected.replace),
    Stage("tests", "tests.json", 165, 0.15, 30, _tests, verification.merge),
    Stage("networks", "networks.json", 150, 0.25, 30, _networks, collected.add_benchmarks),
    Stage("layers", "layers.json", 262, 0.35, 30, _layers, collected.add_benchmarks),
    Stage("profile", "profile.json", 60, 0.10, 20, _profile, collected.add_profile),
    Stage("tuning", "tuning.json", 60, 0.12, 20, _tuning, collected.replace),
)
NAMES = tuple(stage.name for stage in STAGES)


def limits(stage: Stage, budget: float, left: float, last: bool) -> float:
    """Seconds that `stage` may take: all that is left where it is the last one."""
    return left if last else min(left, max(stage.seconds, stage.share * budget))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
