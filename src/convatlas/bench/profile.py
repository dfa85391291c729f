"""Where a net's time goes: each of its layers alone against cuDNN and its bound, and all of them together against the whole net.

A layer is timed on its real shapes by the protocol (cold, graph-replayed), so that a row holds device time and nothing of the
host's. The whole net runs in a CUDA graph and eagerly: the eager time above the graph's is what launching costs; the sum of the
layers above the graph's is what the net saves by finding a layer's input in the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from convatlas import nets
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.contestants import AUTO, by_backend, contestants, data_sets, on, tuned
from convatlas.bench.timing import Contestant, Measurement, Protocol, Tensors, Timer, medians, race
from convatlas.errors import BackendError
from convatlas.kernels.common.precision import may_be_tf32
from convatlas.plan.plan import Plan, compile
from convatlas.specs import dtype_name
from convatlas.study.tracing import Layer, plan_layers, trace

BACKENDS = (AUTO, "triton", "cuda")
OURS, GRAPH, EAGER, PLAN = "ours", "graph", "eager", "plan"
Progress = Callable[[str, int, int], None]


@dataclass
class LayerProfile:
    """One distinct layer of a net.

    Attributes:
        paths: of the modules that run it; as many as times that the net runs it.
        op, spec, epilogue: what it is.
        flops, bytes: of one run; compulsory bytes.
        seconds: medians by contestant: "ours", "cudnn", "cudnn_fused".
        absent: contestants without a time, and why.
        bound: seconds below which no kernel goes, by the ceilings.
        binds: what sets the bound: "tensor", "bandwidth" or "launch".
    """

    paths: list[str]
    op: str
    spec: str
    epilogue: str
    flops: int
    bytes: int
    seconds: dict[str, float]
    absent: dict[str, str]
    bound: float
    binds: str

    @property
    def ours(self) -> float:
        return self.seconds[OURS]

    @property
    def peer(self) -> float | None:
        """The quicker of PyTorch's operators and cuDNN's fused form; None where neither ran."""
        peers = [seconds for name, seconds in self.seconds.items() if name != OURS]
        return min(peers) if peers else None

    @property
    def share(self) -> float:
        """The bound's share of our time: 1 is a kernel that nothing on this GPU beats."""
        return self.bound / self.ours

    @property
    def lost(self) -> float:
        """Seconds above the bound, all its runs together."""
        return len(self.paths) * (self.ours - self.bound)


@dataclass
class Profile:
    """A net's.

    Attributes:
        net, batch, dtype, backend, size: what was timed.
        timer: the clock's label; "rehearsal" for an invented one.
        layers: the distinct ones, most time above the bound first.
        network: seconds of the whole net by form: "graph", "eager", "plan".
        absent: forms without a time, and why.
    """

    net: str
    batch: int
    dtype: str
    backend: str
    size: int
    timer: str
    layers: list[LayerProfile]
    network: dict[str, float]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def layers_sum(self) -> float:
        """Seconds of our layers, each as often as the net runs it."""
        return sum(len(layer.paths) * layer.ours for layer in self.layers)

    @property
    def peer_sum(self) -> float | None:
        """The same of the peers; None where a layer has none."""
        if any(layer.peer is None for layer in self.layers):
            return None
        return sum(len(layer.paths) * layer.peer for layer in self.layers)

    @property
    def bound_sum(self) -> float:
        return sum(len(layer.paths) * layer.bound for layer in self.layers)

    @property
    def launch_gaps(self) -> float | None:
        """Seconds that launching from Python adds to a whole run; None where a form has no time."""
        return self.network[EAGER] - self.network[GRAPH] if {EAGER, GRAPH} <= self.network.keys() else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, the sums, and per layer what follows from its times."""
        document = asdict(self)
        for entry, layer in zip(document["layers"], self.layers):
            entry.update(peer=layer.peer, share_of_bound=layer.share, seconds_above_bound=layer.lost)
        sums = dict(layers_sum=self.layers_sum, peer_sum=self.peer_sum, bound_sum=self.bound_sum)
        return {**document, **sums, "launch_gaps": self.launch_gaps}


def profile(
    net: str,
    batch: int,
    dtype: str,
    backend: str,
    size: int | None,
    timer: Timer,
    device: torch.device,
    ceilings: Ceilings,
    progress: Progress = lambda what, done, total: None,
    samples: int = 9,
    plan: bool = False,
) -> Profile:
    """Times net `net` and each of its distinct layers on `device` by `timer`.

    Args:
        backend: "auto" (ops/automatic.py), "triton" or "cuda".
        size: pixels of the square input; None is the net's own.
        plan: time the layers of the net's plan (convatlas.compile), and the plan beside the net as a whole.

    Raises NetError for an unknown net, BackendError for an unknown backend or one that fails on a layer, ShapeError for a size that
    does not fit the net.
    """
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r}, expected one of {', '.join(BACKENDS)}")
    row = nets.info(net)
    net, size = row.name, size or row.size
    kind = getattr(torch, dtype)
    shape = (batch, 3, size, size)
    traced = plan_layers(_plan(net, shape, kind, device, backend)) if plan else None
    if traced is None:
        with torch.device("meta"):
            traced = trace(nets.create(net), shape, kind)
    distinct: dict[tuple, list[Layer]] = {}
    for layer in traced:
        distinct.setdefault(layer.key, []).append(layer)
    rig = Rig(kind, backend, timer, device, samples)
    rows = []
    with tuned():
        for done, layers in enumerate(distinct.values()):
            progress(layers[0].path or layers[0].op, done, len(distinct) + 1)
            rows.append(_layer(layers, rig, ceilings))
        progress("the whole network", len(distinct), len(distinct) + 1)
        whole = _network(net, shape, rig, plan)
    rows.sort(key=lambda row: -row.lost)
    return Profile(net, batch, dtype, backend, size, timer.label, rows, *_split(whole))


@dataclass(frozen=True)
class Rig:
    """What each layer and the whole net are timed with."""

    dtype: torch.dtype
    backend: str
    timer: Timer
    device: torch.device
    samples: int


def _split(found: dict[str, Measurement]) -> tuple[dict[str, float], dict[str, str]]:
    """(medians of those that were timed, reasons of those that were not)."""
    return medians(found), {name: m.error for name, m in found.items() if not m.seconds}


def _layer(layers: list[Layer], rig: Rig, ceilings: Ceilings) -> LayerProfile:
    layer, dtype = layers[0], dtype_name(rig.dtype)
    sets = data_sets(layer, rig.dtype, rig.device, rig.timer, "cold")
    racing = [Contestant(OURS, by_backend(layer, rig.backend)), *contestants(layer, ours=())]
    found = race(racing, sets, rig.timer, Protocol("cold", "graph", rig.samples))
    if not found[OURS].seconds:
        raise BackendError(f'{layer.op} {layer.spec} on backend "{rig.backend}": {found[OURS].error}')
    bound = ceilings.bound(layer.spec, layer.epilogue, dtype, may_be_tf32(layer.op))
    work = layer.spec.flops, layer.spec.bytes(dtype, layer.epilogue)
    names = [each.path or each.op for each in layers]
    return LayerProfile(names, layer.op, str(layer.spec), str(layer.epilogue or "none"), *work, *_split(found), *bound)


def _plan(net: str, shape: tuple[int, ...], kind: torch.dtype, device: torch.device, backend: str) -> Plan:
    """The net's plan; a rehearsal on a CPU is interpreted."""
    by = backend if backend != AUTO else None if device.type == "cuda" else "triton"
    x = torch.zeros(shape, dtype=kind, device=device)
    return compile(nets.create(net, seed=0).to(device, kind), x, backend=by)


def _network(net: str, shape: tuple[int, ...], rig: Rig, plan: bool = False) -> dict[str, Measurement]:
    """The whole net by form. One data set: what a net leaves in the cache for its next layer is part of how it runs."""
    model = nets.create(net, seed=0).to(rig.device, rig.dtype)
    x = torch.randn(shape, device=rig.device).to(rig.dtype).contiguous(memory_format=torch.channels_last)

    def run(tensors: Tensors) -> object:
        with torch.no_grad(), on(rig.backend):
            return model(tensors["x"])

    forms = [Contestant(form, run) for form in (GRAPH, EAGER)]
    found = {c.name: race([c], [{"x": x}], rig.timer, Protocol("warm", c.name, rig.samples))[c.name] for c in forms}
    if plan:
        planned = _plan(net, shape, rig.dtype, rig.device, rig.backend)
        racing = [Contestant(PLAN, lambda tensors: planned(tensors["x"]))]
        found |= race(racing, [{"x": x}], rig.timer, Protocol("warm", EAGER, rig.samples))
    return found
