"""How anything is timed here: one protocol, and the clocks that it may read.

A contestant is a function of a data set. Contestants are timed by turns in one process (A B A B ..., then B A B A ...), so that
clocks and temperature treat them alike, on random data (zeros can run faster), after a warm-up that compiles and tunes.

    cold   every launch meets data that left the L2 cache: launches go round as many data sets as twice the L2 holds
    warm   one data set, which stays in the L2 cache if it fits
    graph  launches are captured in a CUDA graph and replayed: device time, host out of the way
    eager  launches from Python as a user writes them: the host's time shows where it is the longer

A sample is the time between two CUDA events around at least LEAST seconds of work, over the number of launches in it.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Run = Callable[[Tensors], object]

LEAST = 200e-6  # seconds of work in a sample: 400 times a CUDA event's resolution (0.5 us, CUDA Runtime API, cudaEventElapsedTime)
GRAPH_LAUNCHES = 16  # at least, in one graph: the gap between two graphs is spread over that many
MOST_SETS = 256


@dataclass(frozen=True)
class Contestant:
    """Something to be timed.

    Attributes:
        name: of it in the results.
        run: the work on one data set; launches only, no synchronisation.
        form: "graph" or "eager" where this contestant has a form of its own; None is the protocol's.
    """

    name: str
    run: Run
    form: str | None = None


@dataclass(frozen=True)
class Protocol:
    """What is varied. Raises nothing; the names are checked where they are read from a user.

    Attributes:
        cache: "cold" or "warm".
        form: "graph" or "eager".
        samples: of each contestant.
    """

    cache: str = "cold"
    form: str = "graph"
    samples: int = 15


Sampler = Callable[[], float]


class Timer(Interface):
    """A clock and how work is put before it."""

    label: str
    cache_bytes: int

    def prepare(self, run: Run, sets: Sequence[Tensors], form: str) -> Sampler:
        """Warms up; the result takes one sample a call, in seconds a launch."""
        ...


class CudaTimer:
    """CUDA events on the current device."""

    label = "CUDA events"

    def __init__(self) -> None:
        self.cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size

    def prepare(self, run: Run, sets: Sequence[Tensors], form: str) -> Sampler:
        for data in sets:  # every set: a tuner that is keyed by address or alignment has then seen them all
            run(data)
        torch.cuda.synchronize()
        laps = max(1, math.ceil(GRAPH_LAUNCHES / len(sets)))
        if form == "eager":

            def once() -> None:
                for _ in range(laps):
                    for data in sets:
                        run(data)

        else:
            graph, kept = torch.cuda.CUDAGraph(), {}
            with torch.cuda.graph(graph):
                for _ in range(laps):
                    for i, data in enumerate(sets):
                        # An output lives until its set comes round again: no launch writes where the last one has just written.
                        kept[i] = run(data)
            once = graph.replay
        once()
        launches, first = laps * len(sets), self._between(once, 1)
        replays = max(1, math.ceil(LEAST / first))
        return lambda: self._between(once, replays) / (replays * launches)

    @staticmethod
    def _between(once: Callable[[], None], times: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            once()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3


class HostTimer:
    """The host's clock, for work that is done when its call returns: CPU operators, the interpreter, host builds.

    With `settle` that many seconds pass before each sample, and one more run that is not timed.
    """

    label = "host clock"
    cache_bytes = 0

    def __init__(self, settle: float | None = None) -> None:
        self.settle = settle

    def prepare(self, run: Run, sets: Sequence[Tensors], form: str) -> Sampler:
        run(sets[0])

        def sample() -> float:
            if self.settle is not None:
                time.sleep(self.settle)
                run(sets[0])
            start = time.perf_counter()
            run(sets[0])
            return time.perf_counter() - start

        return sample


class FakeTimer:
    """No clock: each contestant runs once, and its times are made up, `seconds` times a factor and noise that `seed` fixes.

    For rehearsals on machines without a GPU: everything around a measurement runs, and no number of it is one.
    """

    label = "rehearsal"
    cache_bytes = 0

    def __init__(self, seconds: float, seed: int = 0) -> None:
        self.seconds = seconds
        self._random = random.Random(seed)

    def prepare(self, run: Run, sets: Sequence[Tensors], form: str) -> Sampler:
        run(sets[0])
        typical = self.seconds * self._random.uniform(1.1, 3.0)
        return lambda: typical * self._random.lognormvariate(0.0, 0.01)


def sets_for(timer: Timer, cache: str, bytes_each: int) -> int:
    """Data sets to go round, so that the cache has lost one before it comes again: twice the L2, at most MOST_SETS."""
    if cache == "warm" or timer.cache_bytes == 0:
        return 1
    return max(1, min(MOST_SETS, math.ceil(2 * timer.cache_bytes / max(bytes_each, 1))))


def reason(error: Exception) -> str:
    """An exception in one line of at most 160 characters: PyTorch's may list every backend that it has."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= 160 else text[:157] + "..."


def race(
    contestants: Sequence[Contestant], sets: Sequence[Tensors], timer: Timer, protocol: Protocol
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Times the contestants by turns: (seconds a launch of each sample, why there are none), each by the contestant's name.

    One that raises while it warms up is out of the race.
    """
    samplers: dict[str, Sampler] = {}
    out: dict[str, str] = {}
    for contestant in contestants:
        try:
            samplers[contestant.name] = timer.prepare(contestant.run, sets, contestant.form or protocol.form)
        except Exception as error:  # a library without a plan for this layer raises anything
            out[contestant.name] = reason(error)
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for turn in range(protocol.samples):
        for name in list(samplers) if turn % 2 == 0 else reversed(samplers):
            seconds[name].append(samplers[name]())
    samplers.clear()
    gc.collect()  # graphs hold their memory until they are gone
    return seconds, out
