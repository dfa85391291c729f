"""What is measured, as suites for pytest; how it is measured stands in src/convatlas/bench.

Here: options of the GPU suites, the order of their cases, the race that each case's tests share, and the tables at the end."""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Before anything imports triton: its kernels are decorated for the interpreter or for a GPU once, at import.
if not torch.cuda.is_available() or "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import pytest

from convatlas.bench import tables
from convatlas.bench.cases import PRECISIONS, Case, Choice, precision, within_reach
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.contestants import cudnn_fused
from convatlas.bench.environment import cpu_name, environment
from convatlas.bench.harness import feed
from convatlas.bench.networks import NAMES
from convatlas.bench.precompile import precompile
from convatlas.bench.racing import Racer
from convatlas.bench.timing import Protocol
from convatlas.errors import ConvAtlasError, InputError
from convatlas.results.kinds import KINDS
from convatlas.results.standings import OURS, Race

COMPILED = ("resnet50", "mobilenet_v2")  # nets that torch.compile is given with --compile: it takes minutes a net
# What a rehearsal goes through unless told otherwise: every kind of layer, few of each.
REHEARSED = {
    "nets": ("resnet50", "mobilenet_v2", "resnext50_32x4d", "alexnet"),
    "dtypes": ("float16", "tf32"),
    "batches": (32,),
}
# Of --seconds this share, and no more than MOST_PRECOMPILE, goes to compiling ahead; where that is less than the processes take to
# start, or the cases are few, each kernel is compiled when its turn comes.
PRECOMPILE, MOST_PRECOMPILE, LEAST_PRECOMPILE, FEW = 0.25, 90.0, 10.0, 8
NO_GPU = "needs a CUDA GPU; --rehearse goes through it on the CPU, with made-up times"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("convatlas", "convatlas benchmarks")
    group.addoption("--seconds", type=float, default=None, help="Cases whose turn comes later are skipped.")
    group.addoption("--dtypes", default=None, help=f"Comma-separated: {', '.join(PRECISIONS)}, or fp16, bf16, fp32.")
    group.addoption("--batches", default=None, help="Comma-separated batch sizes (32,1,128).")
    group.addoption("--kind", default=None, help=f"Comma-separated, each a word is enough: {', '.join(KINDS)}.")
    group.addoption("--nets", default=None, help="Comma-separated networks; default: all, the lecture's first.")
    group.addoption("--cache", choices=["cold", "warm"], default="cold", help="Whether the L2 cache has the operands.")
    group.addoption("--form", choices=["graph", "eager"], default="graph", help="How layers are launched.")
    group.addoption("--samples", type=int, default=15, help="Times of each contestant.")
    group.addoption("--ceilings", default=None, metavar="FILE", help="ceilings.json, for shares of the roofline.")
    group.addoption("--compile", action="store_true", help=f"torch.compile races on {' and '.join(COMPILED)}.")
    group.addoption("--no-precompile", action="store_true", help="Compile each kernel when its turn comes.")
    group.addoption("--rehearse", action="store_true", help="Without a GPU: small layers, made-up times.")


class Settings:
    """The options, read once, and what has happened so far."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.start, self.seconds, self.rehearse = time.monotonic(), option("seconds"), option("rehearse")
        self.compile = COMPILED if option("compile") else ()
        self.done: dict[tuple[str, str], Race] = {}  # by suite and case
        self.races: dict[tuple[str, str], Race] = {}  # what the tables at the end are made of
        defaults = (
            REHEARSED if self.rehearse else {"nets": (), "dtypes": tuple(PRECISIONS), "batches": Choice().batches}
        )
        given = {name: option(name).split(",") if option(name) else defaults[name] for name in defaults}
        if option("samples") < 1:
            raise InputError(f"--samples {option('samples')}, expected at least 1")
        try:
            batches = [int(batch) for batch in given["batches"]]
        except ValueError:
            raise InputError(f"--batches {option('batches')}, expected numbers such as 1,32,128") from None
        kinds = [name.strip() for name in (option("kind") or "").split(",") if name.strip()]
        protocol = Protocol(option("cache"), option("form"), option("samples"))
        self.choice = Choice([precision(name) for name in given["dtypes"]], batches, given["nets"], protocol, kinds)
        self.racer = Racer(self.rehearse, _ceilings(option("ceilings")), self.compile)

    @property
    def runs(self) -> bool:
        return self.rehearse or torch.cuda.is_available()

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def contestants(self, case: Case) -> list[str]:
        if case.layer is not None:
            return [*OURS, "cudnn"] + ["cudnn_fused"] * (cudnn_fused(case.layer) is not None)
        return [
            name for name in NAMES if name != "compile" or (set(case.places) & set(self.compile) and not self.rehearse)
        ]


SETTINGS = pytest.StashKey[Settings]()


def _ceilings(file: str | None) -> Ceilings | None:
    if file is None:
        return None
    try:
        return Ceilings.of(json.loads(Path(file).read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--ceilings {file}: {error}") from None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.verbose < 1 and hasattr(config.option, "benchmark_quiet"):
        config.option.benchmark_quiet = True  # its table is 200 columns wide; ours stands in for it
    try:
        config.stash[SETTINGS] = Settings(config)
    except ConvAtlasError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case and contestant; the module's CASES gives the cases that were chosen."""
    if "contestant" not in metafunc.fixturenames:
        return
    settings, why, pairs = metafunc.config.stash[SETTINGS], NO_GPU, []
    if settings.runs:
        why = "the chosen networks have no such layer"
        pairs = [(case, name) for case in metafunc.module.CASES(settings.choice) for name in settings.contestants(case)]
    if not pairs:
        metafunc.parametrize("case, contestant", [pytest.param(None, "", marks=pytest.mark.skip(why), id="none")])
        return
    metafunc.parametrize("case, contestant", pairs, ids=[f"{case.name} | {name}" for case, name in pairs])


def _case(item: pytest.Item) -> Case | None:
    return item.callspec.params.get("case") if hasattr(item, "callspec") else None  # None too where there is no GPU


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The most wanted first, over all files, then what needs no GPU; the contestants of a case stay together.

    What the time can never be enough for is deselected, since skipping ten thousand tests would take longer than a case.
    """
    settings = config.stash[SETTINGS]
    items.sort(key=lambda item: case.priority if (case := _case(item)) else (2, 0, 0))
    if settings.seconds is None or settings.rehearse or not settings.runs:
        return
    reached = within_reach((case for item in items if (case := _case(item))), settings.seconds)
    beyond = [item for item in items if (case := _case(item)) and case.name not in reached]
    config.hook.pytest_deselected(items=beyond)
    items[:] = [item for item in items if not (case := _case(item)) or case.name in reached]


def pytest_collection_finish(session: pytest.Session) -> None:
    settings = session.config.stash[SETTINGS]
    gc.freeze()  # thousands of tests are kept anyway: the collections between cases need not look at them
    cases = {case.name: case for item in session.items if (case := _case(item))}
    budget = MOST_PRECOMPILE if settings.seconds is None else min(MOST_PRECOMPILE, PRECOMPILE * settings.seconds)
    refused = session.config.option.no_precompile or session.config.option.collectonly
    if settings.rehearse or refused or len(cases) < FEW or budget < LEAST_PRECOMPILE:
        return
    done, there = precompile(cases.values(), budget)
    print(f"\ncompiled ahead: {done} of {there} layers in {settings.elapsed():.0f} s", flush=True)


@pytest.fixture
def shown(request: pytest.FixtureRequest) -> Callable[[Race], None]:
    """shown(race): it stands in the tables at the end of the run."""
    races = request.config.stash[SETTINGS].races
    return lambda race: races.update({(race.any.suite, race.any.case): race} if race.entries else {})


@pytest.fixture
def stored(request: pytest.FixtureRequest, shown: Callable[[Race], None]) -> Callable[[Race, str], str]:
    """stored(race, contestant): what is wrong with the contestant, "" where nothing is; its times are then in the store.

    Skips where it took no part.
    """

    def store(race: Race, contestant: str) -> str:
        shown(race)
        if contestant in race.wrong:
            return race.wrong[contestant]
        if contestant not in race.entries:
            pytest.skip(race.absent.get(contestant, "took no part"))
        feed(request.getfixturevalue("benchmark"), race.entries[contestant])
        return ""

    return store


@pytest.fixture
def raced(request: pytest.FixtureRequest, stored: Callable[[Race, str], str]) -> Callable[[Case, str], str]:
    """raced(case, contestant): `stored` of the case's race, which runs once, for the first who asks.

    Skips where the time is over.
    """
    settings = request.config.stash[SETTINGS]

    def run(case: Case, contestant: str) -> str:
        key = case.suite, case.name
        if key not in settings.done:
            if settings.seconds is not None and settings.elapsed() > settings.seconds:
                pytest.skip(f"time budget: {settings.seconds:g} s are over")
            try:
                settings.done[key] = settings.racer.run(case)
            except torch.OutOfMemoryError:
                settings.done[key] = Race({}, dict.fromkeys(settings.contestants(case), "out of memory on this GPU"))
        return stored(settings.done[key], contestant)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    """The GPU and the versions instead of pytest-benchmark's own look at the CPU, which takes seconds just when a limit is near."""
    cpu = {"brand_raw": cpu_name()}
    return {**environment(), "node": "", "machine": platform.machine(), "system": platform.system(), "cpu": cpu}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    settings = config.stash[SETTINGS]
    tables.show(settings.races.values(), settings.rehearse)
