"""Stage "tests": the tests that need a GPU, then a few of them under compute-sanitizer, as one small document."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from convatlas.bench.suite.process import Ended
from convatlas.bench.suite.stage import Settings, Step

SANITIZER = "compute-sanitizer"
PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")
TOOLS = ("memcheck", "racecheck")
SANITIZER_SECONDS = 42.0  # each; a kernel takes 10 to 100 times as long under it
# One case a kernel and backend: small integers, whose float16 results must be exact.
SUBSET = "test_float16_is_exact_on_probes and (cuda-3x3- or cuda-1x1- or cuda-stem-7x7- or cuda-depthwise-3x3-)"
REHEARSED = "test_float16_is_exact_on_probes and (cpu-1x1- or cpu-3x3-) and triton"
KERNELS = "tests/kernels/test_conv2d_kernels.py"
MOST_FAILURES = 200
QUIET = ("-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:benchmark")


def suite(settings: Settings) -> Callable[[Path, float], list[str]]:
    """`pytest -m gpu` on all cores but two, or a handful of interpreted kernels in a rehearsal."""

    def command(output: Path, seconds: float) -> list[str]:
        pytest = [sys.executable, "-m", "pytest", *QUIET, f"--junitxml={output}"]
        if settings.rehearsal:
            return [*pytest, KERNELS, "-k", REHEARSED, "-p", "no:xdist"]
        parallel = ["-n", str(settings.workers), "--dist", "loadgroup"] if find_spec("xdist") else []
        return [*pytest, "tests", "-m", "gpu", "--continue-on-collection-errors", *parallel]

    return command


def sanitizer() -> str | None:
    """The path of compute-sanitizer, None where it is not installed."""
    return shutil.which(SANITIZER) or next(
        (found for place in PLACES if (found := shutil.which(SANITIZER, path=place))), None
    )


def sanitizers(settings: Settings) -> list[Step]:
    """A step for each tool, where compute-sanitizer is installed and there is a GPU to watch."""
    program = sanitizer()
    if program is None or settings.rehearsal:
        return []

    def command(tool: str) -> Callable[[Path, float], list[str]]:
        def of(output: Path, seconds: float) -> list[str]:
            # Errors of CUDA calls are left out: libraries probe for features by calls that fail.
            watch = [program, "--tool", tool, "--log-file", str(output), "--target-processes", "application-only"]
            calls = ["--report-api-errors", "no"] if tool == "memcheck" else []
            pytest = [sys.executable, "-m", "pytest", *QUIET, "-p", "no:xdist", KERNELS, "-m", "gpu", "-k", SUBSET]
            return [*watch, *calls, *pytest]

        return of

    # Without torch's caching allocator each tensor is an allocation of its own, whose end the tool knows.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
    return [Step(tool, command(tool), (0, 1), environment, SANITIZER_SECONDS, least=20.0) for tool in TOOLS]


def merge(document: Any, step: str, output: Path, ended: Ended) -> Any:
    """{"passed", "failed", "skipped", "failures", "seconds", "complete", "sanitizer": {tool: {...}}}."""
    document = document or {"sanitizer": {} if sanitizer() else {"absent": f"{SANITIZER} is not installed"}}
    if step in TOOLS:
        document["sanitizer"][step] = watched(output, ended)
        return document
    return {**document, **counted(output, ended)}


def testcases(output: Path) -> list[ElementTree.Element] | None:
    """The test cases of a JUnit file; None where there is no file, or half of one, since pytest writes it when it ends."""
    try:
        return list(ElementTree.parse(output).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return None


def counted(output: Path, ended: Ended) -> dict[str, Any]:
    """The counts of a JUnit file. A run that left no file has counts of 0 and says why."""
    cases = testcases(output)
    if cases is None:
        reason = ended.reason
        return dict(passed=0, failed=0, skipped=0, failures=[], seconds=ended.seconds, complete=False, reason=reason)
    failures = [name(case) for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    messages = {name(case): message(case) for case in cases if name(case) in set(failures[:20])}
    return {
        "passed": len(cases) - len(failures) - skipped,
        "failed": len(failures),
        "skipped": skipped,
        "failures": failures[:MOST_FAILURES],
        "messages": messages,
        "seconds": round(ended.seconds, 1),
        "complete": not ended.cut and ended.code in (0, 1),
    }


def name(case: ElementTree.Element) -> str:
    """module::test[case], the module without its folders."""
    return f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"


def message(case: ElementTree.Element) -> str:
    """The first line of what went wrong."""
    for kind in ("failure", "error"):
        found = case.find(kind)
        if found is not None:
            return next(iter((found.get("message") or "").strip().splitlines()), kind)[:200]
    return ""


def watched(output: Path, ended: Ended) -> dict[str, Any]:
    """One tool's errors, from its summary line: "ERROR SUMMARY: 0 errors" or "RACECHECK SUMMARY: 0 hazards displayed (...)"."""
    text = output.read_text(errors="replace") if output.exists() else ""
    found = re.findall(r"SUMMARY: (\d+) (?:errors?|hazards?)", text)
    if not found:
        return {"status": "cut" if ended.cut else "failed", "seconds": round(ended.seconds, 1), "reason": ended.reason}
    errors = sum(map(int, found))
    lines = [line.strip("= ") for line in text.splitlines() if re.search(r"Invalid|hazard|Race|Error:", line)]
    first = lines[:5] if errors else []
    return {
        "status": "errors" if errors else "clean",
        "errors": errors,
        "seconds": round(ended.seconds, 1),
        "first": first,
    }
