"""An explanation, drawn: the parts of the layer, the configs that were considered, and what fusing saves."""

from __future__ import annotations

from convatlas.study import explaining
from convatlas.study.drawing.layer import layer
from convatlas.study.drawing.svg import MARGIN, Svg
from convatlas.study.explaining import Explanation


def explained(one: Explanation) -> Svg:
    """The whole picture."""
    picture = layer(one.found, one.layer)
    candidates(picture, one)
    fusions(picture, one)
    return picture


def candidates(picture: Svg, one: Explanation) -> None:
    """Predicted times of the configs, and of the other backend, as bars."""
    picture.head("Why this config")
    rows = [(c.name, c.mapped.seconds, c.chosen) for c in one.candidates] or [("as chosen", one.layer.seconds, True)]
    if one.other is not None:
        work = one.other.main.work
        rows.append(
            (f"{work.kernel.removesuffix('_kernel')} {work.tile}, {one.other.backend}", one.other.seconds, False)
        )
    _bars(picture, [(name, seconds * 1e6, "us, chosen" if chosen else "us", chosen) for name, seconds, chosen in rows])
    for sentence in explaining.why(one):
        picture.say(sentence)
    if one.other is not None:
        picture.say(f"The kernel of {one.other.backend} is predicted to take {one.other.seconds * 1e6:.1f} us.")


def fusions(picture: Svg, one: Explanation) -> None:
    """Bytes that fusing saves, beside those that the layer must move."""
    picture.head("What fusing saves")
    rows = [(f.what.split(",")[0], f.bytes / 1e6, "MB, saved already" if f.done else "MB", f.done) for f in one.fusions]
    if rows:
        _bars(picture, [("the layer's own compulsory bytes", one.layer.bytes / 1e6, "MB", False), *rows])
    for sentence in explaining.fused(one):
        picture.say(sentence)


def _bars(picture: Svg, rows: list[tuple[str, float, str, bool]]) -> None:
    y, x = picture.y + 6, MARGIN + 340
    scale = (picture.width - MARGIN - x - 160) / max(value for _, value, _, _ in rows)
    for i, (name, value, unit, marked) in enumerate(rows):
        top = y + i * 22
        picture.text(MARGIN, top + 13, name if len(name) <= 50 else f"{name[:49]}…", "small")
        picture.box(x, top, value * scale, 16, "a" if marked else "none")
        picture.text(x + value * scale + 6, top + 13, f"{value:.1f} {unit}", "" if marked else "small")
    picture.y = y + len(rows) * 22
