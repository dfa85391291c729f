"""The tables beside the claims: a family's networks, a network's stages, a network's layers."""

from __future__ import annotations

from collections.abc import Sequence

from convatlas.study.lecture.atlas import Atlas, intensity, total
from convatlas.study.lecture.claim import Table
from convatlas.study.numbers import short
from convatlas.study.summary import KINDS, Row


def family(atlas: Atlas, names: Sequence[str]) -> Table:
    """A row a network."""
    kinds = [kind for kind in KINDS if any(atlas.summary(name).share(kind) for name in names)]
    rows = []
    for name in names:
        s = atlas.summary(name)
        sizes = short(s.parameters), short(s.macs), short(s.activation_bytes, "B"), f"{s.intensity:.3g}"
        rows.append((name, str(s.depth), *sizes, *(share(s.share(kind)) for kind in kinds)))
    header = "network", "layers", "parameters", "MACs", "activations", "FLOPs/B", *(f"{kind}" for kind in kinds)
    caption = (
        "One image at inference, bytes in float16. Layers: convolutions and linear layers on the longest path. "
        f"{kinds[0]} to {kinds[-1]}: share of the MACs."
    )
    return Table(caption, header, tuple(rows))


def share(part: float) -> str:
    """ "12.3 %", or "" for none."""
    return f"{100 * part:.1f} %" if part else ""


def stages(atlas: Atlas, name: str) -> Table:
    """A row for each size of the feature map, in order; ops count where their output is."""
    s = atlas.summary(name)
    rows = []
    maps: dict[str, list[Row]] = {}
    for row in s.rows:
        maps.setdefault("x".join(map(str, row.spec.output_shape[2:])) or "vector", []).append(row)
    for size, found in maps.items():
        field = max(row.fields[0].size for row in found)
        weighted = sum(row.weighted for row in found)
        parameters, macs, moved = (total(found, of) for of in ("parameters", "macs", "bytes"))
        shares = share(parameters / s.parameters), share(macs / s.macs)
        rows.append((size, str(weighted), short(parameters), shares[0], short(macs), shares[1], short(moved, "B")))
        rows[-1] += (f"{intensity(found):.3g}", f"{field:,}")
    header = "map", "layers", "parameters", "share", "MACs", "share", "bytes", "FLOPs/B", "field"
    caption = (
        f"{name}, by the size of the feature map that an op writes. Layers: convolutions and linear layers, branches too. "
        "Field: the largest receptive field, in pixels."
    )
    return Table(caption, header, tuple(rows))


def layers(atlas: Atlas, name: str) -> Table:
    """A row an op, with how its parameters are counted."""
    s = atlas.summary(name)
    rows = []
    for row in s.rows:
        shape = "x".join(map(str, row.spec.output_shape[1:]))
        numbers = f"{row.parameters:,}" if row.parameters else "", f"{row.macs:,}" if row.macs else ""
        rows.append((f"{row.layer.op} {row.window}".strip(), shape, counting(row), *numbers))
        rows[-1] += (f"{row.intensity:.3g}", f"{row.fields[0].size:,}")
    rows.append(("total", "", "", f"{s.parameters:,}", f"{s.macs:,}", f"{s.intensity:.3g}", ""))
    header = "layer", "output", "parameters are", "parameters", "MACs", "FLOPs/B", "field"
    caption = f"{name}, layer by layer: one image of {s.input_shape[2]}x{s.input_shape[3]}, bytes in float16."
    return Table(caption, header, tuple(rows))


def counting(row: Row) -> str:
    """The product behind a layer's parameters: K*(C/groups*R*S + 1); "" for an op that has none."""
    if not row.parameters:
        return ""
    bias = " + 1" if row.layer.epilogue and row.layer.epilogue.bias else ""
    if not hasattr(row.spec, "R"):
        return f"{row.spec.K}*({row.spec.C}{bias})"
    spec = row.spec
    return f"{spec.K}*({spec.C // spec.groups}*{spec.R}*{spec.S}{bias})"
