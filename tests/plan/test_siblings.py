"""Convolutions of one input and one window become one launch, where the time model says that it pays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.plan import siblings
from convatlas.plan.plan import Plan


class Inception(nn.Module):
    """Two reductions behind one input, one with a bias and one without, beside a branch that lies in the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.direct = nn.Conv2d(6, 5, 1)
        self.reduce3 = nn.Sequential(nn.Conv2d(6, 4, 1, bias=True), nn.ReLU())
        self.reduce5 = nn.Sequential(nn.Conv2d(6, 3, 1, bias=False), nn.ReLU())
        self.plain = nn.Conv2d(6, 3, 1)  # without an activation: no sibling of the reductions
        self.conv3, self.conv5 = nn.Conv2d(4, 7, 3, padding=1), nn.Conv2d(3, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.direct(x), self.conv3(self.reduce3(x)), self.conv5(self.reduce5(x) + self.plain(x))
        return torch.cat(parts, 1)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return Inception().eval()


def plan_of(module: nn.Module, x: Tensor) -> tuple[Plan, int]:
    plan = convatlas.compile(module, x, backend="numpy")
    with torch.no_grad():
        torch.testing.assert_close(plan(x), module(x), rtol=1e-4, atol=1e-5)
    return plan, sum(layer.op == "conv2d" for layer in plan.layers)


def test_two_reductions_are_one_launch(module: nn.Module) -> None:
    plan, count = plan_of(module, torch.randn(2, 6, 7, 5))
    assert count == 5
    wide = next(layer for layer in plan.layers if layer.call.spec.K == 7 and layer.call.spec.R == 1)
    assert wide.path == "reduce3.0" and "reduce5.0" in wide.merged and wide.call.epilogue.bias
    reads = [layer.reads for layer in plan.layers if layer.call.spec.R == 3]
    assert reads[0][0].endswith("[0:4]")
    with torch.no_grad():
        module.reduce5[0].weight.mul_(2)  # a weight that is a part of the wide one
    plan_of(module, torch.randn(2, 6, 7, 5))
    x = torch.randn(2, 6, 7, 5)
    torch.testing.assert_close(plan(x), module(x).detach(), rtol=1e-4, atol=1e-5)


def test_what_does_not_pay_stays_alone(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "seconds", lambda call, on, backend: call.spec.K**2)
    assert plan_of(module, torch.randn(1, 6, 4, 4))[1] == 6


def test_the_model_is_asked_with_the_precision_of_the_call() -> None:
    from convatlas.call import Call
    from convatlas.model.gpu import gpu
    from convatlas.specs import Conv2dSpec, Epilogue

    spec = Conv2dSpec.of((32, 256, 28, 28), (256, 256, 1, 1))
    times = {
        name: siblings.seconds(Call("conv2d", spec, Epilogue(), dtype=name), gpu("h100-sxm"))
        for name in ("float16", "float32")
    }
    assert 1e-6 < times["float16"] < times["float32"] < 1e-2
