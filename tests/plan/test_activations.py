"""Activations in plans: every spelling of PyTorch's becomes ours, in the epilogue of what comes before it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import convatlas


class Activated(nn.Module):
    """A convolution, depthwise where `groups` says so, and what comes behind it."""

    def __init__(self, *behind: nn.Module, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups), *behind)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


SPELLED = {
    "silu": (nn.SiLU(inplace=True), "silu"),
    "F.silu": (Called(F.silu), "silu"),
    "x * sigmoid(x)": (Called(lambda x: x * torch.sigmoid(x)), "silu"),
    "sigmoid(x) * x": (Called(lambda x: x.sigmoid() * x), "silu"),
    "hardswish": (nn.Hardswish(), "hardswish"),
    "x * relu6(x + 3) / 6": (Called(lambda x: x * F.relu6(x + 3.0) / 6.0), "hardswish"),
    "x * hardsigmoid(x)": (Called(lambda x: x * F.hardsigmoid(x)), "hardswish"),
    "hardsigmoid": (nn.Hardsigmoid(inplace=True), "hardsigmoid"),
    "relu6(x + 3) / 6": (Called(lambda x: F.relu6(x + 3.0) / 6.0), "hardsigmoid"),
    "clamp(x + 3, 0, 6) * (1 / 6)": (Called(lambda x: (x + 3).clamp(0, 6).mul(1 / 6)), "hardsigmoid"),
    "sigmoid": (nn.Sigmoid(), "sigmoid"),
    "torch.sigmoid_": (Called(torch.sigmoid_), "sigmoid"),
    "leaky_relu": (nn.LeakyReLU(), "leaky_relu"),
    "leaky_relu 0.2": (nn.LeakyReLU(0.2, inplace=True), "leaky_relu(0.2)"),
}


@pytest.mark.parametrize("backend", ["numpy", pytest.param("triton", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize("spelled", SPELLED)
def test_every_spelling_becomes_an_epilogue(spelled: str, backend: str) -> None:
    part, activation = SPELLED[spelled]
    module = Activated(nn.BatchNorm2d(8), part, groups=8 if "hard" in spelled else 1).eval()
    x = torch.randn(1, 8, 6, 6) * 4
    plan = convatlas.compile(module, x, backend=backend)
    assert [(layer.op, layer.call.epilogue.activation) for layer in plan.layers] == [("conv2d", activation)]
    with torch.no_grad():
        torch.testing.assert_close(plan(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, activations",
    [("mobilenet_v3_small", {"relu", "hardswish", "hardsigmoid"}), ("efficientnet_b0", {"silu", "sigmoid"})],
)
def test_torchvisions_networks_have_no_activation_of_its_own(name: str, activations: set[str]) -> None:
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None).eval()
        plan = convatlas.compile(module, torch.empty(1, 3, 224, 224), backend="numpy")
    assert {layer.call.epilogue.activation for layer in plan.layers if layer.ours and layer.call.epilogue} - {
        None
    } == activations
    assert not activations & {layer.op for layer in plan.layers}
