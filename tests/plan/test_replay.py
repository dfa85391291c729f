"""What a call of a recorded plan does on the host, by a driver whose graphs do nothing, or what the plain run does."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.codegen.stub import Stub
from convatlas.plan.plan import Plan
from convatlas.plan.program import Program
from convatlas.plan.replay import Recording


class Fake(Stub):
    """A GPU's streams and graphs. `log` says what was put where: events, and launches of graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []
        self.at, self.captured = 0, False

    def launch_graph(self, graph: Any, stream: int, device: int) -> None:
        self.log.append(("graph", stream))
        graph()

    def stream(self, device: int) -> int:
        return self.at

    def capturing(self) -> bool:
        return self.captured

    def event(self) -> str:
        return "event"

    def record(self, event: str, device: int, default: bool = False) -> None:
        self.log.append(("record", 0 if default else self.at))

    def wait(self, event: str, device: int) -> None:
        self.log.append(("wait", self.at))

    @property
    def graphs(self) -> int:
        return sum(kind == "graph" for kind, _ in self.log)


def on(driver: Fake, plan: Plan, graph: Callable[[Program], Callable[[], None]] = lambda program: program.run) -> None:
    """Lets the plan's programs take `driver` for their GPU; what a graph of theirs does is the plain run."""
    for program in plan._programs.values():
        program.driver, program.capture = driver, True
        fake = SimpleNamespace(raw_cuda_graph_exec=lambda program=program: graph(program))
        program._recorded = lambda program=program, fake=fake: Recording(fake, program.graph.steps)  # type: ignore[method-assign]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    return nn.Sequential(*parts).eval()


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def assert_is(found: Tensor, net: nn.Module, x: Tensor = X) -> None:
    with torch.no_grad():
        torch.testing.assert_close(found, net(x), rtol=1e-5, atol=1e-5)


def test_a_call_is_a_copy_a_graph_and_an_output(net: nn.Module) -> None:
    """Counted over every function, ours and C's: no event, no stream, no context manager, and nothing that grows with the net."""
    plan, driver = convatlas.compile(net, X, backend="numpy"), Fake()
    on(driver, plan, lambda program: lambda: None)
    plan(X)
    called: Counter[str] = Counter()

    def count(frame: Any, event: str, arg: Any) -> None:
        if event in ("call", "c_call"):
            called[frame.f_code.co_name if event == "call" else arg.__name__] += 1

    driver.log.clear()
    sys.setprofile(count)
    try:
        plan(X)
    finally:
        sys.setprofile(None)
    assert driver.log == [("graph", 0)]
    assert called["copy_"] == called["clone"] == called["changed"] == 1
    assert not [
        name for name in called if name.startswith(("empty", "new_empty", "no_grad", "current_stream", "device"))
    ]
    assert sum(called.values()) < 50, called


def test_a_changed_weight_costs_a_second_launch_and_is_never_missed(net: nn.Module) -> None:
    plan, driver = convatlas.compile(net, X, backend="numpy"), Fake()
    on(driver, plan)
    assert_is(plan(X), net)
    for change, launches in (
        (lambda: None, 1),
        (lambda: net[0].weight.mul_(2), 2),
        (lambda: net[1].running_var.add_(1), 2),
        (lambda: setattr(net[5], "bias", nn.Parameter(torch.ones(4))), 2),
        (lambda: setattr(net[0].weight, "data", torch.ones(5, 3, 3, 3)), 2),
        (lambda: None, 1),
    ):
        with torch.no_grad():
            change()
        before = driver.graphs
        assert_is(plan(X), net)
        assert driver.graphs - before == launches


def test_a_weight_that_another_thread_packs_meanwhile_is_not_missed(net: nn.Module) -> None:
    """The old weights are launched, then another thread's call packs the new ones, and all looks unchanged again."""
    plan, driver = convatlas.compile(net, X, backend="numpy"), Fake()
    on(driver, plan)
    plan(X)
    with torch.no_grad():
        net[0].weight.mul_(2)
    program = plan.program
    call, once = Program.__call__, [True]

    def overtaken(self: Program, inputs: Any) -> Any:
        result = call(self, inputs)
        if once and once.pop():
            plan.refresh()
        return result

    Program.__call__ = overtaken  # type: ignore[method-assign]
    try:
        assert_is(plan(X), net)
    finally:
        Program.__call__ = call  # type: ignore[method-assign]
    assert plan.program == program and not once


def test_events_are_for_other_streams_only(net: nn.Module) -> None:
    plan, driver = convatlas.compile(net, X, backend="numpy"), Fake()
    on(driver, plan)
    for stream, expected in (
        (0, [("graph", 0)]),
        (0, [("graph", 0)]),
        (5, [("record", 0), ("wait", 5), ("graph", 5), ("record", 5)]),
        (5, [("graph", 5), ("record", 5)]),
        (7, [("wait", 7), ("graph", 7), ("record", 7)]),
        (0, [("wait", 0), ("graph", 0)]),
        (0, [("graph", 0)]),
        (7, [("record", 0), ("wait", 7), ("graph", 7), ("record", 7)]),
    ):
        driver.at = stream
        driver.log.clear()
        assert_is(plan(X), net)
        assert driver.log == expected


def test_who_captures_or_observes_gets_the_steps(net: nn.Module) -> None:
    plan, driver = convatlas.compile(net, X, backend="numpy"), Fake()
    on(driver, plan)
    plan(X)
    driver.log.clear()
    driver.captured = True
    assert_is(plan(X), net)
    driver.captured = False
    with convatlas.checking() as report:
        assert_is(plan(X), net)
    assert len(report) == 3 and report.ok and not driver.log
    x = X.clone().requires_grad_()
    with pytest.raises(convatlas.errors.ArgumentError, match="gradient"):
        plan(x)
    with torch.no_grad():
        assert_is(plan(x), net)
    assert driver.graphs == 1


def test_where_a_step_draws_numbers_torch_replays() -> None:
    """It moves its generators' states on, so that no two replays draw the same."""
    replayed = []
    graph = SimpleNamespace(raw_cuda_graph_exec=lambda: 1, replay=lambda: replayed.append(1))
    step = SimpleNamespace(kind="torch", target=torch.ops.aten.rand_like.default)
    plain = SimpleNamespace(kind="torch", target=torch.ops.aten.erf.default)
    driver = SimpleNamespace(launch_graph=lambda *given: replayed.append(given))
    for steps in ([plain, step], [plain]):
        Recording(graph, steps).replay(3, 0, driver)  # type: ignore[arg-type]
    without = SimpleNamespace(replay=lambda: replayed.append(2))  # a torch that keeps the graph's handle to itself
    Recording(without, [plain]).replay(3, 0, driver)  # type: ignore[list-item]
    assert replayed == [1, (1, 3, 0), 2]


def test_threads_and_batches(net: nn.Module) -> None:
    plan, driver = convatlas.compile(net, X, backend="numpy"), Fake()
    inputs = [torch.randn(1 + i % 3, 3, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(60)]
    for x in inputs[:3]:
        plan(x)
    on(driver, plan)
    with torch.no_grad():
        expected = [net(x) for x in inputs]
    with ThreadPoolExecutor(10) as pool:
        for found, wanted in zip(pool.map(plan, inputs), expected):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert driver.graphs == len(inputs)
