"""gate: a net's kernels on a GPU against a stored baseline, for continuous integration without a GPU.

A figure of a layer got worse where it grew (occupancy: fell) by more than its threshold. A baseline is what `baseline` returns, as
JSON; layers are matched by their place among those of the same path.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from convatlas.errors import InputError
from convatlas.files import readable, shown
from convatlas.study.mapping import LayerMap, Map

FORMAT = 1


class Figure(NamedTuple):
    """One figure of a layer.

    Attributes:
        words: its name for people.
        unit: behind a number.
        more: +1 where more is worse, -1 where less is.
        absolute: growth that is let pass, in the figure's own unit.
        relative: the same as a share of the baseline's; the larger of both counts.
    """

    words: str
    unit: str
    more: int
    absolute: float
    relative: float


FIGURES = {
    "registers": Figure("registers a thread", "", 1, 0, 0.1),
    "spilled_bytes": Figure("spilled bytes a thread", "", 1, 0, 0),
    "shared_bytes": Figure("shared memory a block", " bytes", 1, 0, 0.1),
    "occupancy": Figure("occupancy", "", -1, 0.001, 0),
    "tile_waste": Figure("tile waste", "", 1, 0.01, 0),
    "predicted_seconds": Figure("predicted time", " s", 1, 0, 0.05),
}
# What must be equal, or figures would be compared that have nothing to do with each other.
SETTING = ("net", "gpu", "dtype", "batch", "backend")


@dataclass(frozen=True)
class Change:
    """One figure of one layer that passed its threshold.

    Attributes:
        layer: its path, "sum" for the whole net.
        figure: one of FIGURES.
        before, after: None where the layer or the figure is missing.
        worse: whether it is a regression; else an improvement.
    """

    layer: str
    figure: str
    before: float | None
    after: float | None
    worse: bool

    def __str__(self) -> str:
        figure = FIGURES[self.figure]
        return f"{self.layer}: {figure.words} {_shown(self.before, figure)} -> {_shown(self.after, figure)}"


def _shown(value: float | None, figure: Figure) -> str:
    if value is None:
        return "not known"
    if figure.unit == " s":
        return f"{value * 1e6:.2f} us"
    return f"{value:,.0f}{figure.unit}" if float(value).is_integer() else f"{value:.3f}{figure.unit}"


@dataclass(frozen=True)
class Verdict:
    """What changed: figures, and layers that only one side has."""

    changes: tuple[Change, ...]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def worse(self) -> list[Change]:
        """Regressions, in the order of the layers."""
        return [one for one in self.changes if one.worse]

    @property
    def better(self) -> list[Change]:
        """Improvements."""
        return [one for one in self.changes if not one.worse]

    @property
    def ok(self) -> bool:
        """Whether nothing got worse and both sides have the same layers."""
        return not (self.worse or self.added or self.removed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok, "worse": [asdict(one) for one in self.worse], "better": [asdict(one) for one in self.better],
            "layers_added": list(self.added), "layers_removed": list(self.removed),
        }  # fmt: skip


def figures(one: LayerMap) -> dict[str, float | None]:
    """The figures of a layer: of several launches the most of what they take, and the least occupancy."""
    compiled = all(launch.occupancy is not None for launch in one.launches)

    def most(name: str) -> int | None:
        return max(getattr(launch, name) for launch in one.launches) if compiled else None

    return {
        "registers": most("registers"), "spilled_bytes": most("stack"), "shared_bytes": most("shared"),
        "occupancy": min(launch.occupancy.share for launch in one.launches) if compiled else None,
        "tile_waste": one.waste, "predicted_seconds": one.seconds,
    }  # fmt: skip


def baseline(found: Map, backend: str) -> dict[str, Any]:
    """What is kept of a map. Equal layers are kept one by one, so that the file names each."""
    rows = {name: figures(one) for name, one in zip(_names(found), found.layers)}
    return {
        "format": FORMAT, "net": found.name, "gpu": found.gpu.name, "dtype": found.dtype, "batch": found.batch,
        "backend": backend, "predicted": "times are predicted, not measured", "layers": rows,
        "sum": {"predicted_seconds": found.seconds},
    }  # fmt: skip


def _names(found: Map) -> list[str]:
    """A name for each layer: its path, with a number where a module runs several ops."""
    paths = [one.layer.path or one.layer.op for one in found.layers]
    often, seen, names = Counter(paths), Counter(), []
    for path in paths:
        seen[path] += 1
        names.append(f"{path} #{seen[path]}" if often[path] > 1 else path)
    return names


def load(path: Path) -> dict[str, Any]:
    """The baseline in a file. Raises InputError for what is none."""
    try:
        found = json.loads(readable(path, "--against").read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"--against {shown(path)}: not JSON") from None
    rows = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(rows, dict) or found.get("format") != FORMAT:
        raise InputError(
            f"--against {shown(path)}: no baseline of format {FORMAT}, expected what `convatlas gate --write` wrote"
        )
    for name, row in rows.items():
        if not isinstance(row, dict) or set(row) != set(FIGURES) or not all(map(_number, row.values())):
            raise InputError(
                f"--against {shown(path)}: layer {name!r} holds {str(row)[:80]}, expected {', '.join(FIGURES)}"
            )
    if not isinstance(found.get("sum"), dict) or not _number(found["sum"].get("predicted_seconds", "")):
        raise InputError(f"--against {shown(path)}: no sum of predicted times")
    return found


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18)


def compared(before: Mapping[str, Any], after: Mapping[str, Any], limits: Mapping[str, float] | None = None) -> Verdict:
    """Two baselines, figure by figure.

    limits: for figures by name the share by which one may get worse, in place of its threshold; of occupancy and tile waste, which
    are shares themselves, the difference. Raises InputError where the two are of other nets, GPUs, dtypes, batches or backends.
    """
    differ = [
        f"{name} {before.get(name)!r}, now {after.get(name)!r}"
        for name in SETTING
        if before.get(name) != after.get(name)
    ]
    if differ:
        raise InputError(f"the baseline is of {'; '.join(differ)}: expected the same")
    limits = limits or {}
    old, new = before["layers"], after["layers"]
    changes = [
        change
        for layer in new
        if layer in old
        for name in FIGURES
        if (change := _changed(layer, name, old[layer][name], new[layer][name], limits.get(name))) is not None
    ]
    name = "predicted_seconds"
    total = _changed("sum", name, before["sum"][name], after["sum"][name], limits.get(name))
    changes += [total] if total is not None else []
    return Verdict(tuple(changes), tuple(n for n in new if n not in old), tuple(n for n in old if n not in new))


def _changed(layer: str, name: str, before: float | None, after: float | None, limit: float | None) -> Change | None:
    figure = FIGURES[name]
    if before is None or after is None:
        # What cannot be compiled any more is worse than any figure.
        return None if before == after else Change(layer, name, before, after, after is None)
    allowed = max(figure.absolute, figure.relative * abs(before))
    if limit is not None:
        allowed = limit if name in ("occupancy", "tile_waste") else limit * abs(before)
    grown = (after - before) * figure.more
    if abs(grown) <= allowed + 1e-12 * abs(before):
        return None
    return Change(layer, name, before, after, grown > 0)
