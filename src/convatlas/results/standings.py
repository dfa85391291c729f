"""Races summed up: whose time is the shorter, on which kind of layer, and by how much.

What the end of a benchmark run prints, `make gpu`'s summary and docs/performance.md say about layers all comes from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from convatlas.call import Call
from convatlas.errors import InputError
from convatlas.ops.automatic import preferred
from convatlas.results.kinds import KINDS, SPECS
from convatlas.results.stats import Comparison, compare, geometric_mean
from convatlas.results.store import Entry
from convatlas.specs import LinearSpec

OURS, PEERS = ("triton", "cuda"), ("cudnn", "cudnn_fused")  # contestants on layers (bench/contestants.py)
DTYPES = ("float16", "bfloat16", "tf32", "float32")


def is_ours(name: str) -> bool:
    """Whether a contestant is convatlas's, whose mistakes fail a test; a peer's are noted."""
    return name in OURS or name.startswith("ours")


@dataclass(frozen=True)
class Race:
    """One case, such as a layer in one precision at one batch size, and all who were timed on it, by turns.

    Attributes:
        entries: by contestant.
        absent: why a contestant has no time, by name.
        wrong: what one of ours computed wrongly, by name; it has no time either.
    """

    entries: dict[str, Entry]
    absent: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, suite: str, case: str, seconds: Mapping[str, Sequence[float]], device: str, shared: Mapping[str, Any],
        absent: dict[str, str] | None = None, wrong: dict[str, str] | None = None,
    ) -> Race:  # fmt: skip
        """The race whose contestants took `seconds`; `shared` is what the extra_info of all entries holds."""
        entries = {
            name: Entry(suite, case, name, tuple(taken), {"suite": suite, "contestant": name, **shared}, device)
            for name, taken in seconds.items()
        }
        return cls(entries, absent or {}, wrong or {})

    @property
    def any(self) -> Entry:
        return next(iter(self.entries.values()))

    def get(self, name: str) -> Any:
        """A field that all entries share."""
        return self.any.extra.get(name)

    @property
    def kind(self) -> str:
        """One of kinds.KINDS."""
        return self.any.kind or "other"

    @property
    def layer(self) -> str:
        """Its name in tables: the batch is said elsewhere."""
        op, spec = self.get("op"), self.any.spec
        sizes = f"{spec.C} -> {spec.K}" if isinstance(spec, LinearSpec) else self.get("spec").partition("x")[2]
        return " ".join(word for word in ("" if op == "conv2d" else op, sizes, self.get("epilogue")) if word)

    @property
    def setting(self) -> tuple[str, int]:
        """(precision, batch)."""
        return self.get("dtype"), self.get("batch")

    @cached_property
    def call(self) -> Call:
        """As far as the choice of a backend looks at it. Raises InputError for a layer without the sizes that it looks at."""
        if self.any.spec is None and self.get("op") in SPECS:
            raise InputError(f"{self.any.case}: an entry without sizes, expected the fields of its layer's spec")
        dtype = "float32" if self.get("dtype") == "tf32" else self.get("dtype")
        return Call(self.get("op"), self.any.spec, dtype=dtype)

    @cached_property
    def auto(self) -> Entry | None:
        """Ours by the rule of backend="auto", as the code stands now; None where that backend has no time."""
        return self.entries.get(preferred(self.call))

    def _quickest(self, ours: bool) -> Entry | None:
        return min((e for n, e in self.entries.items() if is_ours(n) == ours), key=lambda e: e.median, default=None)

    @cached_property
    def best(self) -> Entry | None:
        """The quicker of ours."""
        return self._quickest(ours=True)

    @cached_property
    def quicker(self) -> Entry | None:
        """The quicker of the peers."""
        return self._quickest(ours=False)

    def sides(self, peer: str, ours: str) -> tuple[Entry, Entry] | None:
        """(ours, the peer); None where one has no time. `ours` is "auto" or "best", `peer` a contestant's name or "quicker"."""
        mine, theirs = getattr(self, ours), self.quicker if peer == "quicker" else self.entries.get(peer)
        return (mine, theirs) if mine and theirs else None

    def speedup(self, peer: str, ours: str = "auto") -> float | None:
        """Time of the peer over time of ours; above 1, ours takes less."""
        sides = self.sides(peer, ours)
        return sides[1].median / sides[0].median if sides else None

    @cached_property
    def _compared(self) -> dict[tuple[str, str], Comparison]:
        return {}

    def against(self, peer: str, ours: str = "auto") -> Comparison | None:
        """Ours against a peer or the quicker one, turn by turn where both have as many samples."""
        sides = self.sides(peer, ours)
        if sides is None:
            return None
        mine, theirs = sides
        key = mine.contestant, theirs.contestant
        if key not in self._compared:
            self._compared[key] = compare(mine.seconds, theirs.seconds, paired=len(mine.seconds) == len(theirs.seconds))
        return self._compared[key]

    @property
    def bound(self) -> float | None:
        """Seconds below which no kernel goes, by the measured ceilings."""
        if self.get("bound_seconds"):
            return self.get("bound_seconds")
        share = self.get("roofline_share")
        return share * self.any.median if share else None


def races_of(entries: Iterable[Entry], *suites: str) -> list[Race]:
    """The races of the named suites, or of all, in the order of the entries."""
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in entries:
        if not suites or entry.suite in suites:
            found.setdefault((entry.suite, entry.case), {})[entry.contestant] = entry
    return [Race(group) for group in found.values()]


def settings(races: Iterable[Race]) -> list[tuple[str, int]]:
    """The (precision, batch) that occur, half precision first, small batches first."""
    known = {name: place for place, name in enumerate(DTYPES)}
    return sorted({race.setting for race in races}, key=lambda s: (known.get(s[0], len(known)), s))


def by_kind(races: Sequence[Race]) -> list[tuple[str, tuple[str, int], list[Race]]]:
    """(kind, (precision, batch), races), those that occur."""
    groups = [
        (kind, setting, [race for race in races if race.kind == kind and race.setting == setting])
        for kind in dict.fromkeys([*KINDS, *(race.kind for race in races)])
        for setting in settings(races)
    ]
    return [group for group in groups if group[2]]


def mean(races: Iterable[Race], peer: str, ours: str = "auto") -> float | None:
    """Geometric mean of the speed-ups over `peer` where both ran; None where they never did."""
    found = [ratio for race in races if (ratio := race.speedup(peer, ours)) is not None]
    return geometric_mean(found) if found else None


def verdicts(races: Iterable[Race], peer: str, ours: str = "auto") -> Counter[str]:
    """Races by the verdict on ours against `peer`, where both ran."""
    return Counter(result.verdict for race in races if (result := race.against(peer, ours)) is not None)


def furthest_behind(races: Iterable[Race], ours: str = "auto") -> list[Race]:
    """The races that have both sides, the one that ours loses by most first."""
    both = [race for race in races if race.sides("quicker", ours)]
    return sorted(both, key=lambda race: race.speedup("quicker", ours))
