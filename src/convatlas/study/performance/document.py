"""The texts of the page: docs/performance.md, a page a network, all layers as CSV, and the README's block.

The words stand in the templates beside this file (Jinja); what they are given is computed in results/standings.py.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from convatlas.files import marked
from convatlas.results import standings
from convatlas.results.standings import OURS, PEERS, Race, by_kind, furthest_behind, settings
from convatlas.results.stats import CONFIDENCE, THRESHOLD
from convatlas.study.numbers import short
from convatlas.study.performance.data import HEADLINE, Report

NONE = "No GPU result exists yet: nothing here is called fast."
WORST = 10
VERDICTS = ("faster", "same", "slower", "unsure")
NET_FORMS = ("ours_graph", "ours_eager", "ours_plan", "cudnn_graph", "cudnn_eager", "compile")


def times(ratio: float | None) -> str:
    """A speed-up: "1.37"."""
    return "" if ratio is None else f"{ratio:.2f}"


def micro(seconds: float | None) -> str:
    """Microseconds with three digits, or none behind the point from 100 on."""
    if seconds is None:
        return ""
    us = seconds * 1e6
    return f"{us:.0f}" if us >= 100 else f"{us:.1f}" if us >= 10 else f"{us:.2f}"


def mean(races: Sequence[Race], peer: str, ours: str = "auto") -> str:
    """Geometric mean of the speed-ups over `peer` where both ran."""
    return times(standings.mean(races, peer, ours))


def verdicts(races: Sequence[Race], peer: str) -> str:
    """ "31 / 4 / 12 / 2": layers on which ours is faster, the same, slower, unsure."""
    found = standings.verdicts(races, peer)
    return " / ".join(str(found[verdict]) for verdict in VERDICTS) if found else ""


def share(race: Race) -> str:
    """Bound over ours, in percent."""
    return f"{100 * race.bound / race.auto.median:.0f} %" if race.bound and race.auto else ""


def span(numbers: Sequence[float]) -> str:
    """ "4 to 8", or "4" where all are the same."""
    ends = dict.fromkeys(f"{number:.0f}" for number in (min(numbers), max(numbers)))
    return " to ".join(ends)


def by_precision(races: Sequence[Race]) -> dict[str, list[Race]]:
    names = dict.fromkeys(precision for precision, _ in settings(races))
    return {name: [race for race in races if race.setting[0] == name] for name in names}


def by_list(races: Sequence[Race]) -> list[tuple[str, str, list[Race]]]:
    """(published list, kind, races), all batch sizes together."""
    lists = dict.fromkeys(name for race in races for name in race.get("places") or {})
    groups = [
        (name, kind, [r for r in races if r.kind == kind and name in r.get("places")])
        for name in lists
        for kind in dict.fromkeys(kind for kind, _, _ in by_kind(races))
    ]
    return [group for group in groups if group[2]]


def losses(races: Sequence[Race]) -> list[Race]:
    """Those on which ours by `auto` is slower than the quicker peer beyond doubt, the largest ratio first."""
    return [race for race in furthest_behind(races) if race.against("quicker").verdict == "slower"]


def absent(races: Sequence[Race]) -> str:
    """Reasons why `auto` has no time, with their numbers."""
    reasons = Counter(next(iter((race.get("absent") or {}).values()), "not run") for race in races)
    return "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))


def clocks(report: Report) -> dict[str, Any]:
    """The ranges over all entries, and what held the clocks down in which share of them: clocks are never set by us."""
    found = [clocks for entry in report.results.entries if isinstance(clocks := entry.extra.get("clocks"), dict)]
    ranges = []
    for name, label, unit in (
        ("sm_mhz", "SM ", "MHz"), ("mem_mhz", "memory ", "MHz"), ("temperature_c", "", "degrees Celsius"), ("power_w", "", "W"),
    ):  # fmt: skip
        values = [clocks[name] for clocks in found if clocks.get(name) is not None]
        if values:
            ranges.append(f"{label}{span(values)} {unit}")
    reasons = Counter(reason for clocks in found for reason in clocks.get("throttle") or [])
    held = {reason: f"{100 * n / len(found):.0f} %" for reason, n in reasons.most_common()}
    return {"ranges": ranges, "held": held}


def forms(races: Sequence[Race]) -> list[str]:
    """The contestants of networks that ran, known ones first."""
    ran = {name for race in races for name in race.entries}
    return [name for name in NET_FORMS if name in ran] + sorted(ran - set(NET_FORMS))


def own_times(races: Sequence[Race], net: str, precision: str, form: str) -> dict[int, float]:
    """A network's seconds in one form, by batch size."""
    found = [r for r in races if r.get("spec").split(" ")[0] == net and r.setting[0] == precision and form in r.entries]
    return {race.setting[1]: race.entries[form].median for race in found}


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("convatlas.study.performance", "."), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    filters = (
        times,
        micro,
        mean,
        verdicts,
        share,
        span,
        by_precision,
        by_list,
        by_kind,
        losses,
        absent,
        own_times,
        clocks,
        forms,
        short,
    )
    environment.filters.update({function.__name__: function for function in filters})
    environment.filters["settings"] = settings
    environment.globals.update(
        ours=OURS,
        peers=(*PEERS, "quicker"),
        worst=WORST,
        confidence=100 * CONFIDENCE,
        threshold=100 * THRESHOLD,
        no_result=NONE,
    )
    return environment


def page(reports: Sequence[Report]) -> str:
    """docs/performance.md."""
    return _templates().get_template("performance.md.j2").render(reports=reports)


def network_page(report: Report, net: str) -> str:
    """Every layer of one network."""
    races = [race for race in report.layers if net in (race.get("places") or {})]
    return _templates().get_template("network.md.j2").render(report=report, net=net, races=races)


def headline(reports: Sequence[Report]) -> str:
    """The README's table: half precision, cold, by kind and batch, against the quicker peer, of the newest GPU."""
    measured = [report for report in reports if any(race.setting[0] == HEADLINE for race in report.layers)]
    if not measured:
        return NONE
    races = [race for race in measured[0].layers if race.setting[0] == HEADLINE]
    kinds = {
        kind: [r for r in races if r.kind == kind] for kind in dict.fromkeys(kind for kind, _, _ in by_kind(races))
    }
    rows = kinds | {
        "**all**": races,
        "of them, where cuDNN fuses": [race for race in races if "cudnn_fused" in race.entries],
    }
    given = {
        "report": measured[0],
        "precision": HEADLINE,
        "batches": [batch for _, batch in settings(races)],
        "rows": rows,
    }
    others = [report for report in reports if report is not measured[0]]
    return _templates().get_template("readme.md.j2").render(**given, others=others).rstrip("\n")


def block(readme: str, content: str) -> str:
    """The README with `content` between the markers. Raises InputError where it has none."""
    return marked(readme, "performance", content, "README.md")


def layers_csv(report: Report) -> str:
    """All layers, a line a race: what it is, all times in microseconds, the bound, and ours by `auto` against the quicker peer."""
    text = io.StringIO()
    rows = [_row(race) for races in report.suites.values() for race in races]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(race: Race) -> dict[str, Any]:
    """Numbers at the four digits that the store has."""
    found, bound, ours = race.against("quicker"), race.bound, race.auto
    described = {name: race.get(name) for name in ("op", "kind", "spec", "epilogue", "dtype", "batch", "cache", "form")}
    seconds = {name: race.entries[name].median if name in race.entries else None for name in (*OURS, *PEERS)}
    numbers = {f"{name}_us": value and value * 1e6 for name, value in seconds.items()}
    numbers |= {"bound_us": bound and bound * 1e6, "share_of_bound": bound / ours.median if bound and ours else None}
    numbers |= {"over_quicker": race.speedup("quicker")}
    return {
        "suite": race.any.suite,
        **described,
        "places": " ".join(f"{name}:{count}" for name, count in (race.get("places") or {}).items()),
        "auto": ours.contestant if ours else "",
        "bound_by": race.get("bound") or "",
        "verdict": found.verdict if found else "",
        **{name: "" if value is None else f"{value:.4g}" for name, value in numbers.items()},
    }
