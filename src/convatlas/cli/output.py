"""How commands print: consoles that suit a terminal, a narrow terminal and a pipe; JSON; and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress

NARROW = 64  # columns below which a table keeps only its name and its numbers
PIPE_WIDTH = 1000  # wider than any line of ours: a pipe gets whole lines


def console() -> Console:
    """The console for stdout: as wide as the terminal; in a pipe without colour, and without a width at which to wrap or cut."""
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


class Shown:
    """Progress that is shown: called with (what, done, total); a total of 0 means that it is not known."""

    def __init__(self, bar: Progress | None = None, title: str = "", width: int = 30) -> None:
        self.bar, self.width = bar, width
        self.task = None if bar is None else bar.add_task(title, total=None)

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bar is not None:
            self.bar.update(
                self.task, description=what[: self.width].ljust(self.width), completed=done, total=total or None
            )

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hides the progress while a line is printed on stdout, which may be the same terminal."""
        if self.bar is not None:
            self.bar.stop()
        yield
        if self.bar is not None:
            self.bar.start()


@contextmanager
def progress(title: str, width: int = 30, quiet: bool = False) -> Iterator[Shown]:
    """Shows progress on stderr, in `width` columns and a bar, while it is a terminal; nothing elsewhere or where `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield Shown()
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Shown(bar, title, width)
