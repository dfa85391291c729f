"""Two runs, or two contestants of one run, benchmark by benchmark: ratios, verdicts, and which verdicts survive correction.

Each verdict stands for itself, at 99 %. Of hundreds some are false, so what a program acts on is a verdict that is also *proven*:
its rank test survives Holm's correction over all pairs of the comparison (stats.holm), so that comparisons in which nothing
changed raise an alarm at most once in 1 / FAMILY = 100. tests/results/test_stats.py measures what that costs: with 15 samples of
3 % noise a slowdown of 10 % in one of 200 benchmarks is proven in 87 % of comparisons, with 25 samples in all but 1 of 1000.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, lgamma
from typing import Any

from convatlas.errors import InputError
from convatlas.results.kinds import KINDS
from convatlas.results.stats import FAMILY, THRESHOLD, VERDICTS, Comparison, compare, geometric_mean, holm, rank_test
from convatlas.results.store import Entry, Results

CHANGES = ("slower", "faster")


@dataclass(frozen=True)
class Pair:
    """One benchmark.

    Attributes:
        a, b: the two entries.
        found: B against A.
        p: of the rank test.
        proven: whether the verdict is a change and survives the correction.
    """

    a: Entry
    b: Entry
    found: Comparison
    p: float
    proven: bool


@dataclass(frozen=True)
class Compared:
    """All of them.

    Attributes:
        names: of A and B.
        pairs: in A's order.
        only_a, only_b: what the other lacks.
        threshold: of practical significance.
    """

    names: tuple[str, str]
    pairs: list[Pair]
    only_a: list[Entry]
    only_b: list[Entry]
    threshold: float

    @property
    def counts(self) -> dict[str, int]:
        """Pairs by verdict."""
        found = Counter(pair.found.verdict for pair in self.pairs)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def mean(self) -> float:
        """Geometric mean of the ratios, B over A."""
        return geometric_mean([pair.found.ratio for pair in self.pairs])

    @property
    def kinds(self) -> dict[str, Compared]:
        """Its parts by kind of layer, in the order of kinds.KINDS; "" for pairs that name none."""
        names = dict.fromkeys([*KINDS, *(pair.a.kind for pair in self.pairs)])
        parts = {kind: [pair for pair in self.pairs if pair.a.kind == kind] for kind in names}
        return {kind: replace(self, pairs=pairs, only_a=[], only_b=[]) for kind, pairs in parts.items() if pairs}

    def alarms(self, verdict: str) -> list[Pair]:
        """The pairs of a verdict; of a change only the proven ones."""
        return [p for p in self.pairs if p.found.verdict == verdict and (p.proven or verdict not in CHANGES)]

    @property
    def provable(self) -> int:
        """Pairs with samples enough: fully apart, they would survive the correction."""
        counts = ((len(pair.a.seconds), len(pair.b.seconds)) for pair in self.pairs)
        return sum(_least_chance(n, m) <= FAMILY / len(self.pairs) for n, m in counts)

    @property
    def samples_needed(self) -> int:
        """The samples that each contestant needs for every pair to be provable."""
        n = 1
        while _least_chance(n, n) > FAMILY / len(self.pairs):
            n += 1
        return n


def _least_chance(n: int, m: int) -> float:
    """p of n and m samples that lie wholly apart: 2 orders of the binomial coefficient (n + m over n)."""
    return 2 * exp(lgamma(n + 1) + lgamma(m + 1) - lgamma(n + m + 1))


def compare_runs(a: Results, b: Results, threshold: float = THRESHOLD, anyway: bool = False) -> Compared:
    """B against A, entry by entry of one suite, case and contestant.

    Raises InputError where they have no benchmark in common, or were measured on different devices or by different clocks, which
    `anyway` allows.
    """
    first, second = ({entry.key: entry for entry in results.entries} for results in (a, b))
    common = [(entry, second[key]) for key, entry in first.items() if key in second]
    if not common:
        raise InputError(f"{a.path} and {b.path} have no benchmark in common: {_example(a)}, {_example(b)}")
    if not anyway:
        for x, y in common:
            for what, left, right in (("device", x.device, y.device), ("timer", x.timer, y.timer)):
                if left != right:
                    raise InputError(
                        f"{what}: {left} in {a.path}, {right} in {b.path}, expected one of both (--anyway compares them all the "
                        f"same): {x.case} {x.contestant}".rstrip()
                    )
    names = str(a.path), str(b.path)
    return _compared(names, common, _only(first, second), _only(second, first), threshold, paired=False)


def compare_contestants(results: Results, a: str, b: str, threshold: float = THRESHOLD) -> Compared:
    """Contestant B against A, case by case. They were timed by turns, and are paired so where both have as many samples.

    Raises InputError for a contestant that the file does not have, or two without a case in common.
    """
    known = list(dict.fromkeys(entry.contestant for entry in results.entries if entry.contestant))
    for name in (a, b):
        if name not in known:
            raise InputError(
                f"{results.path}: no contestant {name!r}, expected two of {', '.join(known) or '(it names none)'}"
            )
    if a == b:
        raise InputError(f"contestants {a},{b}: expected two different ones of {', '.join(known)}")
    first, second = ({(e.suite, e.case): e for e in results.entries if e.contestant == name} for name in (a, b))
    common = [(entry, second[case]) for case, entry in first.items() if case in second]
    if not common:
        raise InputError(f"{results.path}: {a} and {b} have no case in common")
    return _compared((a, b), common, _only(first, second), _only(second, first), threshold, paired=True)


def _only(one: Mapping[Any, Entry], other: Mapping[Any, Entry]) -> list[Entry]:
    return [entry for key, entry in one.items() if key not in other]


def _example(results: Results) -> str:
    if not results.entries:
        return f"{results.path} has none"
    entry = results.entries[0]
    return f"{results.path} has {entry.case} {entry.contestant}".rstrip()


def _compared(
    names: tuple[str, str],
    common: Sequence[tuple[Entry, Entry]],
    only_a: list[Entry],
    only_b: list[Entry],
    threshold: float,
    paired: bool,
) -> Compared:
    found = [
        compare(y.seconds, x.seconds, threshold, paired=paired and len(x.seconds) == len(y.seconds)) for x, y in common
    ]
    chances = [rank_test(y.seconds, x.seconds) for x, y in common]
    pairs = [
        Pair(x, y, result, p, held and result.verdict in CHANGES)
        for (x, y), result, p, held in zip(common, found, chances, holm(chances))
    ]
    return Compared(names, pairs, only_a, only_b, threshold)
