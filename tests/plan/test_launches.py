"""A plan without a graph runs prepared launches from its second run on: they compute what the ordinary ones compute."""

from __future__ import annotations

import pytest
import torch
from computing_driver import Computing
from torch import nn

import convatlas
from convatlas.kernels.common.precision import float32_products
from convatlas.ops import hot
from convatlas.plan.replay import Launches

BACKENDS = ["cuda", pytest.param("triton", marks=pytest.mark.interpreter)]


def net() -> nn.Module:
    """Convolutions with and without a residual, of packed groups, a split reduction, a pool, a mean and a linear layer."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
            self.c, self.fc = nn.Conv2d(64, 64, 1), nn.Linear(64, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.max_pool2d(torch.relu(self.a(x)), 2)
            x = torch.relu(self.b(x) + x)
            return self.fc(self.c(x).mean((2, 3)))

    module = Net().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randint(-1, 2, p.shape))  # sums of small integers are exact
    return module


def launches(plan: convatlas.plan.plan.Plan) -> list[Launches]:
    runs = (getattr(ready.run, "__self__", None) for ready in plan.program().steps)
    return [run for run in runs if isinstance(run, Launches)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_prepared_runs_compute_the_same(backend: str) -> None:
    module = net()
    images = [torch.randint(-2, 3, (2, 3, 8, 8)).float() for _ in range(3)]
    with torch.no_grad(), float32_products("ieee"), hot.using(driver := Computing()):
        plan = convatlas.compile(module, images[0], backend=backend, graph=False)
        plan(images[0])
        found = launches(plan)
        assert len(found) == 6 and all(one.fixed is not None for one in found) and not driver.count
        for x in images:
            before = driver.count
            torch.testing.assert_close(plan(x), module(x), rtol=1e-6, atol=1e-6)
            assert driver.count - before == sum(len(one.launches) for one in found)
        module.a.weight.mul_(2)  # packed anew, and so are the launches
        for _ in range(2):
            torch.testing.assert_close(plan(images[1]), module(images[1]), rtol=1e-6, atol=1e-6)
        before = driver.count
        with hot.using(None):  # nothing is prepared here
            torch.testing.assert_close(plan(images[2]), module(images[2]), rtol=1e-6, atol=1e-6)
        assert driver.count == before


def test_what_cannot_be_prepared_runs_ordinarily(monkeypatch: pytest.MonkeyPatch) -> None:
    from convatlas.kernels.common.driver import Unprepared

    def refuse(*given: object) -> None:
        raise Unprepared("a test's reason")

    monkeypatch.setattr(Computing, "require_layout", refuse)
    module, x = net(), torch.ones(1, 3, 8, 8)
    with torch.no_grad(), hot.using(driver := Computing()):
        plan = convatlas.compile(module, x, backend="cuda", graph=False)
        for _ in range(3):
            torch.testing.assert_close(plan(x), module(x))
        assert not driver.count and not any(one.fixed for one in launches(plan))
