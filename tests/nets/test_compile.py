"""Nets under torch.compile and torch.export: one graph, the same shapes, the same numbers."""

import pytest
import torch
from torch import nn

from convatlas import nets
from convatlas.errors import ShapeError
from convatlas.nets.layers import AdaptiveAvgPool2d, Conv2d, Linear, MaxPool2d


class Small(nn.Module):
    """A convolution of each kind, a pooling, a residual, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2d(3, 8, 3, 2, bias=False, tf_same=True)
        self.bn0 = nn.BatchNorm2d(8)
        self.pool = MaxPool2d(2)
        self.depthwise = Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.pointwise = Conv2d(8, 8, 1)
        self.average = AdaptiveAvgPool2d(1)
        self.fc = Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x, self.bn0, "relu6"))
        y = self.depthwise(x, self.bn1, "relu")
        y = self.pointwise(y, activation="relu", residual=x)
        return self.fc(self.average(y).flatten(1))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 17, 16, generator=torch.Generator().manual_seed(0))


def test_compiled_whole(small, x):
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(small, backend="eager", fullgraph=True)(x), small(x))


def test_compiled_with_weights_that_change(small, x):
    """The folding is in the graph: nothing folded earlier is baked in."""
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    with torch.no_grad():
        small(x)
        compiled(x)
        small.bn0.weight.mul_(2)
        torch.testing.assert_close(compiled(x), small(x))


def test_exported_and_run(small, x):
    program = torch.export.export(small, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), small(x))
    assert "convatlas.conv2d" in str(program.graph)


def test_resnet18_compiles_and_exports():
    net = nets.create("resnet18", num_classes=4, seed=0)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), expected)
        program = torch.export.export(net, (x,))
        torch.testing.assert_close(program.module()(x), expected)


def test_resnet18_exports_on_the_meta_device():
    with torch.device("meta"):
        net = nets.create("resnet18").to("meta")
        program = torch.export.export(net, (torch.empty(1, 3, 224, 224),))
    assert str(program.graph).count("convatlas.conv2d") == 20


@pytest.mark.parametrize("name, joined", [("squeezenet1_1", 8), ("googlenet", 9)])
def test_nets_with_branches_export(name, joined):
    """A compiler sees their concatenations, and plans memory itself."""
    net = nets.create(name, num_classes=4, seed=0)
    x = torch.randn(1, 3, 17, 18, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(net, (x,))
        torch.testing.assert_close(program.module()(x), net(x))
    assert str(program.graph).count("convatlas.concat") == joined


def test_a_net_with_branches_compiles_whole():
    net = nets.create("squeezenet1_1", num_classes=4, seed=0)
    x = torch.randn(1, 3, 17, 18, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))


def test_an_export_with_a_size_that_does_not_fit_says_which_does():
    net = nets.create("squeezenet1_1", num_classes=4, seed=0)
    with pytest.raises(ShapeError, match="17x17"):
        torch.export.export(net, (torch.zeros(1, 3, 9, 9),))
