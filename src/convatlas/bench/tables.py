"""What a benchmark run prints when it ends: a table a suite that fits 80 columns, each saying what its numbers are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convatlas.bench.host import TARGET, over_nets
from convatlas.results.standings import Race, mean, verdicts
from convatlas.results.stats import VERDICTS

MOST = 40  # rows of a race table; the store has them all
WIDE = 100  # columns in a pipe, unless COLUMNS says otherwise


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


@dataclass(frozen=True)
class Section:
    """The table of one suite that a machine without a GPU measures.

    Attributes:
        title: what its numbers are.
        first: the header of the cases.
        headers: of the contestants, by name; those without one stand under their own name.
        show: a time as text.
        below: what is to be said under it.
        total: whether the last row is the sum of all.
    """

    title: str
    first: str
    headers: dict[str, str]
    show: Callable[[float], str] = _ms
    below: tuple[str, ...] = ()
    total: bool = False


SECTIONS = {
    "cpu": Section(
        "Measured on this CPU, {threads}, float32: ms a layer",
        "layer",
        {"reference": "NumPy", "triton": "Triton", "cuda": "CUDA C++"},
        below=(
            "torch: PyTorch's CPU kernels. NumPy: our reference, in float64. Triton: our",
            "kernel in Triton's interpreter. CUDA C++: our kernel compiled by g++. The last",
            "two show that a kernel is right; how fast it is on a GPU they do not show.",
        ),
    ),
    "compile": Section(
        "Measured on one core: seconds to compile a layer's kernels for an H100",
        "layer",
        {},
        lambda seconds: f"{seconds:.2f}",
    ),
    "reference": Section(
        "Measured on this CPU, {threads}, float32: our NumPy reference against torch, ms a convolution of ResNet-50, batch 1",
        "convolution",
        {"reference": "NumPy"},
        total=True,
    ),
    "predicted": Section(
        "Predicted, not measured: the least ms a batch can take, float16 (roofline)",
        "network",
        {},
        below=(
            "From published peak rates: the longer of arithmetic and memory traffic, layer",
            "by layer. No kernel can be faster; real ones are slower.",
        ),
    ),
    "forward": Section(
        "Measured on this CPU: us of the host's time, with a driver that launches nothing",
        "",
        {"ordinary": "a first call", "prepared": "later ones"},
        _us,
        (
            f"The target of a later op is {1e6 * TARGET:.0f}. Triton's own dispatch, 20 to 100 us, is not in a first call's",
            "time, and the driver's launch, 1.3 to 3 us, in neither.",
        ),
    ),
}


def show(found: Iterable[Race], rehearsal: bool) -> None:
    """Prints a table for each suite that ran, the layers' and networks' with our best against the best peer."""
    suites: dict[str, list[Race]] = {}
    for race in found:
        if race.entries:
            suites.setdefault(race.any.suite, []).append(race)
    if ops := suites.pop("host", []):
        suites["forward"] = over_nets(ops) + suites.get("forward", [])
    for suite, part in suites.items():
        if suite in SECTIONS:
            _section(SECTIONS[suite], part)
        else:
            _races(part, rehearsal)


def _names(part: Sequence[Race]) -> list[str]:
    return list(dict.fromkeys(name for race in part for name in [*race.entries, *race.absent]))


def _medians(race: Race, names: Sequence[str], text: Callable[[float], str]) -> list[str]:
    return [text(race.entries[name].median) if name in race.entries else "-" for name in names]


def _section(section: Section, part: Sequence[Race]) -> None:
    names, threads = _names(part), torch.get_num_threads()
    rows = [[race.any.what, *_medians(race, names, section.show)] for race in part]
    if section.total:
        sums = [sum(race.entries[name].median for race in part if name in race.entries) for name in names]
        rows.append(["total", *map(section.show, sums)])
    why = dict.fromkeys(f"-: {reason}" for race in part for reason in race.absent.values())
    title = section.title.format(threads=f"{threads} thread{'s' * (threads > 1)}")
    headers = [section.headers.get(name, name.replace(" ", "\n", 1)) for name in names]
    _print(title, [section.first, *headers], rows, *section.below, *why)


def _races(part: Sequence[Race], rehearsal: bool) -> None:
    networks = part[0].kind == "network"
    what = "REHEARSAL: made-up times, nothing was measured" if rehearsal else f"Measured on {part[0].any.device}"
    unit = "ms a batch" if networks else "us a launch, device time"
    title = f"{what}: medians, {unit}; {part[0].get('cache')} cache, {part[0].any.how.rsplit(' ', 1)[-1]}"
    names = list(dict.fromkeys(name for race in part for name in race.entries))
    rows = []
    for race in part[:MOST]:
        found = race.against("quicker", "best")
        ratio = [f"{found.ratio:.2f}", found.verdict] if found else ["-", "-"]
        name = f"{race.any.what} {race.get('dtype')}"
        rows.append([name, *_medians(race, names, _ms if networks else _us), *ratio])
    below = [f"... and {len(part) - MOST} more, which the JSON has"] if len(part) > MOST else []
    header = ["case", *(name.replace("_", "\n") for name in names), "ratio", "verdict"]
    _print(title, header, rows, *below, *([] if rehearsal else _standing(part)))


def _standing(part: Sequence[Race]) -> list[str]:
    """What the ratio is, and how the cases came out together, which a rehearsal does not say."""
    counts, faster = verdicts(part, "quicker", "best"), mean(part, "quicker", "best")
    if faster is None:
        return []
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return [
        "ratio: the time of our best over that of the best peer; below 1 ours is faster",
        f"{sum(counts.values())} cases: ours {said}; geometric mean of the ratios {1 / faster:.2f}",
    ]


def _print(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *below: str) -> None:
    """A titled table on stdout, in a pipe without colour; its first column is text that may fold."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or WIDE)
    out = Console(file=sys.stdout, width=width, highlight=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(header[0], overflow="fold")
    for column in header[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    for first, *cells in rows:
        table.add_row(Text(first), *cells)
    for part in ("", Text(title, style="bold"), "", table, *map(Text, below)):
        out.print(part)
