"""Reading results: pytest-benchmark's JSON and the committed form, as one kind of object.

The committed form, benchmarks/results/<gpu>/<date>-<commit>.json (collect.py writes it), is

    {"format": "convatlas results 1", "gpu", "date", "commit", "driver", "versions", "clocks", "ceilings", "tests",
     "common": {...}, "benchmarks": [{"group", "stats": {"data": [seconds]}, "extra_info"}], "profile", "tuning"}

where an extra_info holds what differs from its group's first entry, and that one's what differs from "common"; null takes a field
away. `load` fills in the rest, so that an entry of either form has all its fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from convatlas.errors import InputError
from convatlas.results.kinds import spec_of
from convatlas.specs import Spec

FORMAT = "convatlas results 1"
REHEARSAL, HOST = "rehearsal", "host clock"
# What extra_info of every stored entry says.
REQUIRED = ("suite", "contestant", "op", "kind", "spec", "dtype", "batch", "cache", "form")


@dataclass(frozen=True)
class Entry:
    """One contestant on one case.

    Attributes:
        suite: "layers", "networks", "published", ...; "" in a file that is not ours.
        case: what was timed, and how: pytest-benchmark's group; the benchmark's full name where no contestant is named.
        contestant: who; "" where none is named.
        seconds: of each sample, a launch.
        extra: pytest-benchmark's extra_info.
        device: the GPU; the CPU where there is none in the file.
    """

    suite: str
    case: str
    contestant: str
    seconds: tuple[float, ...]
    extra: dict[str, Any]
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Its one form in JSON, pytest-benchmark's."""
        return {"group": self.case, "stats": {"data": list(self.seconds)}, "extra_info": self.extra}

    @property
    def key(self) -> tuple[str, str, str]:
        return self.suite, self.case, self.contestant

    @cached_property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    @property
    def timer(self) -> str:
        """What took the times; a file that does not say so is pytest-benchmark's own, and that reads the host's clock."""
        return self.extra.get("timer", HOST)

    @cached_property
    def spec(self) -> Spec | None:
        """The layer's spec; None where the file does not hold its sizes, or no rule looks at them."""
        sizes = self.extra.get("sizes")
        return spec_of(self.extra.get("op", ""), sizes) if sizes else None

    @property
    def kind(self) -> str:
        """The kind of layer, one of kinds.KINDS; "" where the file does not say."""
        return self.extra.get("kind", "")

    @property
    def what(self) -> str:
        """The case without how it was timed: "conv2d 1x64x56x56 -> 64x56x56, 3x3 bias+relu"."""
        return self.case.split(" | ")[0]

    @property
    def how(self) -> str:
        """The rest of the case: "float16 batch1 cold graph"; "" where it has none."""
        return self.case.partition(" | ")[2]


@dataclass(frozen=True)
class Results:
    """One file.

    Attributes:
        path: of it.
        head: its other fields; of the committed form all but the benchmarks.
        entries: in the file's order.
    """

    path: Path
    head: dict[str, Any]
    entries: tuple[Entry, ...]

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what the times depend on."""
        found = self.head.get("versions") or next(
            (e.extra["versions"] for e in self.entries if "versions" in e.extra), {}
        )
        return dict(found)


def read(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError for a file that is missing or holds none, or one nested too deeply to be ours."""
    from pydantic_core import from_json

    try:
        document = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {_reason(error)}, expected a JSON file of results") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: a JSON {type(document).__name__}, expected an object")
    return document


def _reason(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else f"no JSON ({error})"


def load(path: Path) -> Results:
    """Either form of file.

    Raises InputError, naming the file and what it lacks, for one that is missing, of another kind, or whose fields are not what
    results/schema.py says they are.
    """
    from convatlas.results import schema

    document = read(path)
    benchmarks, format = document.get("benchmarks"), document.get("format")
    if not isinstance(benchmarks, list) or format not in (None, FORMAT):
        given = (
            (format[:60] if isinstance(format, str) else schema.short(format))
            if format
            else f"the keys {', '.join(list(document)[:5]) or '(none)'}"
        )
        raise InputError(f'{path}: {given}, expected pytest-benchmark\'s JSON or "{FORMAT}"')
    schema.check(schema.Stored if format else schema.Document, document, path)
    if format:
        benchmarks = expanded(benchmarks, document.get("common") or {})
    entries = entries_of(benchmarks, document.get("gpu") or _cpu(document))
    if format:
        require(entries, path)
    seen: set[tuple[str, str, str]] = set()
    for entry in entries:
        if entry.key in seen:
            raise InputError(f"{path}: two entries for {' / '.join(filter(None, entry.key))}, expected one")
        seen.add(entry.key)
    return Results(path, {name: value for name, value in document.items() if name != "benchmarks"}, entries)


def require(entries: Iterable[Entry], path: Path) -> None:
    """Raises InputError for an entry that lacks one of REQUIRED: results are stored only with them."""
    for entry in entries:
        if missing := [name for name in REQUIRED if name not in entry.extra]:
            raise InputError(
                f"{path}: {entry.case} {entry.contestant} has no {missing[0]}, expected {', '.join(REQUIRED)}: measure anew"
            )


def _cpu(document: dict[str, Any]) -> str:
    machine = document.get("machine_info") or {}
    return (machine.get("cpu") or {}).get("brand_raw") or machine.get("node") or "unknown"


def entries_of(benchmarks: Iterable[dict[str, Any]], device: str = "") -> tuple[Entry, ...]:
    """The entries of a list that is known to be right: one that was checked, or that this project has just written."""
    return tuple(_entry(item, device) for item in benchmarks)


def _entry(item: dict[str, Any], device: str) -> Entry:
    extra = {name: value for name, value in (item.get("extra_info") or {}).items() if value is not None}
    named = (item.get("params") or {}).get("contestant")
    contestant = extra.get("contestant") or (named if isinstance(named, str) else "")
    name = item.get("group") or item.get("fullname") or item["name"]
    case = name if contestant else item.get("fullname") or name
    seconds = tuple(map(float, item["stats"]["data"]))
    return Entry(extra.get("suite", ""), case, contestant, seconds, extra, extra.get("gpu") or device)


def expanded(benchmarks: Iterable[dict[str, Any]], common: dict[str, Any]) -> list[dict[str, Any]]:
    """The committed form's entries with all their fields."""
    first: dict[Any, dict[str, Any]] = {}
    full = []
    for item in benchmarks:
        own = item.get("extra_info") or {}
        group = own.get("suite", common.get("suite")), item.get("group")
        base = first.get(group, common)
        extra = {name: value for name, value in {**base, **own}.items() if value is not None}
        first.setdefault(group, extra)
        full.append({**item, "extra_info": extra})
    return full


def compacted(benchmarks: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(entries, common), such that `expanded` gives the entries back."""
    extras = [item["extra_info"] for item in benchmarks]
    common = {
        name: value
        for name, value in (extras[0] if extras else {}).items()
        if name != "contestant" and all(name in extra and extra[name] == value for extra in extras)
    }
    first: dict[Any, dict[str, Any]] = {}
    short = []
    for item, extra in zip(benchmarks, extras):
        base = first.get((extra.get("suite"), item["group"]), common)
        first.setdefault((extra.get("suite"), item["group"]), extra)
        own = {name: value for name, value in extra.items() if name not in base or base[name] != value}
        own.update({name: None for name in base if name not in extra})
        if "suite" in extra and extra["suite"] != common.get("suite"):
            own["suite"] = extra["suite"]  # with the group it says whose fields an entry inherits
        short.append({**item, "extra_info": own})
    return short, common


def rounded(value: Any, digits: int) -> Any:
    """Floats at so many significant digits, in all of a document; infinity and NaN, which JSON lacks, as text."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if isfinite(value) else str(value)
    if isinstance(value, dict):
        return {name: rounded(item, digits) for name, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list) else value


def slug(gpu: str) -> str:
    """The folder of a GPU's results: "NVIDIA H100 80GB HBM3" -> "h100-80gb-hbm3"."""
    words = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return words.removeprefix("nvidia-") or "unknown"


def newest(folder: Path, suite: str | None = None) -> dict[str, Results]:
    """The newest result of each GPU by its folder's name; empty where there is none. Newest by the date in the file.

    With a suite ("layers", "networks"), the newest that holds times of it: not every measurement has time for all.
    """
    found: dict[str, Results] = {}
    for path in sorted(folder.glob("*/*.json")):
        results = load(path)
        if suite is not None and not any(entry.suite == suite for entry in results.entries):
            continue
        before = found.get(path.parent.name)
        if before is None or results.head.get("date", "") >= before.head.get("date", ""):
            found[path.parent.name] = results
    return found
