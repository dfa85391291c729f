"""How the output of a step is taken into its stage's file, and kept small."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from convatlas.bench.suite import verification
from convatlas.bench.suite.process import Ended
from convatlas.bench.suite.state import read_json, rounded
from convatlas.errors import InputError

MOST_BYTES = 8 * 2**20
BUDGET = "time budget"  # in the reason of what benchmarks/conftest.py skips
DIGITS = 5  # of a time: four would already be finer than any clock here


def written(output: Path) -> Any:
    """What a step wrote; None where that is nothing, or half a file: pytest-benchmark, which may be killed, writes in place."""
    try:
        return read_json(output)
    except InputError:
        return None


def replace(document: Any, step: str, output: Path, ended: Ended) -> Any:
    """The step's document instead of what was there."""
    found = written(output)
    return document if found is None else found


def add_profile(document: Any, step: str, output: Path, ended: Ended) -> Any:
    """{"nets": {name: profile}}."""
    found = written(output)
    if found is None:
        return document
    nets = {} if document is None else document["nets"]
    return {**found, "nets": {**nets, **found["nets"]}}


def add_benchmarks(document: Any, step: str, output: Path, ended: Ended) -> Any:
    """pytest-benchmark's document with the entries of every step: one measured again takes its earlier one's place.

    Beside them, by step: "failures", what was computed wrongly and therefore not timed, and "skipped", how many for which reason.
    """
    found, cases = written(output), verification.testcases(junit_of(output))
    if found is None and cases is None:
        return document
    found = found or {"benchmarks": []}  # pytest-benchmark writes nothing where nothing was timed
    document = document or {"benchmarks": []}
    entries = {key(entry): entry for entry in document["benchmarks"]}
    entries.update((key(entry), slim(entry)) for entry in found["benchmarks"])
    why = {name: document.get(name, {}) for name in ("failures", "skipped")}
    if cases is not None:
        why["failures"] = {**why["failures"], step: verification.counted(junit_of(output), ended)["messages"]}
        why["skipped"] = {**why["skipped"], step: dict(skips(cases))}
    return thinned({**document, **found, **why, "benchmarks": list(entries.values())})


def skips(cases: Iterable[ElementTree.Element]) -> Counter[str]:
    """How many test cases were skipped for which reason, the most frequent first."""
    found = [case.find("skipped") for case in cases]
    return Counter(dict(Counter(each.get("message") or "" for each in found if each is not None).most_common()))


def cut_short(output: Path) -> str:
    """How many cases of a benchmark run its --seconds cut, "" for none: benchmarks/conftest.py skips them and says so."""
    found = skips(verification.testcases(junit_of(output)) or ())
    cut = sum(number for reason, number in found.items() if BUDGET in reason)
    return f"{cut} benchmarks cut by the time" if cut else ""


def junit_of(output: Path) -> Path:
    """Where a benchmark run puts its JUnit file, beside its output."""
    return output.with_name(f"{output.name}.xml")


def key(entry: dict[str, Any]) -> tuple[str, str, str]:
    """What an entry is of."""
    info = entry["extra_info"]
    return str(info.get("suite")), str(entry.get("group")), str(info.get("contestant"))


def slim(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without pytest-benchmark's settings and outlier statistics, which our reports do not read; its times stay."""
    stats = ("min", "max", "mean", "stddev", "median", "iqr", "rounds", "iterations", "data")
    names = ("name", "fullname", "group", "params", "extra_info")
    kept = {name: entry[name] for name in names if name in entry}
    return rounded({**kept, "stats": {name: entry["stats"][name] for name in stats if name in entry["stats"]}}, DIGITS)


def thinned(document: dict[str, Any], most: int = MOST_BYTES) -> dict[str, Any]:
    """The document below `most` bytes: every second time of every entry is left out, as often as "thinned" says."""
    while len(json.dumps(document, separators=(",", ":"))) > most:
        longest = max(len(entry["stats"].get("data", ())) for entry in document["benchmarks"])
        if longest <= 1:
            break
        for entry in document["benchmarks"]:
            entry["stats"]["data"] = entry["stats"].get("data", [])[::2]
        document = {**document, "thinned": document.get("thinned", 0) + 1}
    return document
