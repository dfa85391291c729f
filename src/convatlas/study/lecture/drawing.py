"""How pictures are made: a figure, readable ticks, labels that do not touch, and files that are whole, small and readable."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from convatlas.files import whole
from convatlas.study.numbers import short

# hashsalt and no dates: the same picture is the same file. Text stays text, for search, screen readers and few bytes; Verdana,
# as wide as DejaVu Sans, which places are reckoned with, is on machines that lack it.
STYLE = {
    "svg.hashsalt": "convatlas",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 10,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
}
FORMATS = ("svg", "png")
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

# Colours that are told apart with every kind of colour vision: Okabe, Ito 2008, "Color Universal Design" (their yellow, faint on
# white, is left out), and where there are more things than that, with INDIGO and WINE of Tol 2021, "Colour Schemes", "muted".
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
INDIGO, WINE, GREY, VIOLET = "#332288", "#882255", "#777777", "#9911EE"


@dataclass(frozen=True)
class Drawing:
    """A figure, and its description for those who cannot see it.

    Attributes:
        title: one line.
        description: what a reader takes from the picture, its numbers included.
    """

    figure: Figure
    title: str
    description: str


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one plot, open at the top and the right, a faint grid behind it."""
    figure, (axes,) = new_panels(width, height, 1)
    return figure, axes


def new_panels(width: float, height: float, count: int) -> tuple[Figure, list[Axes]]:
    """The same with `count` plots beside each other, which share both axes."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#dddddd", linewidth=0.6)
    return figure, panels


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


def point_out(axes: Axes, points: Sequence[tuple[float, float, str]], crowd: Sequence[tuple[float, float]]) -> None:
    """Names some points of a crowd: each name where it and the line to its point touch no other name, and the name no point.

    A name for which there is no such place, within 240 points, is left out.
    """
    axes.figure.draw_without_rendering()  # so that positions are final
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in map(tuple, axes.transData.transform(crowd))]
    names = [text.get_window_extent() for text in axes.texts]
    edge, lines = axes.get_window_extent(), []
    for x, y, name in points:
        own = axes.transData.transform((x, y))
        for dx, dy in FAR:
            side, end = ("left", 0) if dx > 0 else ("right", 1) if dx < 0 else ("center", 0.5)
            text = axes.annotate(
                name, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=7, zorder=5,
                arrowprops={**LEADER, "relpos": (end, 0.5)}, in_layout=False,
            )  # fmt: skip
            text.update_positions(axes.figure.canvas.get_renderer())
            box = Text.get_window_extent(text).padded(1)  # without its line, which the annotation's own extent holds
            line = own + np.linspace(0, 1, 40)[:, None] * (
                np.array([box.x0 + end * box.width, (box.y0 + box.y1) / 2]) - own
            )
            inside = edge.x0 < box.x0 and box.x1 < edge.x1 and edge.y0 < box.y0 and box.y1 < edge.y1
            met = any(box.overlaps(other) for other in (*names, *taken)) or any(box.contains(*p) for p in lines)
            if inside and not met and not any(other.contains(*p) for other in names for p in line):
                names.append(box)
                lines.extend(line)
                break
            text.remove()


# From a point of a crowd to its name: twelve directions, those downwards first, for under a roof there is more room below.
FAR = sorted(
    (
        (dx * r, dy * r)
        for r in range(8, 240, 4)
        for dx, dy in (*DIRECTIONS, *((i, j) for i in (0.4, -0.4) for j in (1, -1)))
    ),
    key=lambda place: hypot(*place) * (2 if place[1] > 0 else 1),
)
LEADER = {"arrowstyle": "-", "linewidth": 0.5, "color": "#555555", "shrinkA": 1, "shrinkB": 2}


def distance(box: Bbox, point: tuple[float, float]) -> float:
    """From a point to the nearest side of a box, 0 inside."""
    x, y = point
    return hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


def save(drawing: Drawing, folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes folder/name.svg and .png, each whole or not at all."""
    written = []
    for kind in formats:
        written.append(folder / f"{name}.{kind}")
        with whole(written[-1]) as partial:
            partial.write_bytes(svg(drawing) if kind == "svg" else rendered(drawing.figure, kind, Software=None))
    return written


def rendered(figure: Figure, kind: str, **metadata: None) -> bytes:
    """The figure as a file of that kind, without the named entries of its metadata."""
    file = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return file.getvalue()


def svg(drawing: Drawing) -> bytes:
    """An SVG file with title and description; small: numbers at two decimals (1/7200 inch), each style once, groups of use."""
    root = xml.fromstring(rendered(drawing.figure, "svg", Date=None, Creator=None, Format=None, Type=None))
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    used = set(re.findall(r"#([\w-]+)", xml.tostring(root, encoding="unicode")))
    styles: dict[str, str] = {}
    for element in root.iter():
        element.text, element.tail = (element.text or "").strip(), ""
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if style := element.attrib.pop("style", ""):
            element.set("class", styles.setdefault(style, f"s{len(styles)}"))
        for name in {"d", "x", "y", "width", "height", "transform", "viewBox"}.intersection(element.keys()):
            element.set(name, NUMBER.sub(short_number, " ".join(element.get(name).split())))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    flatten(root)
    sheet = root.find(f".//{{{SVG}}}style")
    sheet.text += "".join(f"\n.{name}{{{style}}}" for style, name in styles.items())
    root.attrib |= {"role": "img", "aria-labelledby": "title desc"}
    for place, (tag, text) in enumerate((("title", drawing.title), ("desc", drawing.description))):
        element = xml.Element(f"{{{SVG}}}{tag}", {"id": tag})
        element.text = text
        root.insert(place, element)
    xml.indent(root, space="")
    xml.register_namespace("", SVG)
    xml.register_namespace("xlink", XLINK)
    return xml.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def flatten(parent: xml.Element) -> None:
    """Replaces groups without attributes by their content, and joins neighbouring groups with the same attributes."""
    children: list[xml.Element] = []
    for child in parent:
        flatten(child)
        for element in child if child.tag == f"{{{SVG}}}g" and not child.attrib else [child]:
            last = children[-1] if children else None
            if (
                element.tag == f"{{{SVG}}}g"
                and last is not None
                and (last.tag, last.attrib) == (element.tag, element.attrib)
            ):
                last.extend(element)
            else:
                children.append(element)
    parent[:] = children


NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def short_number(found: re.Match[str]) -> str:
    """ "12.3457" as "12.35"."""
    return f"{round(float(found[0]), 2) + 0.0:g}" if abs(float(found[0])) < 1e4 else found[0]
