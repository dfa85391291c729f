"""What a benchmark run prints when it ends: short tables that fit 80 columns, each saying what its numbers are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convatlas.bench.host import NETS, TARGET, WAYS, HostTime, over_nets
from convatlas.bench.standings import Race, mean, verdicts
from convatlas.bench.stats import VERDICTS

MOST = 40  # rows of a race table; the store has them all
WIDE = 100  # columns in a pipe, unless COLUMNS says otherwise


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


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:.1f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def races(found: Sequence[Race], rehearsal: bool) -> None:
    """Medians of every contestant, and our best against the best peer. Prints nothing where nothing ran."""
    for networks in (False, True):
        part = [race for race in found if (race.kind == "network") == networks]
        if not part:
            continue
        what = "REHEARSAL: made-up times, nothing was measured" if rehearsal else f"Measured on {part[0].any.device}"
        unit = "ms a batch" if networks else "us a launch, device time"
        title = f"{what}: medians, {unit}; {part[0].get('cache')} cache, {part[0].any.how.rsplit(' ', 1)[-1]}"
        names = list(dict.fromkeys(name for race in part for name in race.entries))
        header = ["case", *(name.replace("_", "\n") for name in names), "ratio", "verdict"]
        below = [f"... and {len(part) - MOST} more, which the JSON has"] if len(part) > MOST else []
        rows = (_row(race, names, _ms if networks else _us) for race in part[:MOST])
        _print(title, header, rows, *below, *([] if rehearsal else _standing(part)))


def _row(race: Race, names: Sequence[str], show: Any) -> list[str]:
    medians = [show(race.entries[name].median) if name in race.entries else "-" for name in names]
    found = race.against("quicker", "best")
    ratio = [f"{found.ratio:.2f}", found.verdict] if found else ["-", "-"]
    return [f"{race.any.what} {race.get('dtype')}", *medians, *ratio]


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


def cpu(
    layers: dict[str, tuple[str, dict[str, float]]],
    compiled: Sequence[dict[str, Any]],
    bounds: Sequence[dict[str, Any]],
    host: Sequence[HostTime] = (),
    forwards: dict[str, HostTime] | None = None,
) -> None:
    """The tables of a machine without a GPU; an empty part is left out.

    Args:
        layers: by name, the layer in words and the median seconds of each way.
        compiled: records of compiling.measure.
        bounds: records of cpu.bounds.
        host, forwards: of host.host_times and host.forward_times.
    """
    threads = torch.get_num_threads()
    if layers:
        ways = ("torch", "reference", "triton", "cuda")
        _print(
            f"Measured on this CPU, {threads} thread{'s' * (threads > 1)}, float32: ms a layer",
            ["layer", "torch", "NumPy", "Triton", "CUDA C++"],
            ([f"{name}: {spec}", *(_ms(medians.get(way)) for way in ways)] for name, (spec, medians) in layers.items()),
            "torch: PyTorch's CPU kernels. NumPy: our reference, in float64. Triton: our",
            "kernel in Triton's interpreter. CUDA C++: our kernel compiled by g++. The last",
            "two show that a kernel is right; how fast it is on a GPU they do not show.",
        )
    if compiled:
        seconds = {(record["layer"], record["compiler"]): record.get("seconds") for record in compiled}
        cells = {key: "-" if value is None else f"{value:.2f}" for key, value in seconds.items()}
        names = dict.fromkeys(name for name, _ in cells)
        _print(
            "Measured on one core: seconds to compile a layer's kernels for an H100",
            ["layer", "Triton", "NVRTC"],
            ([name, cells.get((name, "Triton"), "-"), cells.get((name, "NVRTC"), "-")] for name in names),
            *dict.fromkeys(f"-: {record['missing']}" for record in compiled if "missing" in record),
        )
    if bounds:
        least = {(record["net"], record["batch"], record["gpu"]): record["seconds"] for record in bounds}
        gpus = list(dict.fromkeys(gpu for _, _, gpu in least))
        _print(
            "Predicted, not measured: the least ms a batch can take, float16 (roofline)",
            ["network", *(gpu.replace(" ", "\n", 1) for gpu in gpus)],
            (
                [f"{net}, batch {batch}", *(_ms(least[net, batch, gpu]) for gpu in gpus)]
                for net, batch in dict.fromkeys((net, batch) for net, batch, _ in least)
            ),
            "From published peak rates: the longer of arithmetic and memory traffic, layer",
            "by layer. No kernel can be faster; real ones are slower.",
        )
    if host:
        rows = [(f"an op of {net}, median", *(_us(over_nets(host, way, net)) for way in WAYS)) for net in NETS]
        rows.append(("an op of both, median", *(_us(over_nets(host, way)) for way in WAYS)))
        rows += [
            (f"a forward of {name}", *(_us(t.median(way)) for way in WAYS)) for name, t in (forwards or {}).items()
        ]
        _print(
            "Measured on this CPU: us of the host's time, with a driver that launches nothing",
            ["", "a first call", "later ones"],
            rows,
            f"The target of a later op is {1e6 * TARGET:.0f}. Triton's own dispatch, 20 to 100 us, is not in a first call's",
            "time, and the driver's launch, 1.3 to 3 us, in neither.",
        )
