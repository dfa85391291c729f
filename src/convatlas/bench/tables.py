"""What a benchmark run prints when it ends: a table a suite that fits 80 columns, each saying what its numbers are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convatlas.bench.host import TARGET, over_nets
from convatlas.results.standings import Race, mean, verdicts
from convatlas.results.stats import VERDICTS

MOST = 40  # rows of a table; the store has them all
WIDE = 100  # columns in a pipe, unless COLUMNS says otherwise


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


@dataclass(frozen=True)
class Section:
    """The table of one suite: a row a case, a column a contestant.

    Attributes:
        title: what its numbers are.
        first: the header of the cases.
        headers: of contestants that do not stand under their own names.
        show: a time as text.
        below: what is to be said under it.
        total: whether the last row is the sum of all, and the last column the last contestant's time over the first's.
        judged: whether our best stands against the best peer.
    """

    title: str
    first: str = "layer"
    headers: dict[str, str] = field(default_factory=dict)
    show: Callable[[float], str] = _ms
    below: tuple[str, ...] = ()
    total: bool = False
    judged: bool = False


# Of what a machine without a GPU measures, by suite.
SECTIONS = {
    "cpu": Section(
        "Measured on this CPU, {threads}, float32: ms a layer",
        headers={"reference": "NumPy", "triton": "Triton", "cuda": "CUDA C++"},
        below=(
            "torch: PyTorch's CPU kernels. NumPy: our reference, in float64. Triton: our",
            "kernel in Triton's interpreter. CUDA C++: our kernel compiled by g++. The last",
            "two show that a kernel is right; how fast it is on a GPU they do not show.",
        ),
    ),
    "compile": Section(
        "Measured on one core: seconds to compile a layer's kernels for an H100", show=lambda seconds: f"{seconds:.2f}"
    ),
    "reference": Section(
        "Measured on this CPU, {threads}, float32: ms a convolution of ResNet-50, batch 1",
        "convolution",
        {"reference": "NumPy"},
        below=("NumPy: our reference, in float32. torch: PyTorch's CPU kernels.",),
        total=True,
    ),
    "predicted": Section(
        "Predicted, not measured: the least ms a batch can take, float16 (roofline)",
        "network",
        below=(
            "From published peak rates: the longer of arithmetic and memory traffic, layer",
            "by layer. No kernel can be faster; real ones are slower.",
        ),
    ),
    "forward": Section(
        "Measured on this CPU: us of the host's time, with a driver that launches nothing",
        "",
        {"ordinary": "a first call", "prepared": "later ones", "launched": "graph launched", "call": "a plan's call"},
        _us,
        (
            f"The target of a later op is {1e6 * TARGET:.0f}. Triton's own dispatch, 20 to 100 us, is not in a first call's",
            "time, and the driver's launch, 1.3 to 3 us, in neither.",
        ),
    ),
}


def show(found: Iterable[Race], rehearsal: bool) -> None:
    """Prints a table for each suite that ran."""
    suites: dict[str, list[Race]] = {}
    for race in found:
        suites.setdefault(race.any.suite, []).append(race)
    if ops := suites.pop("host", []):
        suites["forward"] = over_nets(ops) + suites.get("forward", [])
    for suite, part in suites.items():
        _print(SECTIONS.get(suite) or _raced(part, rehearsal), part)


def _raced(part: Sequence[Race], rehearsal: bool) -> Section:
    """The section of a suite on a GPU. A rehearsal has no verdicts as a whole."""
    networks = part[0].kind == "network"
    what = "REHEARSAL: made-up times, nothing was measured" if rehearsal else f"Measured on {part[0].any.device}"
    unit = "ms a batch" if networks else "us a launch, device time"
    title = f"{what}: medians, {unit}; {part[0].get('cache')} cache, {part[0].any.how.rsplit(' ', 1)[-1]}"
    below = [f"... and {len(part) - MOST} more, which the JSON has"] if len(part) > MOST else []
    faster = None if rehearsal else mean(part, "quicker", "best")
    if faster is not None:
        counts = verdicts(part, "quicker", "best")
        said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
        below.append("ratio: the time of our best over that of the best peer; below 1 ours is faster")
        below.append(f"{counts.total()} cases: ours {said}; geometric mean of the ratios {1 / faster:.2f}")
    return Section(title, "case", show=_ms if networks else _us, below=tuple(below), judged=True)


def _ratio(seconds: Sequence[float]) -> str:
    return f"{seconds[-1] / seconds[0]:.2f}"


def _row(section: Section, race: Race, names: Sequence[str]) -> list[str]:
    medians = [section.show(race.entries[name].median) if name in race.entries else "-" for name in names]
    if section.total:
        medians.append(_ratio([race.entries[name].median for name in names]))
    if not section.judged:
        return [race.any.what, *medians]
    found = race.against("quicker", "best")
    ratio = [f"{found.ratio:.2f}", found.verdict] if found else ["-", "-"]
    return [f"{race.any.what} {race.get('dtype')}", *medians, *ratio]


def _print(section: Section, part: Sequence[Race]) -> None:
    """The table on stdout, in a pipe without colour; its first column is text that may fold."""
    absent = {} if section.judged else {name: why for race in part for name, why in race.absent.items()}
    names = list(dict.fromkeys([name for race in part for name in race.entries] + list(absent)))
    rows = [_row(section, race, names) for race in part[:MOST]]
    if section.total:
        sums = [sum(race.entries[name].median for race in part) for name in names]
        rows.append(["total", *map(section.show, sums), _ratio(sums)])
    threads = torch.get_num_threads()
    title = section.title.format(threads=f"{threads} thread{'s' * (threads > 1)}")
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(section.first, overflow="fold")
    for name in [
        *(section.headers.get(name, name) for name in names),
        *["ratio"] * (section.judged or section.total),
        *["verdict"] * section.judged,
    ]:
        table.add_column(name.replace("_", "\n").replace(" ", "\n", len(name) > 12), justify="right", no_wrap=True)
    for first, *cells in rows:
        table.add_row(Text(first), *cells)
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or WIDE)
    out = Console(file=sys.stdout, width=width, highlight=False)
    why = dict.fromkeys(f"-: {reason}" for reason in absent.values())
    for line in ("", Text(title, style="bold"), "", table, *map(Text, (*section.below, *why))):
        out.print(line)
