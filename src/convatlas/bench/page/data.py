"""One GPU's result as a reader wants it: layers by family, which of our backends `auto` takes, and who is held against whom."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from convatlas.bench.kinds import KINDS, SPECS
from convatlas.bench.results import Entry, Results
from convatlas.bench.stats import Comparison, compare
from convatlas.call import Call
from convatlas.errors import InputError
from convatlas.ops.automatic import preferred

OURS, PEERS = ("triton", "cuda"), ("cudnn", "cudnn_fused")
DTYPES = ("float16", "bfloat16", "tf32", "float32")
FAMILIES = KINDS[:-1]
HEADLINE = "float16"
NETWORKS = "networks"


@dataclass(frozen=True)
class Race:
    """One layer in one precision at one batch size, and all who were timed on it, by turns.

    Attributes:
        entries: by contestant.
    """

    entries: dict[str, Entry]

    @property
    def any(self) -> Entry:
        return next(iter(self.entries.values()))

    def get(self, name: str) -> Any:
        """A field that all entries share."""
        return self.any.extra.get(name)

    @property
    def op(self) -> str:
        return self.get("op")

    @property
    def spec(self) -> str:
        return self.get("spec")

    @property
    def layer(self) -> str:
        """Its name in tables: the batch is said elsewhere."""
        without = re.sub(r"^\d+x", "", self.spec)
        if self.op == "linear":
            without = re.sub(r"(?<= -> )\d+x", "", without)
        words = ("" if self.op == "conv2d" else self.op, without, self.get("epilogue") or "")
        return " ".join(word for word in words if word)

    @property
    def setting(self) -> tuple[str, int]:
        """(precision, batch)."""
        return self.get("dtype"), self.get("batch")

    @cached_property
    def call(self) -> Call:
        """As far as the choice of a backend looks at it. Raises InputError for a layer without the sizes that it looks at."""
        if self.any.spec is None and self.op in SPECS:
            raise InputError(f"{self.any.case}: an entry without sizes, expected the fields of its layer's spec")
        return Call(self.op, self.any.spec, dtype="float32" if self.get("dtype") == "tf32" else self.get("dtype"))

    @cached_property
    def family(self) -> str:
        """One of FAMILIES."""
        return self.any.kind

    @cached_property
    def auto(self) -> Entry | None:
        """Ours by the rule of backend="auto", as the code stands now; None where that backend has no time."""
        return self.entries.get(preferred(self.call))

    @cached_property
    def best(self) -> Entry | None:
        """The quicker of ours."""
        return min((self.entries[n] for n in OURS if n in self.entries), key=lambda e: e.median, default=None)

    @cached_property
    def quicker(self) -> Entry | None:
        """The quicker of the peers."""
        return min((self.entries[n] for n in PEERS if n in self.entries), key=lambda e: e.median, default=None)

    def peer(self, name: str) -> Entry | None:
        """A peer by name, or "quicker"."""
        return self.quicker if name == "quicker" else self.entries.get(name)

    def speedup(self, name: str, ours: str = "auto") -> float | None:
        """Time of the peer over time of ours; above 1, ours takes less."""
        mine, theirs = getattr(self, ours), self.peer(name)
        return theirs.median / mine.median if mine and theirs else None

    @cached_property
    def _against(self) -> dict[str, Comparison]:
        return {}

    def against(self, name: str) -> Comparison | None:
        """Ours by `auto` against a peer or the quicker one, turn by turn where both have as many samples."""
        mine, theirs = self.auto, self.peer(name)
        if mine is None or theirs is None:
            return None
        if theirs.contestant not in self._against:
            turns = len(mine.seconds) == len(theirs.seconds)
            self._against[theirs.contestant] = compare(mine.seconds, theirs.seconds, paired=turns)
        return self._against[theirs.contestant]

    @property
    def bound(self) -> float | None:
        """Seconds below which no kernel goes, by the measured ceilings."""
        if self.get("bound_seconds"):
            return self.get("bound_seconds")
        share = self.get("roofline_share")
        return share * self.any.median if share else None


@dataclass(frozen=True)
class Report:
    """One GPU's newest result.

    Attributes:
        slug: its folder.
        results: the file.
    """

    slug: str
    results: Results

    @property
    def gpu(self) -> str:
        return self.results.head["gpu"]

    @property
    def date(self) -> str:
        return self.results.head.get("date", "")

    @property
    def day(self) -> str:
        return self.date[:10]

    @property
    def commit(self) -> str:
        return self.results.head.get("commit", "unknown")

    @cached_property
    def _by_case(self) -> dict[tuple[str, str], dict[str, Entry]]:
        return self.results.by_case()

    @cached_property
    def suites(self) -> dict[tuple[str, str, str], list[Race]]:
        """Races on layers by (suite, cache, form), in the file's order."""
        found: dict[tuple[str, str, str], list[Race]] = {}
        for (suite, _), entries in self._by_case.items():
            if suite != NETWORKS:
                race = Race(entries)
                found.setdefault((suite, race.get("cache"), race.get("form")), []).append(race)
        return found

    @property
    def layers(self) -> list[Race]:
        """The networks' layers by the protocol of the headline: cold, graph-replayed."""
        return self.suites.get(("layers", "cold", "graph"), [])

    @cached_property
    def drawn(self) -> list[Race]:
        """What the pictures show: half precision, the most wanted, where both sides have a time."""
        return [race for race in self.layers if race.setting[0] == HEADLINE and race.auto and race.quicker]

    @property
    def pictures(self) -> list[str]:
        """Their names, <slug>-<name>.svg: those for which there is something to draw."""
        return [
            name
            for name in ("speedup", "roofline")
            if self.drawn and (name == "speedup" or self.results.head.get("ceilings"))
        ]

    @cached_property
    def networks(self) -> list[Race]:
        return [Race(entries) for (suite, _), entries in self._by_case.items() if suite == NETWORKS]


def settings(races: Iterable[Race]) -> list[tuple[str, int]]:
    """The (precision, batch) that occur, half precision first, small batches first."""
    known = {name: place for place, name in enumerate(DTYPES)}
    return sorted({race.setting for race in races}, key=lambda s: (known.get(s[0], len(known)), s))
