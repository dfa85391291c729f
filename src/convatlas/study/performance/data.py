"""One GPU's newest result as the page and its pictures want it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from convatlas.results.kinds import KINDS
from convatlas.results.standings import Race, races_of
from convatlas.results.store import Results

FAMILIES = KINDS[:-1]
HEADLINE = "float16"
NETWORKS = "networks"


@dataclass(frozen=True)
class Report:
    """One GPU's newest results.

    Attributes:
        slug: its folder.
        results: the newest file with times of layers, or of all.
        whole: the newest file with times of networks, which may be another one; None where it is the same.
    """

    slug: str
    results: Results
    whole: Results | None = None

    @property
    def gpu(self) -> str:
        return self.results.head["gpu"]

    @property
    def day(self) -> str:
        return self.results.head["date"][:10]

    @property
    def commit(self) -> str:
        return self.results.head["commit"]

    @cached_property
    def suites(self) -> dict[tuple[str, str, str], list[Race]]:
        """Races on layers by (suite, cache, form), in the file's order."""
        found: dict[tuple[str, str, str], list[Race]] = {}
        for race in races_of(entry for entry in self.results.entries if entry.suite != NETWORKS):
            found.setdefault((race.any.suite, race.get("cache"), race.get("form")), []).append(race)
        return found

    @property
    def layers(self) -> list[Race]:
        """The networks' layers by the protocol of the headline: cold, graph-replayed."""
        return self.suites.get(("layers", "cold", "graph"), [])

    @property
    def nets(self) -> list[str]:
        """The networks that have a layer here, in the order in which they are first met."""
        return list(dict.fromkeys(net for race in self.layers for net in race.get("places") or {}))

    @cached_property
    def networks(self) -> list[Race]:
        return races_of((self.whole or self.results).entries, NETWORKS)

    @cached_property
    def drawn(self) -> list[Race]:
        """What the pictures show: half precision, the most wanted, where both sides have a time."""
        return [race for race in self.layers if race.setting[0] == HEADLINE and race.sides("quicker", "auto")]

    @property
    def pictures(self) -> list[str]:
        """Their names, <slug>-<name>.svg: those for which there is something to draw."""
        rates = (self.results.head.get("ceilings") or {}).get("matmul_flops_per_s", {})
        names = ("speedup", "roofline") if HEADLINE in rates else ("speedup",)
        return list(names) if self.drawn else []
