"""A program's CUDA graph, and the order of its runs where they come from several streams."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from convatlas.kernels.common.driver import Unprepared
from convatlas.kernels.common.prepared import Fixed
from convatlas.ops import hot
from convatlas.plan.steps import OURS, Step


class Recording:
    """A CUDA graph of a program's steps.

    torch's own replay first writes the states of its random generators, which costs more than the launch. Where no step draws a
    number the driver launches the graph itself.
    """

    def __init__(self, graph: Any, steps: list[Step]) -> None:
        self.graph = graph
        handle = getattr(graph, "raw_cuda_graph_exec", None)  # not in every torch
        self.handle: int = 0 if handle is None or any(map(_draws, steps)) else handle()

    def replay(self, stream: int, device: int, driver: Any) -> None:
        """Launches it on the stream, the device's current one."""
        if self.handle:
            driver.launch_graph(self.handle, stream, device)
        else:
            self.graph.replay()


def _draws(step: Step) -> bool:
    return step.kind != OURS and torch.Tag.nondeterministic_seeded in getattr(step.target, "tags", ())


class Launches:
    """A step's launches. Unless a graph records them, all runs but the first are prepared launches where that can be.

    With `kernels` (Loaded), which came with the plan, all runs are, recorded or not: nothing is compiled.
    """

    def __init__(self, launches: list[Any], out: Tensor, recorded: bool, kernels: list[Any] | None = None) -> None:
        self.launches, self.out, self.tried = launches, out, recorded
        self.fixed: Fixed | None = None
        if kernels is not None:
            self.tried = True
            self.fixed = Fixed(launches, kernels, hot.driver_for(out), out.get_device())

    def run(self) -> None:
        """Launches, one after another, on the current stream."""
        fixed = self.fixed
        if fixed is not None and hot.state().driver is fixed.driver and not (fixed.triton and hot.hooked()):
            fixed.run()
            return
        compiled = [launch.run() for launch in self.launches]
        if not self.tried:
            self.tried = True
            driver = hot.driver_for(self.out)
            with suppress(Unprepared):
                self.fixed = None if driver is None else Fixed(self.launches, compiled, driver, self.out.get_device())


class Turns:
    """Lets each run of a program wait for the one before it where that was on another stream.

    An event is recorded behind every run on a stream that a user made, since he may destroy it. The default stream (0) lives as
    long as the process: its event is recorded when another stream comes.
    """

    def __init__(self, device: int) -> None:
        self.device = device
        self.stream: int | None = None  # of the last run
        self._event: Any = None

    def enter(self, stream: int, driver: Any) -> None:
        """What is put on `stream`, the current one and not self.stream, from now on is behind the last run."""
        if self.stream is not None:
            if self._event is None:
                self._event = driver.event()
            if self.stream == 0:
                driver.record(self._event, self.device, default=True)
            driver.wait(self._event, self.device)
        self.stream = stream

    def leave(self, driver: Any) -> None:
        """The run is on self.stream, the current one, which is not the default one."""
        if self._event is None:
            self._event = driver.event()
        driver.record(self._event, self.device)
