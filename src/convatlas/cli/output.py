"""What commands print with: consoles that suit a terminal, a narrow one and a pipe, JSON, and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

NARROW = 64  # columns below which a table keeps only its name and its numbers
PIPE_WIDTH = 1000  # wider than any line of ours: a pipe gets whole lines


def console() -> Console:
    """For stdout: as wide as the terminal; in a pipe without colour and without a width to wrap or cut at."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def table(*columns: str | tuple[str, str]) -> Table:
    """A plain table. A column is a text column that may fold, or (header, "right"), numbers that are never cut."""
    result = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        if isinstance(column, tuple):
            result.add_column(column[0], justify=column[1], no_wrap=True)
        else:
            result.add_column(column, overflow="fold")
    return result


def plain(text: str, style: str = "") -> Text:
    """Text as it is: rich would read [brackets] in a file name as markup."""
    return Text(text, style=style)


def number(x: float) -> str:
    """Three significant digits, for a table."""
    return f"{x:.3g}"


def print_json(data: Any) -> None:
    """One JSON document on stdout. Infinity and NaN, which JSON lacks, become the strings "inf", "-inf" and "nan"."""
    print(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A function (what, done, total) that shows progress on stderr while it is a terminal, and nothing elsewhere.

    A total of 0 means that it is not known.
    """
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda what, done, total: bar.update(
            task, description=what[:30].ljust(30), completed=done, total=total or None
        )
