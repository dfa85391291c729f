"""One GPU's result as a reader wants it: layers by family, which of our backends `auto` takes, and who is held against whom."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from convatlas.bench.results import Entry, Results
from convatlas.bench.stats import Comparison, compare
from convatlas.errors import InputError
from convatlas.ops.automatic import preferred
from convatlas.ops.observe import Call
from convatlas.specs import AdaptivePool2dSpec, Conv2dSpec, LinearSpec

OURS, PEERS = ("triton", "cuda"), ("cudnn", "cudnn_fused")
DTYPES = ("float16", "bfloat16", "tf32", "float32")
FAMILIES = (
    "3x3 dense", "other dense", "1x1", "depthwise", "grouped", "stem", "linear", "pooling", "residual add", "other",
)  # fmt: skip
HEADLINE = "float16"
NETWORKS = "networks"
STEM_CHANNELS = 8  # below so many input channels a filter tap is narrower than a tensor core's step

_PAIR = r"(\d+)(?:x(\d+))?"
_CONV = re.compile(
    rf"(\d+)x(\d+)x(\d+)x(\d+) -> (\d+)x\d+x\d+, (\d+)x(\d+)(?: stride{_PAIR})?(?: dilation{_PAIR})?(?: groups(\d+))?"
    r"(?: pad([\d:]+)x([\d:]+))?"
)
_MEANS = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+) -> \d+x(\d+)x(\d+), adaptive average")
_LINEAR = re.compile(r"((?:\d+x)+)(\d+) -> (?:\d+x)+(\d+)")


def convolution(text: str) -> Conv2dSpec:
    """The spec that cases.described wrote: padding is half the window unless it is named. Raises InputError for another text."""
    found = _CONV.fullmatch(text)
    if found is None:
        raise InputError(f"conv2d {text!r}, expected NxCxHxW -> KxPxQ, RxS [strideU] [dilationD] [groupsG] [padTxL]")
    N, C, H, W, K, R, S = map(int, found.groups()[:7])
    u, v, d, e, groups, top, left = found.groups()[7:]
    sides = (_sides(top, R), _sides(left, S))
    return Conv2dSpec(N, C, H, W, K, R, S, _both(u, v), sides, _both(d, e), int(groups or 1))


def _both(first: str | None, second: str | None) -> tuple[int, int]:
    return int(first or 1), int(second or first or 1)


def _sides(text: str | None, window: int) -> tuple[int, int]:
    if text is None:
        return window // 2, window // 2
    before, _, after = text.partition(":")
    return int(before), int(after or before)


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
    def call(self) -> Call | None:
        """As far as the choice of a backend looks at it; None where a pooling's or another op's name says all."""
        dtype = "float32" if self.get("dtype") == "tf32" else self.get("dtype")
        if self.op == "conv2d":
            return Call(self.op, convolution(self.spec), dtype=dtype)
        if self.op == "adaptive_avg_pool2d" and (found := _MEANS.fullmatch(self.spec)):
            sizes = [int(n) for n in found.groups()]
            return Call(self.op, AdaptivePool2dSpec.of(tuple(sizes[:4]), tuple(sizes[4:])), dtype=dtype)
        if self.op == "linear" and (found := _LINEAR.fullmatch(self.spec)):
            rows = prod(int(n) for n in found[1].split("x") if n)
            return Call(self.op, LinearSpec.of((rows, int(found[2])), (int(found[3]), int(found[2]))), dtype=dtype)
        return Call(self.op, None, dtype=dtype)

    @cached_property
    def family(self) -> str:
        """One of FAMILIES."""
        if self.op != "conv2d":
            names = {"linear": "linear", "residual_add": "residual add"}
            return "pooling" if "pool" in self.op else names.get(self.op, "other")
        spec = self.call.spec
        if spec.kind in ("depthwise", "grouped"):
            return spec.kind
        if spec.kind == "pointwise":
            return "1x1"
        if spec.C < STEM_CHANNELS:
            return "stem"
        return "3x3 dense" if (spec.R, spec.S) == (3, 3) else "other dense"

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
