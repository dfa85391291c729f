"""The host's time of an op, without a GPU: all that happens before the driver launches, and a driver that does nothing.

    ordinary   the way of a first call: dispatcher, spec, config, launches; Triton's own dispatch is not in it
    prepared   the way of a later one: a look-up, the output, addresses (ops/hot.py)
    launched   a call of a plan until its graph is launched, behind which the GPU has its work
    call       all of that call: the output, and the look at the weights

Tensors are a CPU's, and launches an H100's. What the stub leaves out is the driver's own time, 1.3 to 3 us a launch.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from convatlas import nets
from convatlas.bench.cases import Timed, counted, layers_of
from convatlas.bench.contestants import FOLDED, with_folded
from convatlas.bench.cpu import host_race
from convatlas.codegen.stub import Stub, stubbed
from convatlas.ops import hot
from convatlas.ops.automatic import preferred
from convatlas.ops.backends import use_backend
from convatlas.plan.plan import compile
from convatlas.plan.replay import Recording
from convatlas.results.standings import Race
from convatlas.specs import dtype_name
from convatlas.study.tracing import Layer
from convatlas.verify.single import call, operands

NETS = ("resnet50", "mobilenet_v2")
WAYS = ("ordinary", "prepared")
TARGET = 15e-6  # seconds of the host's time an op, at the median over the ops of NETS
CALLS = 20  # in a sample


def layers(batch: int = 1) -> list[Timed]:
    """Each distinct layer of NETS with the count of its places."""
    return counted((net, layer) for net in NETS for layer in layers_of(net, batch))


def runner(layer: Layer, dtype: torch.dtype = torch.float16) -> tuple[str, Callable[[], Tensor]]:
    """(backend, the op on operands of its own), as a net calls it."""
    chosen = preferred(replace(layer.call, dtype=dtype_name(dtype)))
    tensors = with_folded(layer, operands(layer, dtype, torch.device("cpu"), 0))
    if (folded := tensors.pop(FOLDED, None)) is not None:
        tensors["weight"] = folded
    return chosen, partial(call, layer, tensors)


@cache
def op_races(batch: int = 1, samples: int = 15) -> list[Race]:
    """Every distinct layer of NETS by both ways, by turns."""
    found = []
    with stubbed() as state:
        for timed in layers(batch):
            chosen, run = runner(timed.layer)
            with use_backend(chosen):
                seconds = _by_turns(run, samples, CALLS)
            case = f"{timed.name}, host's time of a launch with {chosen}"
            found.append(host_race("host", case, seconds, places=timed.places, driver="stub"))
        assert not state.reasons, state.reasons  # every op is prepared
    return found


@cache
def forward_race(name: str, samples: int = 9) -> Race:
    """A forward of one of NETS on one image, half precision, on the Triton kernels: the modules' own time is in it."""
    size, net = nets.info(name).size, nets.create(name).eval().half()
    x = torch.zeros(1, 3, size, size, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    with stubbed(), use_backend("triton"):
        seconds = _by_turns(partial(net, x), samples, 1)
    return host_race("forward", f"a forward of {name}", seconds, places={name: 1}, driver="stub")


class _Clock(Stub):
    """A stub that remembers when it launched a graph."""

    at = 0.0

    def launch_graph(self, graph: int, stream: int, device: int) -> None:
        super().launch_graph(graph, stream, device)
        self.at = time.perf_counter()


@cache
def plan_race(name: str, samples: int = 9) -> Race:
    """A call of the plan of one of NETS: until its graph is launched, and in all, the weights looked at.

    The graph does nothing, and the image is small, since on a GPU copies are not the host's work.
    """
    x = torch.zeros(1, 3, 32, 32, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    plan, clock = compile(nets.create(name).eval().half(), x, backend="numpy"), _Clock()
    program, graph = plan.program(), SimpleNamespace(raw_cuda_graph_exec=lambda: 1)
    program.driver, program.capture, program.recording = clock, True, Recording(graph, program.graph.steps)
    seconds: dict[str, list[float]] = {"launched": [], "call": []}
    plan(x)
    for _ in range(samples):
        launched = 0.0
        start = time.perf_counter()
        for _ in range(CALLS):
            begun = time.perf_counter()
            plan(x)
            launched += clock.at - begun
        seconds["call"].append((time.perf_counter() - start) / CALLS)
        seconds["launched"].append(launched / CALLS)
    return host_race("forward", f"a call of {name}'s plan", seconds, places={name: 1}, driver="stub")


def _by_turns(run: Callable[[], Any], samples: int, calls: int) -> dict[str, list[float]]:
    def ordinary() -> None:
        with hot.using(None):
            run()

    run(), run(), ordinary()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    gc.collect()
    gc.disable()
    try:
        for _ in range(samples):
            seconds["prepared"].append(_time(run, calls))
            seconds["ordinary"].append(_time(ordinary, max(1, calls // 10)))
    finally:
        gc.enable()
    return seconds


def _time(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def over_nets(races: Iterable[Race]) -> list[Race]:
    """A row a network and one for all: the medians over all ops that they run, each at each of its places."""
    rows = {f"an op of {net}, median": (net,) for net in NETS} | {"an op of both, median": NETS}
    found = []
    for name, chosen in rows.items():
        medians = {
            way: median(
                race.entries[way].median
                for race in races
                for net in chosen
                for _ in range(race.get("places").get(net, 0))
            )
            for way in WAYS
        }
        found.append(host_race("forward", name, {way: [seconds] for way, seconds in medians.items()}))
    return found
