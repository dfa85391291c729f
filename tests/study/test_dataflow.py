"""study.wired: trace's layers, with where each one's inputs and weights come from."""

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

import convatlas
from convatlas import nets
from convatlas.nets.layers import Conv2d, Linear
from convatlas.study import trace
from convatlas.study.dataflow import IMAGE, UncountedWarning, wired


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "alexnet", "mobilenet_v2"])
def test_the_layers_are_those_of_trace(built, name):
    net = built(name)
    assert [node.layer for node in wired(net, (2, 3, 64, 64))] == trace(net, (2, 3, 64, 64))


def test_a_residual_is_a_second_source(built):
    nodes = wired(built("resnet18"), (1, 3, 64, 64))
    paths = [node.layer.path for node in nodes]
    sources = {node.layer.path: [[paths[i] if i >= 0 else "image" for i in s] for s in node.sources] for node in nodes}
    assert sources["conv1"] == [["image"]]
    assert sources["layer1.0.conv2"] == [["layer1.0.conv1"], ["maxpool"]]
    assert sources["layer2.0.conv2"] == [["layer2.0.conv1"], ["layer2.0.downsample.0"]]
    assert sources["fc"] == [["avgpool"]]  # a flatten lies between


def test_weights_include_the_folded_batch_norm(built):
    node = wired(built("resnet18"), (1, 3, 64, 64))[0]
    bn = {f"bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(node.weights) == {"conv1.weight", *bn}


class Concat(nn.Module):
    """Two branches into one buffer, without a concat op, and one with it; then what torch does between our ops."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv2d(3, 4, 1), Conv2d(3, 4, 3, padding=1)
        self.fc = Linear(12 * 16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        buffer = torch.empty((n, 8, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        self.a(x, out=buffer[:, :4])
        self.b(x, out=buffer[:, 4:])
        both = convatlas.concat([buffer, buffer[:, :4]])
        return self.fc(nn.functional.dropout(both, 0.5, self.training).flatten(1))


def test_a_buffer_written_in_parts_comes_from_all_of_them():
    with pytest.warns(UncountedWarning, match="Concat"):  # dropout
        nodes = wired(Concat(), (1, 3, 4, 4))
    assert [node.layer.op for node in nodes] == ["conv2d", "conv2d", "concat", "linear"]
    assert nodes[0].sources == nodes[1].sources == ((IMAGE,),)
    assert nodes[2].sources == ((0, 1), (0, 1)) and nodes[3].sources == ((2,),)
    assert nodes[1].weights == ("b.bias", "b.weight")


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(torch.relu(self.bn1(self.conv1(x))))


def test_ops_of_torch_stand_between_ours():
    conv, norm, relu, last = wired(Normalised().eval(), (2, 3, 4, 4))
    assert [n.layer.run_by for n in (conv, norm, relu, last)] == ["convatlas", "torch", "torch", "convatlas"]
    assert conv.weights == ("conv1.weight",) and (norm.layer.op, norm.layer.path) == ("batch_norm", "bn1")
    assert set(norm.weights) >= {"bn1.weight", "bn1.bias"} and norm.sources == ((0,),)
    assert relu.sources == ((1,),) and last.sources == ((2,),) and set(last.weights) == {"conv2.weight", "conv2.bias"}


def test_nothing_stays_behind():
    net = nets.create("resnet18", num_classes=3, seed=0)
    before = len(torch_module._global_forward_hooks) + len(torch_module._global_forward_pre_hooks)
    with pytest.raises(convatlas.ShapeError, match="C=4"):
        wired(net, (1, 4, 32, 32))
    wired(net, (1, 3, 32, 32))
    assert len(torch_module._global_forward_hooks) + len(torch_module._global_forward_pre_hooks) == before == 0
    assert not any(p.is_meta for p in net.parameters())
