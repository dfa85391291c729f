"""How the output of a step is taken into its stage's file, and kept small: pytest's JUnit and JSON files, a sanitizer's log."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from convatlas.bench.suite.process import Ended
from convatlas.errors import InputError
from convatlas.results.store import rounded

# Merge(document so far or None, step, path of the step's output, how it ended) -> (the document, None for nothing to write; what is
# missing although the command ended by itself, "" for nothing).
Merge = Callable[[Any, str, Path, Ended], tuple[Any, str]]
MOST_BYTES = 8 * 2**20
BUDGET = "time budget"  # in the reason of what benchmarks/conftest.py skips
DIGITS = 5  # of a time: four would already be finer than any clock here
MOST_FAILURES = 200
SANITIZER, PLACES = "compute-sanitizer", ("/usr/local/cuda/bin", "/opt/cuda/bin")
TOOLS = ("memcheck", "racecheck")
# Of pytest-benchmark's entries; its settings and outlier statistics are read by none of our reports.
KEPT = ("name", "fullname", "group", "params", "extra_info")
STATS = ("min", "max", "mean", "stddev", "median", "iqr", "rounds", "iterations", "data")


def read_json(path: Path) -> Any:
    """The document in `path`, None where there is no such file. Raises InputError for a file that is no JSON."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}, expected a JSON file of this suite; remove it to measure anew") from None


def written(output: Path) -> Any:
    """What a step wrote; None where that is nothing, or half a file: pytest-benchmark, which may be killed, writes in place."""
    try:
        return read_json(output)
    except InputError:
        return None


def replace(document: Any, step: str, output: Path, ended: Ended) -> tuple[Any, str]:
    """The step's document instead of what was there."""
    found = written(output)
    return (document if found is None else found), ""


def add_benchmarks(document: Any, step: str, output: Path, ended: Ended) -> tuple[Any, str]:
    """pytest-benchmark's document with the entries of every step: one measured again takes its earlier one's place.

    Beside them, by step: "failures", what was computed wrongly and therefore not timed, and "skipped", how many for which reason.
    """
    found, cases = written(output), testcases(junit_of(output))
    if found is None and cases is None:
        return document, ""
    found = found or {"benchmarks": []}  # pytest-benchmark writes nothing where nothing was timed
    document = document or {"benchmarks": []}
    entries = {key(entry): entry for entry in document["benchmarks"]}
    entries.update((key(entry), slim(entry)) for entry in found["benchmarks"])
    why, reasons = {name: document.get(name, {}) for name in ("failures", "skipped")}, skips(cases or ())
    if cases is not None:
        why["failures"] = {**why["failures"], step: failed(cases)}
        why["skipped"] = {**why["skipped"], step: dict(reasons)}
    cut = sum(number for reason, number in reasons.items() if BUDGET in reason)
    missing = f"{cut} benchmarks cut by the time" if cut else ""
    return thinned({**document, **found, **why, "benchmarks": list(entries.values())}), missing


def add_tests(document: Any, step: str, output: Path, ended: Ended) -> tuple[Any, str]:
    """{"passed", "failed", "skipped", "failures", "messages", "seconds", "complete", "sanitizer": {tool: {...}}}."""
    document = document or {"sanitizer": {} if sanitizer() else {"absent": f"{SANITIZER} is not installed"}}
    if step in TOOLS:
        document["sanitizer"][step] = watched(output, ended)
        return document, ""
    return {**document, **counted(output, ended)}, ""


def sanitizer() -> str | None:
    """The path of compute-sanitizer, None where it is not installed."""
    return next((found for place in (None, *PLACES) if (found := shutil.which(SANITIZER, path=place))), None)


def junit_of(output: Path) -> Path:
    """Where a benchmark run puts its JUnit file, beside its output."""
    return output.with_name(f"{output.name}.xml")


def testcases(output: Path) -> list[ElementTree.Element] | None:
    """The test cases of a JUnit file; None where there is no file, or half of one, since pytest writes it when it ends."""
    try:
        return list(ElementTree.parse(output).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return None


def skips(cases: Iterable[ElementTree.Element]) -> Counter[str]:
    """How many test cases were skipped for which reason, the most frequent first."""
    found = Counter(each.get("message") or "" for case in cases if (each := case.find("skipped")) is not None)
    return Counter(dict(found.most_common()))


def failed(cases: Iterable[ElementTree.Element]) -> dict[str, str]:
    """module::test[case], the module without its folders, and the first line of what went wrong."""
    found = {}
    for case in cases:
        for kind in ("failure", "error"):
            if (each := case.find(kind)) is not None:
                name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
                found.setdefault(name, next(iter((each.get("message") or "").strip().splitlines()), kind)[:200])
    return found


def counted(output: Path, ended: Ended) -> dict[str, Any]:
    """The counts of a JUnit file. A run that left no file has counts of 0 and says why."""
    cases = testcases(output)
    if cases is None:
        none = dict(passed=0, failed=0, skipped=0, failures=[], messages={}, complete=False)
        return {**none, "seconds": round(ended.seconds, 1), "reason": ended.reason}
    failures, skipped = failed(cases), skips(cases).total()
    return {
        "passed": len(cases) - len(failures) - skipped, "failed": len(failures), "skipped": skipped,
        "failures": list(failures)[:MOST_FAILURES], "messages": dict(list(failures.items())[:20]),
        "seconds": round(ended.seconds, 1), "complete": not ended.cut and ended.code in (0, 1),
    }  # fmt: skip


def watched(output: Path, ended: Ended) -> dict[str, Any]:
    """One tool's errors, from its summary line: "ERROR SUMMARY: 0 errors" or "RACECHECK SUMMARY: 0 hazards displayed (...)"."""
    text, seconds = output.read_text(errors="replace") if output.exists() else "", round(ended.seconds, 1)
    found = re.findall(r"SUMMARY: (\d+) (?:errors?|hazards?)", text)
    if not found:
        return {"status": "cut" if ended.cut else "failed", "seconds": seconds, "reason": ended.reason}
    errors = sum(map(int, found))
    lines = [line.strip("= ") for line in text.splitlines() if re.search(r"Invalid|hazard|Race|Error:", line)]
    status = "errors" if errors else "clean"
    return {"status": status, "errors": errors, "seconds": seconds, "first": lines[:5] if errors else []}


def key(entry: dict[str, Any]) -> tuple[str, str, str]:
    """What an entry is of."""
    info = entry["extra_info"]
    return str(info.get("suite")), str(entry.get("group")), str(info.get("contestant"))


def slim(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without what none of our reports reads; its times stay."""
    kept = {name: entry[name] for name in KEPT if name in entry}
    return rounded({**kept, "stats": {name: entry["stats"][name] for name in STATS if name in entry["stats"]}}, DIGITS)


def thinned(document: dict[str, Any]) -> dict[str, Any]:
    """The document below MOST_BYTES: every second time of every entry is left out, as often as "thinned" says."""
    while len(json.dumps(document, separators=(",", ":"))) > MOST_BYTES:
        if max(len(entry["stats"].get("data", ())) for entry in document["benchmarks"]) <= 1:
            break
        for entry in document["benchmarks"]:
            entry["stats"]["data"] = entry["stats"].get("data", [])[::2]
        document = {**document, "thinned": document.get("thinned", 0) + 1}
    return document
