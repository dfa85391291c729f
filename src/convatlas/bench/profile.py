"""Where a net's time goes: each of its layers alone against cuDNN and its bound, and all of them together against the whole net.

A layer is raced on its real shapes by the protocol (cold, graph-replayed), so that a row holds device time and nothing of the
host's. The whole net runs in a CUDA graph and eagerly: the eager time above the graph's is what launching costs; the sum of the
layers above the graph's is what the net saves by finding a layer's input in the L2 cache.

A profile is a view of races: those of `profile`, or those that a run of the suites has stored (`of_races`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from convatlas import nets
from convatlas.bench.cases import PRECISIONS, Case, layers_of, net_protocol
from convatlas.bench.contestants import AUTO
from convatlas.bench.racing import Racer
from convatlas.bench.timing import Protocol
from convatlas.errors import BackendError
from convatlas.plan.plan import Plan, compile
from convatlas.results.standings import Race
from convatlas.study.tracing import Layer, plan_layers

# The forms of a whole network, by the contestant that runs it so.
FORMS = {"ours_graph": "graph", "ours_eager": "eager", "ours_plan": "plan", "cudnn_graph": "cudnn_graph"}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One distinct layer of a net.

    Attributes:
        paths: of the modules that run it; as many as times that the net runs it.
        race: our backend, PyTorch's operators and cuDNN's fused form.
    """

    paths: list[str]
    race: Race

    @property
    def ours(self) -> float:
        return self.race.best.median

    @property
    def peer(self) -> float | None:
        """The quicker of PyTorch's operators and cuDNN's fused form; None where neither ran."""
        return self.race.quicker and self.race.quicker.median

    @property
    def bound(self) -> float:
        """Seconds below which no kernel goes, by the ceilings."""
        return self.race.bound or 0.0

    @property
    def share(self) -> float:
        """The bound's share of our time: 1 is a kernel that nothing on this GPU beats."""
        return self.bound / self.ours

    @property
    def lost(self) -> float:
        """Seconds above the bound, all its runs together."""
        return len(self.paths) * (self.ours - self.bound)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: self.race.get(name) for name in ("op", "spec", "epilogue", "flops", "bytes")}
        seconds = {"ours": self.ours} | {e.contestant: e.median for e in self.race.entries.values()}
        return {
            "paths": self.paths, **fields, "backend": self.race.best.contestant, "seconds": seconds, "absent": self.race.absent,
            "bound": self.bound, "binds": self.race.get("bound"), "peer": self.peer, "share_of_bound": self.share,
            "seconds_above_bound": self.lost,
        }  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """A net's.

    Attributes:
        net, batch, dtype: what was timed.
        layers: the distinct ones, most time above the bound first.
        whole: the race of the whole net's forms; None where it did not run.
        backend, size: whose kernels, and pixels of the input; None for a view of races that do not say.
    """

    net: str
    batch: int
    dtype: str
    layers: list[Row]
    whole: Race | None
    backend: str | None = None
    size: int | None = None

    @property
    def timer(self) -> str:
        """The clock's label; "rehearsal" for an invented one."""
        return self.layers[0].race.any.timer

    @property
    def network(self) -> dict[str, float]:
        """Seconds of the whole net by form."""
        entries = self.whole.entries if self.whole else {}
        return {form: entries[name].median for name, form in FORMS.items() if name in entries}

    @property
    def absent(self) -> dict[str, str]:
        """Forms without a time, and why."""
        found = {**self.whole.absent, **self.whole.wrong} if self.whole else {}
        return {FORMS[name]: why for name, why in found.items() if name in FORMS}

    @property
    def layers_sum(self) -> float:
        """Seconds of our layers, each as often as the net runs it."""
        return sum(len(row.paths) * row.ours for row in self.layers)

    @property
    def peer_sum(self) -> float | None:
        """The same of the peers; None where a layer has none."""
        if any(row.peer is None for row in self.layers):
            return None
        return sum(len(row.paths) * row.peer for row in self.layers)

    @property
    def bound_sum(self) -> float:
        return sum(len(row.paths) * row.bound for row in self.layers)

    @property
    def launch_gaps(self) -> float | None:
        """Seconds that launching from Python adds to a whole run; None where a form has no time."""
        found = self.network
        return found["eager"] - found["graph"] if {"eager", "graph"} <= found.keys() else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what was timed, layers, forms, sums, and all entries, which make a profile a file of results too."""
        races = [*(row.race for row in self.layers), *([self.whole] if self.whole else [])]
        entries = {entry.key: entry.as_dict() for race in races for entry in race.entries.values()}
        return {
            "net": self.net, "batch": self.batch, "dtype": self.dtype, "backend": self.backend, "size": self.size,
            "timer": self.timer, "layers": [row.as_dict() for row in self.layers], "network": self.network,
            "absent": self.absent, "layers_sum": self.layers_sum, "peer_sum": self.peer_sum, "bound_sum": self.bound_sum,
            "launch_gaps": self.launch_gaps, "benchmarks": list(entries.values()),
        }  # fmt: skip


def profile(
    net: str, batch: int, dtype: str, racer: Racer, size: int | None = None, plan: bool | Plan = False, samples: int = 9,
    progress: Progress = lambda what, done, total: None,
) -> Profile:  # fmt: skip
    """Times net `net` and each of its distinct layers.

    Args:
        dtype: one of cases.PRECISIONS.
        racer: with ceilings, and with one backend or "auto"; its `fuse` is the plan's.
        size: pixels of the square input; None is the net's own.
        plan: time the layers of the net's plan (convatlas.compile), and the plan beside the net as a whole; or a plan, of a file,
            whose layers are timed, with nothing beside them: `net` is then a name only, and `size` what the plan takes.

    Raises NetError for an unknown net, BackendError where ours fails on a layer, ShapeError for a size that does not fit the net.
    """
    stored = isinstance(plan, Plan)
    if not stored:
        row = nets.info(net)
        net, size = row.name, size or row.size
    distinct: dict[tuple, list[Layer]] = {}
    listed = (
        plan_layers(plan)
        if stored
        else _planned(net, batch, dtype, size, racer)
        if plan
        else layers_of(net, batch, size)
    )
    for layer in listed:
        distinct.setdefault(layer.key, []).append(layer)
    rows, protocol = [], Protocol("cold", "graph", samples)
    for done, layers in enumerate(distinct.values()):
        paths = [layer.path or layer.op for layer in layers]
        progress(paths[0], done, len(distinct) + 1)
        race = racer.run(Case("profile", dtype, batch, protocol, layers[0], {net: len(paths)}))
        if race.best is None:
            why = next(iter({**race.absent, **race.wrong}.values()))
            raise BackendError(f'{layers[0].op} {layers[0].spec} on backend "{racer.backend}": {why}')
        rows.append(Row(paths, race))
    if stored:
        return Profile(net, batch, dtype, _sorted(rows), None, racer.backend, size)
    progress("the whole network", len(distinct), len(distinct) + 1)
    whole = racer.run(Case("profile", dtype, batch, net_protocol(samples), None, {net: 1}, size))
    return Profile(net, batch, dtype, _sorted(rows), whole, racer.backend, size)


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -row.lost)


def _planned(net: str, batch: int, dtype: str, size: int, racer: Racer) -> list[Layer]:
    """The layers of the net's plan; a rehearsal's on a CPU is interpreted."""
    by = racer.backend if racer.backend != AUTO else "triton" if racer.rehearse else None
    x = torch.zeros(batch, 3, size, size, dtype=PRECISIONS[dtype][0], device=racer.device)
    return plan_layers(compile(nets.create(net, seed=0).to(x.device, x.dtype), x, backend=by, fuse=racer.fuse))


def of_races(layers: Iterable[Race], networks: Iterable[Race], dtype: str, batch: int) -> list[Profile]:
    """A profile of each net whose layers were raced in one precision at one batch size, each layer under its name in tables.

    Of published layers there is none, and no network runs the residual additions that are raced: they are fused.
    """
    rows: dict[str, list[Row]] = {}
    for race in layers:
        own = race.any.suite in ("layers", "profile") and race.get("op") != "residual_add"
        if own and race.setting == (dtype, batch) and race.best:
            for net, times in (race.get("places") or {}).items():
                rows.setdefault(net, []).append(Row([race.layer] * times, race))
    wholes = {next(iter(r.get("places"))): r for r in networks if r.get("places") and r.setting == (dtype, batch)}
    return [Profile(net, batch, dtype, _sorted(found), wholes.get(net)) for net, found in rows.items()]
