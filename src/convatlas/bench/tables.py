"""What a benchmark run prints when it ends: short tables that fit 80 columns, each saying what its numbers are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convatlas.bench.cases import Case
from convatlas.bench.racing import Result, is_ours
from convatlas.bench.stats import compare, geometric_mean

MOST = 40  # rows of a race table; the store has them all
WIDE = 100  # columns in a pipe, unless COLUMNS says otherwise


def console() -> Console:
    """For stdout; in a pipe without colour."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or WIDE)
    return Console(file=sys.stdout, width=width, highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _titled(out: Console, title: str, table: Table, *below: str) -> None:
    out.print()
    out.print(Text(title, style="bold"))
    out.print()
    out.print(table)
    for text in below:
        out.print(Text(text))


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:.1f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def races(results: Sequence[tuple[Case, Result]], rehearsal: bool) -> None:
    """Medians of every contestant, and our best against the best peer. Prints nothing where nothing ran."""
    results = [(case, result) for case, result in results if result.measured]
    if not results:
        return
    out = console()
    what = "REHEARSAL: made-up times, nothing was measured" if rehearsal else f"Measured on {results[0][1].info['gpu']}"
    for networks in (False, True):
        part = [(case, result) for case, result in results if (case.layer is None) == networks]
        if part:
            unit = "ms a batch" if networks else "us a launch, device time"
            below = [f"... and {len(part) - MOST} more, which the JSON has"] if len(part) > MOST else []
            protocol = part[0][0].protocol
            title = f"{what}: medians, {unit}; {protocol.cache} cache, {protocol.form}"
            _titled(out, title, _races(part, networks), *below, *_summary(part, rehearsal))


def _best(result: Result, ours: bool) -> list[float]:
    """The samples of the quickest contestant of a side; empty where none was timed."""
    found = [m for name, m in result.measured.items() if is_ours(name) == ours and m.seconds]
    return min(found, key=lambda m: m.interval.median).seconds if found else []


def _short(case: Case) -> str:
    """A case's name without what a whole run has in common."""
    what = " ".join(part for part in (case.op, case.spec, case.epilogue) if part)
    return f"{what} {case.precision}"


def _races(part: Sequence[tuple[Case, Result]], networks: bool) -> Table:
    names = list(dict.fromkeys(name for _, result in part for name in result.measured))
    table = _table("case", *(name.replace("_", "\n") for name in names), "ratio", "verdict")
    for case, result in part[:MOST]:
        medians = {name: m.interval.median for name, m in result.measured.items()}
        show = _ms if networks else _us
        ours, peer = _best(result, True), _best(result, False)
        ratio = ("-", "-")
        if ours and peer:
            found = compare(ours, peer)
            ratio = f"{found.ratio:.2f}", found.verdict
        table.add_row(Text(_short(case)), *(show(medians.get(name)) for name in names), *ratio)
    return table


def _summary(part: Sequence[tuple[Case, Result]], rehearsal: bool) -> list[str]:
    """What the ratio is, and how the cases came out together, which a rehearsal does not say."""
    compared = [compare(ours, peer) for _, r in part if (ours := _best(r, True)) and (peer := _best(r, False))]
    if rehearsal or not compared:
        return []
    counts = {v: sum(c.verdict == v for c in compared) for v in ("faster", "same", "slower", "unsure")}
    said, mean = ", ".join(f"{n} {v}" for v, n in counts.items()), geometric_mean([c.ratio for c in compared])
    return [
        "ratio: the time of our best over that of the best peer; below 1 ours is faster",
        f"{len(compared)} cases: ours {said}; geometric mean of the ratios {mean:.2f}",
    ]


def cpu(
    layers: dict[str, tuple[str, dict[str, float]]],
    compiled: Sequence[dict[str, Any]],
    bounds: Sequence[dict[str, Any]],
) -> None:
    """The three tables of a machine without a GPU; an empty part is left out.

    Args:
        layers: by name, the layer in words and the median seconds of each way.
        compiled: records of compile_times.measure.
        bounds: records of cpu.bounds.
    """
    out, threads = console(), torch.get_num_threads()
    if layers:
        table = _table("layer", "torch", "NumPy", "Triton", "CUDA C++")
        for name, (spec, medians) in layers.items():
            cells = (_ms(medians.get(way)) for way in ("torch", "reference", "triton", "cuda"))
            table.add_row(Text(f"{name}: {spec}"), *cells)
        _titled(
            out,
            f"Measured on this CPU, {threads} thread{'s' * (threads > 1)}, float32: ms a layer",
            table,
            "torch: PyTorch's CPU kernels. NumPy: our reference, in float64. Triton: our",
            "kernel in Triton's interpreter. CUDA C++: our kernel compiled by g++. The last",
            "two show that a kernel is right; how fast it is on a GPU they do not show.",
        )
    if compiled:
        table = _table("layer", "Triton", "NVRTC")
        for name in dict.fromkeys(record["layer"] for record in compiled):
            by = {r["compiler"]: r.get("seconds") for r in compiled if r["layer"] == name}
            table.add_row(name, *("-" if by.get(c) is None else f"{by[c]:.2f}" for c in ("Triton", "NVRTC")))
        missing = dict.fromkeys(f"-: {record['missing']}" for record in compiled if "missing" in record)
        title = "Measured on one core: seconds to compile a layer's kernels for an H100"
        _titled(out, title, table, *missing)
    if bounds:
        gpus = list(dict.fromkeys(record["gpu"] for record in bounds))
        table = _table("network", *(gpu.replace(" ", "\n", 1) for gpu in gpus))
        for net, batch in dict.fromkeys((record["net"], record["batch"]) for record in bounds):
            cells = {r["gpu"]: r["seconds"] for r in bounds if (r["net"], r["batch"]) == (net, batch)}
            table.add_row(f"{net}, batch {batch}", *(_ms(cells[gpu]) for gpu in gpus))
        _titled(
            out,
            "Predicted, not measured: the least ms a batch can take, float16 (roofline)",
            table,
            "From published peak rates: the longer of arithmetic and memory traffic, layer",
            "by layer. No kernel can be faster; real ones are slower.",
        )
