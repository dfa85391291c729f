"""The stages by priority: what each runs, how long it may take, and what becomes of its output.

Minutes: a stage may take `seconds`, or `share` of the budget where that is more; what it leaves, the next ones have. With the
default of eight minutes the first three fit, and the others run in what those leave; with 25 all run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from convatlas.bench.suite import outputs
from convatlas.bench.suite.outputs import Merge

PLANNED = ("resnet50", "mobilenet_v2")  # whose plans race first, against all that a user would take instead
HEADLINE = (*PLANNED, "googlenet", "resnext50_32x4d", "vgg16")
# A rehearsal's: every kind of layer that benchmarks/conftest.py rehearses, one small net.
REHEARSED = {
    "layers": ("--dtypes", "float16", "--samples", "3"),
    "training": ("--kind", "dgrad,wgrad", "--nets", "squeezenet1_1", "--dtypes", "float16", "--samples", "3"),
    "nets": ("--nets", "squeezenet1_1", "--batches", "1", "--dtypes", "float16", "--samples", "3"),
}
# Runs of their own, the most wanted first: what one finished is on disk when the next is killed.
GRADIENTS = ("float16 32", "bfloat16 32", "tf32 32")
LAYERS = ("float16 32", "float16 1", "bfloat16 32", "tf32 32", "float32 32", "float16 128")
NETWORKS = ("float16 32", "float16 1", "float16 128")
# torch.compile(mode="max-autotune") takes more than two minutes a case: each is a step of its own, begun only with that much left.
COMPILED, MOST_COMPILED, LEAST_COMPILED = ("32", "1", "128"), 240.0, 150.0
# pytest's own start and end (imports, its reports), which its --seconds does not count.
START = 14.0

SANITIZER_SECONDS = 42.0  # each; a kernel takes 10 to 100 times as long under it
# One case a kernel and backend: small integers, whose float16 results must be exact.
SUBSET = "test_float16_is_exact_on_probes and (cuda-3x3- or cuda-1x1- or cuda-stem-7x7- or cuda-depthwise-3x3-)"
FEW = "test_float16_is_exact_on_probes and (cpu-1x1- or cpu-3x3-) and triton"
KERNELS = "tests/kernels/test_conv2d_kernels.py"
QUIET = ("-q", "--tb=short", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        out: the output folder.
        root: of the repository; commands run there.
        rehearsal: a CPU and an invented clock.
        workers: processes that may work at once.
    """

    out: Path
    root: Path
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
    """

    name: str
    command: Callable[[Path, float], list[str]]
    codes: tuple[int, ...] = (0,)
    environment: dict[str, str] = field(default_factory=dict)
    most: float = float("inf")
    least: float = 5.0


@dataclass(frozen=True)
class Stage:
    """One file of results.

    Attributes:
        name: for STAGE=...; with ".json" behind it, its file in the output folder.
        seconds, share: what it may take, as said above.
        least: seconds below which it is not begun.
        steps: in order of priority.
        merge: takes a step's output into the file.
    """

    name: str
    seconds: float
    share: float
    least: float
    steps: Callable[[Settings], list[Step]]
    merge: Merge

    @property
    def file(self) -> str:
        return f"{self.name}.json"


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _ceilings(settings: Settings) -> list[Step]:
    command = lambda output, seconds: python("convatlas.bench.ceilings", "--out", str(output), *settings.rehearse)  # noqa: E731
    return [Step("ceilings", command)]


def _tuning(settings: Settings) -> list[Step]:
    def command(output: Path, seconds: float) -> list[str]:
        how = ["--seconds", f"{seconds - START:.0f}", "--workers", str(settings.workers)]
        return python("convatlas.bench.tuning", "--out", str(output), *how, *settings.rehearse)

    return [Step("tuning", command, least=15)]


def _tests(settings: Settings) -> list[Step]:
    """`pytest -m gpu` on all cores but two, then a few kernels under each tool of compute-sanitizer, where that is installed.

    A rehearsal takes a handful of interpreted kernels.
    """
    alone = *QUIET, "-p", "no:benchmark"

    def command(output: Path, seconds: float) -> list[str]:
        if settings.rehearsal:
            return python("pytest", *alone, f"--junitxml={output}", KERNELS, "-k", FEW, "-p", "no:xdist")
        parallel = ["-n", str(settings.workers), "--dist", "loadgroup"] if find_spec("xdist") else []
        chosen = ["tests", "-m", "gpu", "--continue-on-collection-errors", *parallel]
        return python("pytest", *alone, f"--junitxml={output}", *chosen)

    def watch(tool: str) -> Callable[[Path, float], list[str]]:
        def of(output: Path, seconds: float) -> list[str]:
            # Errors of CUDA calls are left out: libraries probe for features by calls that fail.
            calls = ["--report-api-errors", "no"] if tool == "memcheck" else []
            watched = [
                program,
                "--tool",
                tool,
                "--log-file",
                str(output),
                "--target-processes",
                "application-only",
                *calls,
            ]
            return [*watched, *python("pytest", *alone, "-p", "no:xdist", KERNELS, "-m", "gpu", "-k", SUBSET)]

        return of

    program = None if settings.rehearsal else outputs.sanitizer()
    # Without torch's caching allocator each tensor is an allocation of its own, whose end the tool knows.
    alone_in_memory = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
    tools = [
        Step(tool, watch(tool), (0, 1), alone_in_memory, SANITIZER_SECONDS, least=20.0)
        for tool in outputs.TOOLS
        if program
    ]
    return [Step("pytest", command, (0, 1), {"OMP_NUM_THREADS": "1"}, least=20), *tools]


def benchmark(
    name: str, settings: Settings, suite: str, *arguments: str, most: float = float("inf"), least: float = 20
) -> Step:
    """A run of benchmarks/bench_<suite>.py. Its own --seconds ends it in time to write its file.

    Exit code 1, tests that failed, means that something was computed wrongly, which the file says.
    """

    def command(output: Path, seconds: float) -> list[str]:
        file, ceilings = settings.root / "benchmarks" / f"bench_{suite}.py", settings.out / "ceilings.json"
        reports = [f"--benchmark-json={output}", f"--junitxml={outputs.junit_of(output)}"]
        limit = ["--seconds", f"{max(seconds - START, 1):.0f}", *settings.rehearse]
        known = ["--ceilings", str(ceilings)] if ceilings.exists() else []
        return python("pytest", str(file), *QUIET, "-p", "no:xdist", *reports, *limit, *known, *arguments)

    return Step(name, command, (0, 1), most=most, least=least)


def _waves(suite: str, waves: Iterable[str], settings: Settings, nets: Iterable[str]) -> list[Step]:
    """A step a precision and batch."""
    named = "--nets", ",".join(nets)
    chosen = [(wave, *wave.split()) for wave in waves]
    return [benchmark(wave, settings, suite, *named, "--dtypes", dtype, "--batches", n) for wave, dtype, n in chosen]


def _layers(settings: Settings) -> list[Step]:
    if settings.rehearsal:
        return [benchmark("rehearsal", settings, "layers", *REHEARSED["layers"])]
    published = benchmark("published", settings, "published", "--dtypes", "float16")
    return [*_waves("layers", LAYERS, settings, HEADLINE), published]


def _training(settings: Settings) -> list[Step]:
    """The gradients of convolutions against torch.ops.aten.convolution_backward."""
    kinds = "--kind", "dgrad,wgrad"
    if settings.rehearsal:
        return [benchmark("rehearsal", settings, "layers", *REHEARSED["training"])]
    chosen = [(wave, *wave.split()) for wave in GRADIENTS]
    named = "--nets", ",".join(HEADLINE)
    return [
        benchmark(w, settings, "layers", *kinds, *named, "--dtypes", dtype, "--batches", n) for w, dtype, n in chosen
    ]


def _networks(settings: Settings) -> list[Step]:
    """Plans first, then torch.compile beside them at the batch most wanted, the other networks, and torch.compile at the others."""
    if settings.rehearsal:
        return [benchmark("rehearsal", settings, "nets", *REHEARSED["nets"])]
    half = "--dtypes", "float16", "--batches"
    plans = benchmark("plans", settings, "nets", "--nets", ",".join(PLANNED), *half, "32,1,128")
    limits = {"most": MOST_COMPILED, "least": LEAST_COMPILED}
    first, *compiled = (
        benchmark(f"compiled {batch}", settings, "nets", "--nets", PLANNED[0], *half, batch, "--compile", **limits)
        for batch in COMPILED
    )
    return [plans, first, *_waves("nets", NETWORKS, settings, HEADLINE[len(PLANNED) :]), *compiled]


STAGES = (
    Stage("ceilings", 45, 0.03, 10, _ceilings, outputs.replace),
    Stage("tests", 165, 0.15, 30, _tests, outputs.add_tests),
    Stage("networks", 150, 0.25, 30, _networks, outputs.add_benchmarks),
    Stage("layers", 290, 0.45, 30, _layers, outputs.add_benchmarks),
    Stage("training", 60, 0.05, 30, _training, outputs.add_benchmarks),
    Stage("tuning", 60, 0.12, 20, _tuning, outputs.replace),
)
NAMES = tuple(stage.name for stage in STAGES)


def limits(stage: Stage, budget: float, left: float, last: bool) -> float:
    """Seconds that `stage` may take: all that is left where it is the last one."""
    return left if last else min(left, max(stage.seconds, stage.share * budget))
