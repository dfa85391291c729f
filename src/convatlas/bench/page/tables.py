"""The tables of docs/performance.md, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from convatlas.bench.page.data import FAMILIES, PEERS, Race, settings
from convatlas.bench.stats import geometric_mean

WORST = 10
ALL = "**all**"
VERDICTS = ("faster", "same", "slower", "unsure")
NET_FORMS = ("ours_graph", "ours_eager", "cudnn_graph", "cudnn_eager", "compile")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """Markdown; the first `text` columns stand left, numbers right."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * text + "--:|" * (len(header) - text)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def times(ratio: float | None) -> str:
    """A speed-up: "1.37"."""
    return "" if ratio is None else f"{ratio:.2f}"


def micro(seconds: float | None) -> str:
    """Microseconds with three digits, or none behind the point from 100 on."""
    if seconds is None:
        return ""
    us = seconds * 1e6
    return f"{us:.0f}" if us >= 100 else f"{us:.1f}" if us >= 10 else f"{us:.2f}"


def mean(races: Sequence[Race], peer: str, ours: str = "auto") -> str:
    """Geometric mean of the speed-ups over `peer` where both ran."""
    found = [ratio for race in races if (ratio := race.speedup(peer, ours)) is not None]
    return times(geometric_mean(found)) if found else ""


def verdicts(races: Sequence[Race], peer: str) -> str:
    """ "31 / 4 / 12 / 2": layers on which ours is faster, the same, slower, unsure."""
    found = Counter(result.verdict for race in races if (result := race.against(peer)) is not None)
    return " / ".join(str(found[verdict]) for verdict in VERDICTS) if found else ""


def by_family(races: Sequence[Race]) -> list[tuple[str, tuple[str, int], list[Race]]]:
    """(family, (precision, batch), races), those that occur."""
    found = []
    for family in FAMILIES:
        for setting in settings(races):
            chosen = [race for race in races if race.family == family and race.setting == setting]
            if chosen:
                found.append((family, setting, chosen))
    return found


def families(races: Sequence[Race]) -> str:
    """Of one precision: a row a family and batch size, and one for all families together."""
    header = ["family", "batch", "layers", *AGAINST]
    rows = by_family(races) + [
        (ALL, setting, [r for r in races if r.setting == setting]) for setting in settings(races)
    ]
    return table(header, (_row(*row) for row in rows))


def _row(family: str, setting: tuple[str, int], races: list[Race]) -> list[str]:
    return [family, str(setting[1]), str(len(races)), *_against(races)]


AGAINST = [cell for peer in (*PEERS, "quicker") for cell in (f"over {peer}: auto", "best", "f / s / sl / u")]


def _against(races: Sequence[Race]) -> list[str]:
    """The cells under AGAINST."""
    return [
        cell
        for peer in (*PEERS, "quicker")
        for cell in (mean(races, peer), mean(races, peer, "best"), verdicts(races, peer))
    ]


def published(races: Sequence[Race]) -> str:
    """Of one precision: a row a published list and family, all its batch sizes together."""
    sources = dict.fromkeys(source for race in races for source in race.get("places") or {})
    rows = []
    for source in sources:
        for family in FAMILIES:
            chosen = [race for race in races if race.family == family and source in race.get("places")]
            if chosen:
                batches = sorted({race.setting[1] for race in chosen})
                said = " to ".join(str(n) for n in dict.fromkeys((batches[0], batches[-1])))
                rows.append([source, family, said, str(len(chosen)), *_against(chosen)])
    return table(["list", "family", "batch", "layers", *AGAINST], rows, text=2)


def worst(races: Sequence[Race]) -> list[Race]:
    """The layers on which ours by `auto` is slower than the quicker peer beyond doubt, the largest ratio first."""
    losses = [race for race in races if (found := race.against("quicker")) and found.verdict == "slower"]
    return sorted(losses, key=lambda race: race.speedup("quicker"))[:WORST]


def losses(races: Sequence[Race]) -> str:
    """A row each of `worst`."""
    header = [
        "layer",
        "precision",
        "batch",
        "ours",
        "by",
        "quicker peer",
        "by",
        "ours / peer",
        "99 %",
        "share of bound",
    ]
    rows = [
        [
            race.layer, race.setting[0], str(race.setting[1]), micro(race.auto.median), race.auto.contestant,
            micro(race.quicker.median), race.quicker.contestant, times(found.ratio), f"{found.low:.2f} to {found.high:.2f}",
            share(race),
        ]
        for race in worst(races) if (found := race.against("quicker"))
    ]  # fmt: skip
    return table(header, rows, text=2)


def share(race: Race) -> str:
    """Bound over ours, in percent."""
    return f"{100 * race.bound / race.auto.median:.0f} %" if race.bound and race.auto else ""


def layers(races: Sequence[Race], net: str) -> str:
    """Every layer of one net in one precision at one batch size, in the net's order."""
    header = [
        "layer",
        "times",
        "triton",
        "cuda",
        "cudnn",
        "cudnn_fused",
        "bound",
        "bound by",
        "share",
        "over quicker",
        "verdict",
    ]
    return table(header, ([race.layer, str(race.get("places")[net]), *_times(race)] for race in races))


def _times(race: Race) -> list[str]:
    cells = []
    for name in ("triton", "cuda", *PEERS):
        entry = race.entries.get(name)
        text = micro(entry.median) if entry else ""
        cells.append(f"**{text}**" if entry is not None and entry is race.auto else text)
    found = race.against("quicker")
    cells += [micro(race.bound), race.get("bound") or "", share(race), times(race.speedup("quicker"))]
    return [*cells, found.verdict if found else ""]


def networks(races: Sequence[Race]) -> str:
    """A row a network: milliseconds of every contestant, and ours against the quickest other."""
    names = [name for name in NET_FORMS if any(name in race.entries for race in races)]
    names += sorted({name for race in races for name in race.entries} - set(names))
    header = ["network", "precision", "batch", *names, "over cudnn_graph", "over the quickest", "images/s"]
    return table(header, (_network(race, names) for race in races), text=2)


def _network(race: Race, names: Sequence[str]) -> list[str]:
    found = {name: race.entries[name].median for name in names if name in race.entries}
    cells = [race.spec.split(" ")[0], race.setting[0], str(race.setting[1])]
    cells += [f"{1e3 * found[name]:.3g}" if name in found else "" for name in names]
    ours = min((s for name, s in found.items() if name.startswith("ours")), default=None)
    others = [s for name, s in found.items() if not name.startswith("ours")]
    graph = found.get("cudnn_graph")
    cells += [times(graph / ours) if ours and graph else "", times(min(others) / ours) if ours and others else ""]
    return [*cells, f"{race.setting[1] / ours:,.0f}" if ours else ""]
