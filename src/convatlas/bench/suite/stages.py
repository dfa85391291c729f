"""The stages by priority: what each runs, how long it may take, and what becomes of its output.

Minutes: a stage may take `seconds`, or `share` of the budget where that is more; what it leaves, the next ones have. With the
default of eight minutes the first three fit, and the others run in what those leave; with 25 all run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convatlas.bench.suite import collected, verification
from convatlas.bench.suite.process import Ended

# Merge(document so far or None, step, path of the step's output, how it ended) -> the document, None for nothing to write.
Merge = Callable[[Any, str, Path, Ended], Any]

PROFILED = ("resnet50", "mobilenet_v2", "googlenet", "resnext50_32x4d")
HEADLINE = (*PROFILED, "vgg16")
# A rehearsal's: every kind of layer that benchmarks/conftest.py rehearses, one small net.
REHEARSED_LAYERS = ("--dtypes", "float16", "--samples", "3")
REHEARSED_NETS = ("--nets", "squeezenet1_1", "--batches", "1", *REHEARSED_LAYERS)
# Runs of their own, the most wanted first: what one finished is on disk when the next is killed.
LAYERS = (
    ("float16", "32"),
    ("float16", "1"),
    ("bfloat16", "32"),
    ("tf32", "32"),
    ("float32", "32"),
    ("float16", "128"),
)
NETWORKS, PUBLISHED = "bench_nets.py", "bench_published.py"
# pytest's own start and end (imports, its reports), which its --seconds does not count.
START = 14.0


@dataclass(frozen=True)
class Settings:
    """Of one run.

    Attributes:
        out: the output folder.
        root: of the repository; commands run there.
        benchmarks: the folder of bench_*.py.
        rehearsal: a CPU and an invented clock.
        workers: processes that may work at once.
    """

    out: Path
    root: Path
    benchmarks: Path
    rehearsal: bool
    workers: int

    @property
    def rehearse(self) -> list[str]:
        return ["--rehearse"] * self.rehearsal


@dataclass(frozen=True)
class Step:
    """One command of a stage.

    Attributes:
        name: unique in its stage.
        command: (output file, seconds) -> the command, which may end by itself before the seconds are over.
        codes: exit codes that count as finished: pytest's 1 means that tests failed, which is a result.
        environment: added to the process's.
        most: seconds, whatever its stage has left.
        least: seconds below which it is not begun.
        unfinished: (output file) -> what is missing although the command ended by itself, "" for nothing.
    """

    name: str
    command: Callable[[Path, float], list[str]]
    codes: tuple[int, ...] = (0,)
    environment: dict[str, str] = field(default_factory=dict)
    most: float = float("inf")
    least: float = 5.0
    unfinished: Callable[[Path], str] = lambda output: ""


@dataclass(frozen=True)
class Stage:
    """One file of results.

    Attributes:
        name: for STAGE=...
        file: in the output folder.
        seconds, share: what it may take, as said above.
        least: seconds below which it is not begun.
        steps: in order of priority.
        merge: takes a step's output into the file.
    """

    name: str
    file: str
    seconds: float
    share: float
    least: float
    steps: Callable[[Settings], list[Step]]
    merge: Merge


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
    return [suite, *(Step(**step) for step in verification.sanitizers(settings))]


def layer_files(settings: Settings) -> list[Path]:
    """The files that time layers on a GPU: all but the networks and what a machine without a GPU times."""
    others = {NETWORKS, PUBLISHED, "bench_reference.py", "bench_host.py", "bench_cpu.py"}
    return [path for path in sorted(settings.benchmarks.glob("bench_*.py")) if path.name not in others]


def _layers(settings: Settings) -> list[Step]:
    files = layer_files(settings)
    if settings.rehearsal:
        return [benchmark("rehearsal", settings, files, *REHEARSED_LAYERS)]
    nets = "--nets", ",".join(HEADLINE)
    return [
        benchmark(f"{dtype} {batch}", settings, files, *nets, "--dtypes", dtype, "--batches", batch)
        for dtype, batch in LAYERS
    ] + [benchmark("published", settings, [settings.benchmarks / PUBLISHED], "--dtypes", "float16")]


def _networks(settings: Settings) -> list[Step]:
    files = [settings.benchmarks / NETWORKS]
    if settings.rehearsal:
        return [benchmark("rehearsal", settings, files, *REHEARSED_NETS)]
    nets = "--nets", ",".join(HEADLINE)
    return [
        benchmark(f"float16 {batch}", settings, files, *nets, "--dtypes", "float16", "--batches", batch)
        for batch in ("32", "1", "128")
    ]


def _profile(settings: Settings) -> list[Step]:
    # In a rehearsal nothing is timed, so that one small net shows as much as four.
    names = ("squeezenet1_1",) if settings.rehearsal else PROFILED
    return [Step(name, task(settings, "profile", "--nets", name), least=15) for name in names]


def _tuning(settings: Settings) -> list[Step]:
    return [Step("tuning", task(settings, "tune", "--workers", str(settings.workers)), least=15)]


STAGES = (
    Stage("ceilings", "ceilings.json", 45, 0.03, 10, _ceilings, collected.replace),
    Stage("tests", "tests.json", 165, 0.15, 30, _tests, verification.merge),
    Stage("layers", "layers.json", 262, 0.40, 30, _layers, collected.add_benchmarks),
    Stage("networks", "networks.json", 90, 0.20, 30, _networks, collected.add_benchmarks),
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
