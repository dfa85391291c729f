"""The page's drawings: the net, the roofline, waves by time, memory over depth. From rows of `map --json`, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, log2, log10, prod
from typing import TYPE_CHECKING, Any

from convatlas.study.layer import IMAGE
from convatlas.study.numbers import short

if TYPE_CHECKING:
    from convatlas.study.mapping import Map
    from convatlas.study.summary import Summary

Row = dict[str, Any]
# A kind of layer: its letter, its colour class and the shape of its dot.
KINDS = {
    "1x1": ("1", "a", "circle"), "3x3 dense": ("3", "b", "square"), "dense": ("d", "b", "square"),
    "depthwise": ("w", "c", "triangle"), "grouped": ("g", "c", "diamond"), "stem": ("s", "b", "diamond"),
    "pooling": ("p", "none", "cross"), "residual add": ("+", "none", "plus"), "linear": ("f", "a", "triangle"),
    "transposed": ("t", "b", "triangle"),
}  # fmt: skip
OTHER = ("o", "none", "circle")


def _of(kind: str) -> tuple[str, str, str]:
    return KINDS.get(kind, OTHER)


def _svg(width: float, height: float, label: str, parts: Sequence[str], fixed: bool = False) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" ' if fixed else ""
    said = f'role="img" aria-label="{escape(label, quote=True)}"'
    head = f'<svg class="atlas" {said} {size}viewBox="0 0 {width:.0f} {height:.0f}">'
    return "\n".join([head, *parts, "</svg>"])


def _link(row: Row, drawn: str, text: str) -> str:
    """What leads to a row's layer, and says `text` to the pointer and to a screen reader."""
    text = escape(text, quote=True)
    return f'<a href="#{row["shown_at"]}" aria-label="{text}"><title>{text}</title>{drawn}</a>'


def _box(style: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def network(rows: Sequence[Row], summary: Summary) -> str:
    """A box an op from left to right: as high as its output's pixels, as wide as its channels, both by logarithm; arcs where an
    input comes from farther back than the op before."""
    shapes = [row.spec.output_shape for row in summary.rows]
    widths = [6 + 1.6 * log2(max(shape[1] if len(shape) > 1 else 1, 2)) for shape in shapes]
    heights = [10 + 8.5 * log2(max(prod(shape[2:]), 1)) for shape in shapes]
    base, x, centres, parts = max(heights, default=0) + 12, 8.0, [], []
    for row, width, height in zip(rows, widths, heights):
        letter, style, _ = _of(row["kind"])
        text = f"{row['path']}: {row['kind']}, {row['spec']}, predicted {row['predicted_seconds'] * 1e6:.1f} us"
        box = _box(style, x, base - height, width, height)
        name = f'<text class="small" text-anchor="middle" x="{x + width / 2:.1f}" y="{base + 14}">{letter}</text>'
        parts.append(_link(row, box + name, text))
        centres.append(x + width / 2)
        x += width + 3
    for i, one in enumerate(summary.rows):
        for source in {s for operand in one.sources for s in operand if s != IMAGE and s < i - 1}:
            rise = min(10 + 2.2 * (i - source), 42)
            y = base + 20
            a, b = centres[source], centres[i]
            parts.append(
                f'<path class="frame" d="M{a:.1f} {y} C{a:.1f} {y + rise:.1f} {b:.1f} {y + rise:.1f} {b:.1f} {y}"/>'
            )
    kinds = dict.fromkeys(row["kind"] for row in rows)
    label = f"{len(rows)} ops from left to right, of kinds {', '.join(kinds)}; the table below names each."
    return _svg(x + 8, base + 68, label, parts, fixed=True)


def letters(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(letter, kind) of those that the net has."""
    return [(_of(kind)[0], kind) for kind in dict.fromkeys(row["kind"] for row in rows)]


def _dot(shape: str, style: str, x: float, y: float) -> str:
    if shape == "circle":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    if shape in ("cross", "plus"):
        d = "M-4 -4L4 4M-4 4L4 -4" if shape == "cross" else "M-5 0L5 0M0 -5L0 5"
        return f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{d}"/>'
    d = {"square": "M-4.5 -4.5H4.5V4.5H-4.5Z", "triangle": "M0 -6L5.5 4.5H-5.5Z", "diamond": "M0 -6.5L6 0L0 6.5L-6 0Z"}[
        shape
    ]
    return f'<path class="{style}" transform="translate({x:.1f} {y:.1f})" d="{d}"/>'


def roofline(rows: Sequence[Row], found: Map, measured: bool) -> str:
    """FLOPs a second by predicted time over FLOPs a byte, under the published peaks (Williams, Waterman, Patterson 2009)."""
    gpu = found.gpu
    rate, bandwidth = gpu.rate(found.dtype), gpu.dram_bytes_per_s
    dots = [row for row in rows if row["flops"] and row["predicted_seconds"]]
    width, height, left, bottom, top = 720.0, 420.0, 64.0, 370.0, 24.0
    low_x = min([row["intensity"] for row in dots] or [1]) / 1.6
    high_x = max([row["intensity"] for row in dots] + [4 * rate / bandwidth]) * 1.3
    low_y = min([row["flops"] / row["predicted_seconds"] for row in dots] or [rate / 1e3]) / 2
    high_y = rate * 2

    def at(x: float, y: float) -> tuple[float, float]:
        u = (log10(x) - log10(low_x)) / (log10(high_x) - log10(low_x))
        v = (log10(y) - log10(low_y)) / (log10(high_y) - log10(low_y))
        return left + u * (width - left - 16), bottom - v * (bottom - top)

    parts = []
    for power in range(ceil(log10(low_x)), int(log10(high_x)) + 1):
        x, _ = at(10.0**power, low_y)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="small" text-anchor="middle" x="{x:.1f}" y="{bottom + 18}">{10.0**power:g}</text>')
    for power in range(ceil(log10(low_y)), int(log10(high_y)) + 1):
        _, y = at(low_x, 10.0**power)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 16}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="small" text-anchor="end" x="{left - 6}" y="{y + 4:.1f}">{short(10**power)}</text>')
    ridge = rate / bandwidth
    line = [
        at(low_x, low_x * bandwidth) if low_x * bandwidth > low_y else at(low_y / bandwidth, low_y),
        at(ridge, rate),
        at(high_x, rate),
    ]
    parts.append(f'<polyline class="roof" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in line)}"/>')
    x, y = line[2]
    parts.append(f'<text text-anchor="end" x="{x:.1f}" y="{y - 8:.1f}">{short(rate)}FLOP/s, published</text>')
    x, y = at(max(low_x, low_y / bandwidth) * 2.2, max(low_x, low_y / bandwidth) * 2.2 * bandwidth)
    parts.append(
        f'<text text-anchor="start" x="{max(x - 30, left + 6):.1f}" y="{max(y - 34, 40):.1f}">{short(bandwidth)}B/s</text>'
    )
    parts.append(
        f'<text text-anchor="middle" x="{(width + left) / 2}" y="{bottom + 40}">FLOPs a compulsory byte</text>'
    )
    parts.append('<text x="4" y="14">FLOPs a second</text>')
    for row in dots:
        _, style, shape = _of(row["kind"])
        x, y = at(row["intensity"], row["flops"] / row["predicted_seconds"])
        reached = (
            f"{row['intensity']:.1f} FLOPs a byte, predicted {short(row['flops'] / row['predicted_seconds'])}FLOP/s"
        )
        text = f"{row['path']} ({row['kind']}): {reached}"
        parts.append(_link(row, _dot(shape, style, x, y), text))
        if measured and row["measured_seconds"]:
            x, y = at(row["intensity"], max(row["flops"] / row["measured_seconds"], low_y))
            parts.append(f'<circle class="strong" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')
    label = f"Roofline of {len(dots)} layers under {short(rate)}FLOP/s and {short(bandwidth)}B/s; the numbers are in the table."
    return _svg(width, height, label, parts)


def waves(rows: Sequence[Row], sms: int) -> str:
    """Places on the SMs over predicted time: a layer's full waves at full height, its last wave as far as it is filled."""
    total = sum(row["predicted_seconds"] for row in rows) or 1.0
    width, left, top, high = 1000.0, 66.0, 16.0, 180.0
    scale = (width - left - 10) / total
    x, parts = left, [f'<rect class="waste" x="{left}" y="{top}" width="{total * scale:.1f}" height="{high}"/>']
    for i, row in enumerate(rows):
        span = row["predicted_seconds"] * scale
        count = max(ceil(row["waves"]), 1)
        full = count - 1 if row["idle_last_wave"] > 0 else count
        style = "a" if i % 2 else "b"
        drawn = _box(style, x, top, span * full / count, high) if full else ""
        if full < count:
            filled = high * (1 - row["idle_last_wave"])
            drawn += _box(style, x + span * full / count, top + high - filled, span / count, filled)
        idle = f"{row['waves']:.2f} waves, {100 * row['idle_last_wave']:.0f} % of the last idle"
        parts.append(_link(row, drawn, f"{row['path']}: {idle}, predicted {row['predicted_seconds'] * 1e6:.1f} us"))
        x += span
    for share, name in ((0, f"{sms} SMs"), (0.5, "half"), (1, "none")):
        parts.append(
            f'<text class="small" text-anchor="end" x="{left - 4}" y="{top + share * high + 5:.1f}">{name}</text>'
        )
    step = 10 ** int(log10(total * 1e6 / 2)) if total * 1e6 > 2 else 1
    for i in range(int(total * 1e6 / step) + 1):
        at = left + i * step * 1e-6 * scale
        parts.append(f'<line class="line" x1="{at:.1f}" x2="{at:.1f}" y1="{top + high}" y2="{top + high + 5}"/>')
        parts.append(
            f'<text class="small" text-anchor="middle" x="{at:.1f}" y="{top + high + 19}">{i * step:g} us</text>'
        )
    return _svg(
        width,
        top + high + 30,
        f"How full the {sms} SMs are over {total * 1e6:.0f} predicted us, layer after layer.",
        parts,
    )


def memory(rows: Sequence[Row], summary: Summary) -> str:
    """Bytes of activations alive while each op runs."""
    alive = summary.alive_bytes
    width, left, top, high, most = 1000.0, 62.0, 14.0, 170.0, max(alive) or 1
    step = (width - left - 10) / len(alive)
    parts = []
    for i, (n, row) in enumerate(zip(alive, rows)):
        height = high * n / most
        box = _box("c", left + i * step, top + high - height, max(step - 1, 1), height)
        parts.append(_link(row, box, f"{row['path']}: {short(n)}B alive"))
    for share in (0, 0.5, 1):
        y = top + high * (1 - share)
        parts.append(f'<line class="line" x1="{left}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="small" text-anchor="end" x="{left - 4}" y="{y + 4:.1f}">{short(round(most * share))}B</text>'
        )
    parts.append(f'<text class="small" x="{left}" y="{top + high + 18}">first op</text>')
    parts.append(f'<text class="small" text-anchor="end" x="{width - 10}" y="{top + high + 18}">last op</text>')
    return _svg(width, top + high + 28, f"Activations alive by op, at most {short(most)}B.", parts)
