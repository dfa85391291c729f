"""Programs for other batch sizes: derived from one trace whose batch is open, where the module lets it, else traced again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.errors import NetError
from convatlas.plan import export
from convatlas.plan.plan import Plan
from convatlas.plan.steps import Graph


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the batch was open, of each trace by torch.export."""
    found: list[bool] = []
    right = export.exported

    def counted(module: nn.Module, inputs: Any, free: bool = False) -> Any:
        found.append(free)
        return right(module, inputs, free)

    monkeypatch.setattr(export, "exported", counted)
    return found


class Sizes(nn.Module):
    """What reads the batch in every usual way: view by x.size(0), flatten, a mean, a chunk, a tensor of the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.norm(self.conv(x))).chunk(2, 1)
        y = torch.cat([b, a], 1).view(x.size(0), 2, 4, 4, 4).transpose(1, 2).reshape(x.size(0), -1)
        y = y.reshape(x.shape[0], 4, 32).mean(1) + torch.ones(x.shape[0], 1, dtype=x.dtype)
        return self.fc(y.flatten(1))


def image(batch: int) -> Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch))


def assert_follows(module: nn.Module, sizes: tuple[int, ...]) -> Plan:
    plan = convatlas.compile(module, image(sizes[0]), backend="numpy")
    for batch in sizes:
        with torch.no_grad():
            torch.testing.assert_close(plan(image(batch)), module(image(batch)), rtol=1e-5, atol=1e-5)
    return plan


def shapes(graph: Graph) -> list[Any]:
    return [(value.shape, value.dtype) for value in graph.values.values()] + list(graph.strides.values())


def steps(graph: Graph) -> list[Any]:
    return [(step.op, step.path, step.call, step.kind, len(step.inputs), step.merged) for step in graph.steps]


def test_two_traces_serve_all_batches_but_one(traces: list[bool]) -> None:
    torch.manual_seed(0)
    module = Sizes().eval()
    plan = assert_follows(module, (4, 7, 3, 2, 4))
    assert traces == [False, True]
    assert_follows(module, (1,))
    with torch.no_grad():
        torch.testing.assert_close(plan(image(1)), module(image(1)))  # torch.export takes 1 for a constant
    assert traces == [False, True, False, False]
    del traces[:]
    for batch in (7, 3):  # step by step what a plan of that size alone would be
        own, derived = convatlas.compile(module, image(batch), backend="numpy").program(), plan.program((image(batch),))
        for name in ("torch_peak", "torch_layers"):
            assert getattr(own.graph, name) == getattr(derived.graph, name), name
        for of in (shapes, steps):  # but for torch.export's names of values
            assert of(own.graph) == of(derived.graph)
    with torch.no_grad():
        module.conv.weight.mul_(2)
        for batch in (7, 3):
            torch.testing.assert_close(plan(image(batch)), module(image(batch)))
    module.fc.weight, module.fc.bias = nn.Parameter(torch.ones(6, 32)), nn.Parameter(torch.ones(6))  # traced anew
    with torch.no_grad():
        assert plan(image(3)).shape == module(image(3)).shape == (3, 6)


class Branching(nn.Module):
    """Another path for some batches."""

    def __init__(self, test: Callable[[int], bool]) -> None:
        super().__init__()
        self.test = test

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.test(x.shape[0]) else x * 2


@pytest.mark.parametrize(
    "test",
    [lambda n: n > 4, lambda n: n % 2 == 0, lambda n: n * n > 40, lambda n: n == 1],
    ids=["above 4", "even", "square above 40", "1"],
)
def test_a_module_that_asks_for_its_batch_gets_the_path_of_that_batch(test: Callable[[int], bool]) -> None:
    assert_follows(Branching(test).eval(), (2, 3, 8, 5, 1))


def test_two_inputs_of_two_batches() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.relu(x) + y.mean(0)

    plan = convatlas.compile(Two().eval(), (torch.ones(4, 3), torch.ones(4, 3)), backend="numpy")
    for a, b in ((4, 4), (5, 5), (5, 6), (3, 3), (1, 4)):
        x, y = torch.randn(a, 3), torch.randn(b, 3)
        torch.testing.assert_close(plan(x, y), torch.relu(x) + y.mean(0))


def test_a_module_of_one_batch_is_refused_in_one_line_for_another() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(4, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.bias

    plan = convatlas.compile(Fixed().eval(), image(4), backend="numpy")
    with pytest.raises(NetError, match="cannot trace Fixed") as said:
        plan(image(5))
    assert "\n" not in str(said.value)
    with torch.no_grad():
        torch.testing.assert_close(plan(image(4)), image(4) + 1)
