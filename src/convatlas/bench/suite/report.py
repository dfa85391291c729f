"""The summary that ends a run: what was measured on what, what failed, where we stand against cuDNN, what the budget cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from convatlas.bench.profile import of_races
from convatlas.bench.suite.outputs import read_json
from convatlas.bench.suite.runner import STATE
from convatlas.bench.suite.stages import STAGES
from convatlas.results.standings import PEERS, Race, by_kind, furthest_behind, mean, races_of, verdicts
from convatlas.results.stats import geometric_mean
from convatlas.results.store import entries_of

MOST = 10_000  # characters
LINE = 300
SUITES = ("layers", "networks", "training")
PROFILED = "float16", 32  # the precision and batch by which networks are profiled


def failed(out: Path) -> bool:
    """Whether a stage failed, a test did, or something was computed wrongly."""
    stages = (read_json(out / STATE) or {"stages": {}})["stages"].values()
    tests = read_json(out / "tests.json") or {}
    watched = [tool for tool in tests.get("sanitizer", {}).values() if isinstance(tool, dict)]
    return (
        any(entry["status"] == "failed" for entry in stages)
        or any(wrong(read_json(out / f"{name}.json") or {}) for name in SUITES)
        or bool(tests.get("failed"))
        or any(tool["status"] == "errors" for tool in watched)
    )


def summary(out: Path) -> str:
    """Fewer than MOST characters: the long parts come last and are cut there."""
    found = {stage.name: read_json(out / stage.file) for stage in STAGES}
    races = {name: races_of(entries_of(found[name]["benchmarks"])) if found[name] else [] for name in SUITES}
    template = Environment(loader=PackageLoader("convatlas.bench.suite", "."), trim_blocks=True, lstrip_blocks=True)
    functions = (wrong, failures, skipped, standing, behind, geometric_mean)
    template.filters.update({function.__name__: function for function in functions})
    state = read_json(out / STATE) or {"rehearsal": False, "stages": {}}
    profiles = of_races(races["layers"], races["networks"], *PROFILED)
    given = dict(races=races, profiles=profiles, state=state, known=STAGES)
    text = template.get_template("summary.txt.j2").render(**found, **given)
    return clipped(text.rstrip().splitlines())


def clipped(lines: Sequence[str]) -> str:
    """The lines, none longer than LINE, that fit into MOST, and a last one that says how many did not."""
    text, kept = "", 0
    for line in lines:
        if len(text) + len(line[:LINE]) + 1 > MOST - 60:
            return f"{text}... {len(lines) - kept} more lines: see the JSON files\n"
        text, kept = f"{text}{line[:LINE].rstrip()}\n", kept + 1
    return text


def failures(tests: dict[str, Any]) -> list[str]:
    """The tests that failed most often, with some of their cases."""
    names = [name.partition("[") for name in tests.get("failures", [])]
    lines = []
    for test, cases in Counter(test for test, _, _ in names).most_common(12):
        some = [case.rstrip("]") for name, _, case in names if name == test][:8]
        lines.append(f"{test}: {cases} cases: {', '.join(some)}{' ...' * (cases > len(some))}")
    return lines


def wrong(found: dict[str, Any]) -> list[str]:
    """Lines on what was computed wrongly, and therefore has no time."""
    return [f"{name}: {text}" for step in found.get("failures", {}).values() for name, text in step.items()]


def skipped(found: dict[str, Any]) -> list[str]:
    """Lines on the benchmarks without a time: how many for which reason, the most frequent first."""
    reasons: Counter[str] = Counter()
    for step in found.get("skipped", {}).values():
        reasons.update(step)
    return [f"{number} without a time: {reason}" for reason, number in reasons.most_common(6)]


def standing(races: Sequence[Race]) -> list[str]:
    """A line a kind of layer, precision and batch: our quicker backend against each peer."""
    lines = []
    for kind, (precision, batch), group in by_kind([race for race in races if race.best]):
        parts = []
        for peer in PEERS:
            counts = verdicts(group, peer, "best")
            if number := sum(counts.values()):
                level = counts["same"] + counts["unsure"]
                won = f"{counts['faster']} won, {level} level or unsure, {counts['slower']} lost"
                parts.append(f"{peer} {mean(group, peer, 'best'):.2f} of {number} ({won})")
        lines.append(f"{kind} {precision} batch {batch}: {len(group)} layers; {'; '.join(parts) or 'no peer'}")
    return lines


def behind(races: Sequence[Race]) -> list[Race]:
    """The ten that our quicker backend loses by most, or wins by least."""
    return furthest_behind(races, "best")[:10]
