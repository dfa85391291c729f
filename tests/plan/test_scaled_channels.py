"""Squeeze and excitation, layer scale and global maxima in plans: one step of ours each, with what comes behind it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import convatlas

C = 8


class Excited(nn.Module):
    """A convolution, then `how(self, x)`, which may use two linear maps of the pooled image."""

    def __init__(self, how) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.conv = how, nn.Conv2d(C, C, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(C, 2, 1), nn.Conv2d(2, C, 1)
        self.gamma = nn.Parameter(torch.randn(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, self.conv(x))

    def weights(self, x: Tensor) -> Tensor:
        return self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))


def linear(m: Excited, x: Tensor) -> Tensor:
    """The squeezed image as a row, the factors viewed as an image of one pixel."""
    row = F.adaptive_avg_pool2d(x, 1).flatten(1)
    row = F.linear(F.relu(F.linear(row, m.squeeze.weight.flatten(1))), m.excite.weight.flatten(1))
    return x * torch.sigmoid(row).view(row.shape[0], -1, 1, 1)


# By name: the module, and its last step as str(spec) has the gate, activation, residual.
SCALED = {
    "sigmoid behind a convolution": (lambda m, x: x * torch.sigmoid(m.weights(x)), None, None, False),
    "factor first": (lambda m, x: F.hardsigmoid(m.weights(x)) * x, None, None, False),
    "linear layers": (linear, None, None, False),
    "residual and relu": (lambda m, x: F.relu(x * m.weights(x).sigmoid() + x), None, "relu", True),
    "shortcut first": (lambda m, x: x + x * m.weights(x).sigmoid(), None, None, True),
    "gate of its own": (lambda m, x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(), "sigmoid", None, False),
    "layer scale": (lambda m, x: F.silu(m.gamma * x), None, "silu", False),
}


@pytest.mark.parametrize("backend", ["numpy", pytest.param("triton", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize("name", SCALED)
def test_scaled_channels_are_one_step(name: str, backend: str) -> None:
    how, gate, activation, residual = SCALED[name]
    module, x = Excited(how).eval(), torch.randn(2, C, 6, 5)
    plan = convatlas.compile(module, x, backend=backend)
    last = plan.layers[-1]
    assert all(layer.ours for layer in plan.layers) and "PyTorch's own ops: none" in plan.report()
    assert last.op == "channel_scale" and last.call.spec.gate == gate
    assert (last.call.epilogue.activation, last.call.epilogue.residual) == (activation, residual)
    assert {layer.op for layer in plan.layers} <= {"conv2d", "linear", "adaptive_avg_pool2d", "channel_scale"}
    with torch.no_grad(), convatlas.checking():
        torch.testing.assert_close(plan(x), module(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plan(x[:1]), module(x[:1]), rtol=1e-4, atol=1e-5)


GLOBAL = {
    "AdaptiveMaxPool2d": lambda m, x: F.adaptive_max_pool2d(x, 1),
    "amax": lambda m, x: x.amax((2, 3)),
    "amax that keeps": lambda m, x: x.amax((-1, -2), keepdim=True),
    "2x3": lambda m, x: F.adaptive_max_pool2d(x, (2, 3)),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_maxima_are_ours(name: str) -> None:
    module, x = Excited(GLOBAL[name]).eval(), torch.randn(2, C, 6, 5)
    plan = convatlas.compile(module, x, backend="numpy")
    assert [layer.op for layer in plan.layers] == ["conv2d", "adaptive_max_pool2d"]
    with torch.no_grad():
        torch.testing.assert_close(plan(x), module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small", "mobilenet_v3_large", "regnet_y_400mf"])
def test_nothing_of_torchvisions_networks_stays_pytorchs(name: str) -> None:
    module = torchvision.models.get_model(name, weights=None).eval().to("meta")
    plan = convatlas.compile(module, torch.empty(1, 3, 224, 224, device="meta"), backend="numpy")
    assert all(layer.ours for layer in plan.layers) and "PyTorch's own ops: none" in plan.report()
    assert sum(layer.op == "channel_scale" for layer in plan.layers) >= 8


def test_a_product_of_two_images_stays_pytorchs() -> None:
    module, x = Excited(lambda m, x: x * m.squeeze(x).mean(1, keepdim=True)).eval(), torch.randn(2, C, 6, 5)
    plan = convatlas.compile(module, x, backend="numpy")
    assert [layer.op for layer in plan.layers if not layer.ours] == ["mean", "mul"]
    with torch.no_grad():
        torch.testing.assert_close(plan(x), module(x), rtol=1e-5, atol=1e-6)
