"""How pictures are made: a figure, readable ticks, labels that do not touch, files that appear whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import hypot
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from convatlas.study.numbers import short

# hashsalt and no dates: the same picture is the same file.
STYLE = {"svg.hashsalt": "convatlas", "font.size": 10, "axes.axisbelow": True, "hatch.linewidth": 0.6}
FORMATS = ("svg", "png")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one plot, open at the top and the right, a faint grid behind it."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    return figure, axes


def short_ticks(axes: Axes, which: str, unit: str = "") -> None:
    """Ticks such as 10M for 10^7 on the axes named in `which` ("x", "y" or "xy"); minor ones unnamed."""
    for axis in (getattr(axes, f"{letter}axis") for letter in which):
        axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, unit)))
        axis.set_minor_formatter(NullFormatter())


def plain(value: float, unit: str) -> str:
    """ "10M", "100 kB": short() without the zeros behind the point."""
    number, _, rest = short(value, unit).partition(" ")
    letter = number[-1] if number[-1].isalpha() else ""
    digits = number.removesuffix(letter)
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{digits}{letter} {rest}".strip()


def place_labels(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes each point's name beside it, at the first of some places where it touches nothing and is nearest to its own point."""
    axes.figure.draw_without_rendering()  # so that positions are final
    centres = [tuple(axes.transData.transform((x, y))) for x, y, _ in points]
    taken = [Bbox.from_extents(x - 8, y - 8, x + 8, y + 8) for x, y in centres]
    edge = axes.get_window_extent()
    for (x, y, name), own in zip(points, centres):
        for dx, dy in PLACES:
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            offset = {"xytext": (dx, dy), "textcoords": "offset points"}
            text = axes.annotate(name, (x, y), **offset, ha=side, va="center", fontsize=8)
            box = text.get_window_extent().padded(1)
            free = edge.x0 < box.x0 and box.x1 < edge.x1 and not any(box.overlaps(other) for other in taken)
            if free and all(distance(box, own) <= distance(box, other) for other in centres):
                taken.append(box)
                break
            if (dx, dy) != PLACES[-1]:
                text.remove()


# Points (1/72 inch) from a mark to its name: right, left, above, below, and between; near ones first.
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 0.8), (1, -0.8), (-1, 0.8), (-1, -0.8))
PLACES = [(dx * r, dy * r) for r in (8, 11, 14, 18, 24) for dx, dy in DIRECTIONS]


def distance(box: Bbox, point: tuple[float, float]) -> float:
    """From a point to the nearest side of a box, 0 inside."""
    x, y = point
    return hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes folder/name.svg and .png; each under a temporary name first, so that nobody sees half a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in formats:
        path, partial = folder / f"{name}.{kind}", folder / f".{name}.{kind}.partial"
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with rc_context(STYLE):
            figure.savefig(partial, format=kind, dpi=150, metadata=metadata)
        os.replace(partial, path)
        written.append(path)
    return written
