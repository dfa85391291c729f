"""The page: what is shown, in which order. page.html.j2 lays it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convatlas.study.drawing import layer as parts
from convatlas.study.drawing.svg import STYLE, Svg
from convatlas.study.mapping import LayerMap, Map
from convatlas.study.numbers import short
from convatlas.study.report import charts
from convatlas.study.report.code import Code

if TYPE_CHECKING:
    from convatlas.study.summary import Summary

Measured = Mapping[tuple[str, str, str, str], float]


@dataclass(frozen=True)
class Column:
    """One column of the layer table: its key in a row of `map --json`, its head, and how a cell shows the exact number."""

    key: str
    head: str
    unit: str
    text: bool = False
    scale: float = 1.0
    digits: int = 0
    si: bool = False

    def cell(self, row: Mapping[str, Any]) -> str:
        """What is shown; the exact number stands beside it for sorting."""
        value = row[self.key]
        if value is None or value == "":
            return ""
        if self.text:
            return str(value)
        return short(value) if self.si else f"{value * self.scale:,.{self.digits}f}"


COLUMNS = (
    Column("path", "layer", "", text=True),
    Column("kind", "kind", "", text=True),
    Column("spec", "shape", "", text=True),
    Column("kernel", "kernel", "", text=True),
    Column("tile", "tile", "", text=True),
    Column("grid", "grid", "blocks"),
    Column("registers", "registers", "a thread"),
    Column("shared_bytes", "shared", "KB a block", scale=1 / 1024),
    Column("occupancy", "occupancy", "%", scale=100),
    Column("waves", "waves", "", digits=2),
    Column("idle_last_wave", "tail idle", "%", scale=100),
    Column("tile_waste", "waste", "%", scale=100, digits=1),
    Column("flops", "FLOPs", "", si=True),
    Column("bytes", "bytes", "", si=True),
    Column("intensity", "intensity", "FLOPs a byte", digits=1),
    Column("bound_seconds", "bound", "us", scale=1e6, digits=1),
    Column("predicted_seconds", "predicted", "us", scale=1e6, digits=1),
    Column("measured_seconds", "measured", "us", scale=1e6, digits=1),
    Column("limiter", "limited by", "", text=True),
)


def key(layer: Any, backend: str) -> tuple[str, str, str, str]:
    """By which a measured time is found: op, spec, what is fused behind it, backend."""
    return layer.op, str(layer.spec), str(layer.epilogue or "").replace(" ", ""), backend


def page(
    found: Map,
    summary: Summary,
    code: Mapping[tuple, Code] | None = None,
    measured: Measured | None = None,
    source: str = "",
) -> str:
    """The page's HTML.

    Args:
        found: the map, whose as_dict() every number is read from.
        summary: the same net's, for its wiring and its memory.
        code: of layers by their key; None leaves code out.
        measured: seconds by `key`.
        source: what measured them, in words: GPU, file.
    """
    document = found.as_dict()
    rows = document["layers"]
    for i, (row, one) in enumerate(zip(rows, found.layers)):
        row["id"] = f"layer-{i}"
        row["path"] = row["path"] or row["op"]
        row["measured_seconds"] = (measured or {}).get(key(one.layer, one.backend))
    columns = [c for c in COLUMNS if c.key != "measured_seconds" or measured is not None]
    environment = Environment(
        loader=PackageLoader("convatlas.study.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters["letters"] = charts.letters
    texts: dict[str, str] = {}
    layers = [_layer(found, row, one, code, texts) for row, one in _distinct(found, rows)]
    return environment.get_template("page.html.j2").render(
        document=document, rows=rows, columns=columns, style=Markup(STYLE), gpu=found.gpu, source=source,
        charts={
            "net": Markup(charts.network(rows, summary)), "roofline": Markup(charts.roofline(rows, found, measured is not None)),
            "waves": Markup(charts.waves(rows, found.gpu.sms)), "memory": Markup(charts.memory(rows, summary)),
        },
        layers=layers, texts=texts, peak=summary.peak_bytes,
        compared=[(row, row["measured_seconds"]) for row in rows if row["measured_seconds"]],
    )  # fmt: skip


def _distinct(found: Map, rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], LayerMap]]:
    """The first of equal layers, which carries all their paths."""
    first: dict[tuple, dict[str, Any]] = {}
    chosen = []
    for row, one in zip(rows, found.layers):
        if one.layer.key in first:
            first[one.layer.key]["paths"].append(row["path"])
            row["shown_at"] = first[one.layer.key]["id"]
        else:
            first[one.layer.key] = row
            row["paths"], row["shown_at"] = [row["path"]], row["id"]
            chosen.append((row, one))
    return chosen


def _layer(
    found: Map, row: dict[str, Any], one: LayerMap, code: Mapping[tuple, Code] | None, texts: dict[str, str]
) -> dict[str, Any]:
    """A layer's section; long texts that several layers share stand once in the page, by their name."""
    picture = Svg(f"{row['path']}: {row['spec']}")
    parts.tiles(picture, one)
    parts.occupancy(picture, one)
    panes = []
    for pane in code[one.layer.key].panes if code else ():
        texts.setdefault(pane.name, pane.text)
        panes.append(pane)
    return {"row": row, "picture": Markup(picture.markup), "panes": panes, "note": one.note}
