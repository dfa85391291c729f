"""Tables of numbers: the columns that a terminal has room for, and the same rows as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from convatlas.cli import output

JSON_HELP, CSV_HELP = "Print JSON, exact numbers.", "Print CSV, exact numbers."


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        header: printed above it.
        cells: one a row.
        drop: where the terminal is too narrow, the columns with the highest number are left out first, together; those with 0 stay.
        text: the column holds words, which stand left and may fold; else numbers.
    """

    header: str
    cells: Sequence[str]
    drop: int = 0
    text: bool = False


def show(console: Console, columns: Sequence[Column]) -> list[str]:
    """Prints the columns that fit the console's width, and returns the headers of those that do not."""
    chosen, dropped = list(columns), []
    unlimited = console.options.update(width=100 * output.PIPE_WIDTH)  # a measurement never exceeds its options' width
    while True:
        table = _table(chosen)
        last = max(c.drop for c in chosen)
        if not last or Measurement.get(console, unlimited, table).maximum <= console.width:
            console.print(table)
            return dropped
        dropped = [c.header.replace("-\n", "").replace("\n", " ") for c in chosen if c.drop == last] + dropped
        chosen = [c for c in chosen if c.drop != last]


def _table(columns: Sequence[Column]) -> Table:
    table = output.table(*(c.header if c.text else (c.header, "right") for c in columns))
    for cells in zip(*(c.cells for c in columns)):
        table.add_row(*(output.plain(cell) for cell in cells))
    return table


def not_shown(dropped: list[str]) -> str:
    """The line under a table that names the columns for which there was no room; "" where every column fitted."""
    return f"not shown for want of room: {', '.join(dropped)} (a wider terminal, a pipe, --json and --csv have them)"


def print_csv(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rows on stdout, the first row's keys as the first line. A field that a row lacks is empty."""
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def one_format(json: bool, as_csv: bool) -> None:
    """Refuses --json together with --csv."""
    if json and as_csv:
        raise typer.BadParameter("--json and --csv: give one of them")
