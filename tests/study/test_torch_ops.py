"""Nets that were not built on our ops: counted by the same rules, and what is not counted is named."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import convatlas
from convatlas import nets
from convatlas.nets.layers import Conv2d, Linear
from convatlas.study import UncountedWarning, summarise, summarise_net, trace

models = pytest.importorskip("torchvision.models")


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return models.get_model(name, **({"init_weights": False} if name == "googlenet" else {})).eval()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "alexnet", "vgg11"])
def test_torchvisions_net_counts_as_ours(name):
    theirs, ours = summarise_net(built(name), (1, 3, 224, 224), "float16"), summarise(name)
    assert theirs.macs == ours.macs and theirs.parameters == ours.parameters and not theirs.uncounted
    assert theirs.depth == ours.depth and theirs.idle_parameters == 0
    assert {row.layer.run_by for row in theirs.rows} == {"torch"}
    assert theirs.rows[-1].fields == ours.rows[-1].fields
    specs = [[row.spec for row in summary.rows if row.weighted] for summary in (theirs, ours)]
    assert sorted(map(str, specs[0])) == sorted(map(str, specs[1]))


# MACs as fvcore and torchinfo print them (torchinfo's README has 1,814,073,344 for ResNet-18 as total mult-adds).
@pytest.mark.parametrize("name, macs", [("resnet18", 1_814_073_344), ("mobilenet_v2", 300_774_272)])
def test_macs_as_published(name, macs):
    assert summarise_net(built(name), (1, 3, 224, 224), "float16").macs == macs


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "efficientnet_b0", "convnext_tiny", "maxvit_t", "densenet121"])
def test_macs_as_torchvision_publishes_them(name):
    """What its documentation calls GFLOPS are MACs; attention's products are among them."""
    published = models.get_model_weights(name).DEFAULT.meta["_ops"]
    found = summarise_net(built(name), (1, 3, 224, 224), "float16")
    assert found.macs / 1e9 == pytest.approx(published, abs=6e-4)
    assert found.parameters == sum(row.parameters for row in found.rows) + found.idle_parameters


def test_a_replaced_head_is_not_lost():
    net = nets.create("resnet18")
    net.fc = nn.Linear(512, 10)
    found, last = summarise_net(net, (1, 3, 64, 64), "float16"), trace(net, (1, 3, 64, 64))[-1]
    assert (last.path, last.op, last.run_by, last.spec.output_shape) == ("fc", "linear", "torch", (1, 10))
    assert found.rows[-1].parameters == 5130 and found.idle_parameters == 0
    assert found.macs == summarise("resnet18", 64).macs - 512 * 990


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Mixture(nn.Module):
    """Ours, torch's modules, functions and methods, written in place or not."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs, self.bn = (
            Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, 2, 1, groups=8),
            nn.BatchNorm2d(8),
        )
        self.se, self.lrn, self.fc = SqueezeExcite(8), nn.LocalResponseNorm(5, k=2.0), nn.Linear(16, 5)
        self.last = Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.ours(x))
        x = self.se(self.bn(self.theirs(x)).relu_())
        x = F.max_pool2d(self.lrn(x) + x, 3, 1, 1)
        x = torch.cat([F.avg_pool2d(x, 2), F.avg_pool2d(x, 2).erf().clamp(0, 6)], 1)
        return torch.softmax(self.last(self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))), -1)


MIXTURE = [
    ("ours", "conv2d", "convatlas"),
    ("", "relu6", "torch"),
    ("theirs", "conv2d", "torch"),
    ("bn", "batch_norm", "torch"),
    ("", "relu", "torch"),
    ("se", "adaptive_avg_pool2d", "torch"),
    ("se.reduce", "conv2d", "torch"),
    ("se", "silu", "torch"),
    ("se.expand", "conv2d", "torch"),
    ("se", "sigmoid", "torch"),
    ("se", "channel_scale", "torch"),
    ("lrn", "local_response_norm", "torch"),
    ("", "residual_add", "torch"),
    ("", "max_pool2d", "torch"),
    ("", "avg_pool2d", "torch"),
    ("", "avg_pool2d", "torch"),
    ("", "relu6", "torch"),
    ("", "concat", "torch"),
    ("", "adaptive_avg_pool2d", "torch"),
    ("fc", "linear", "torch"),
    ("last", "linear", "convatlas"),
    ("", "softmax", "torch"),
]


def test_a_mixture():
    net = Mixture().eval()
    with pytest.warns(UncountedWarning, match=r"convatlas has no spec for it: erf \(1\)"):
        layers = trace(net, (2, 3, 16, 16))
    assert [(layer.path, layer.op, layer.run_by) for layer in layers] == MIXTURE
    assert layers[11].params == {"alpha": 1e-4, "beta": 0.75, "k": 2.0} and layers[3].params == {"eps": 1e-5}
    found = summarise_net(net, (2, 3, 16, 16), "float32")
    assert [(u.path, u.op, u.output_shape) for u in found.uncounted] == [("", "erf", (2, 8, 4, 4))]
    assert "NOT counted" in found.warning and "erf (1)" in found.warning
    assert found.idle_parameters == 0 and found.rows[2].parameters == 80 and found.rows[3].parameters == 16


def test_specs_are_those_of_the_call():
    """Each op of the mixture that we have describes itself as our op on the same arguments does."""
    x = torch.empty(2, 8, 9, 9, device="meta")
    weight = torch.empty(4, 4, 3, 2, device="meta")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)
            self.ops = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            f = self.ops
            f.conv2d(x, self.weight, None, (2, 1), (1, 0), (1, 2), 2)
            f.max_pool2d(x, (3, 2), 2, 1, 1, True)
            f.avg_pool2d(x, 3, 2, 1, True, False, 5)
            f.adaptive_avg_pool2d(x, (4, 3))
            f.softmax(x, 1)
            return x

    net, seen = Net(), {}
    for who, net.ops in (("torch", F), ("convatlas", convatlas)):
        seen[who] = trace(net, tuple(x.shape))
    assert [a.key for a in seen["torch"]] == [b.key for b in seen["convatlas"]] and len(seen["torch"]) == 5
    assert {layer.run_by for layer in seen["torch"]} == {"torch"}


class Products(nn.Module):
    """What we have no op for, but torch counts."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.attention = nn.ConvTranspose2d(3, 4, 2, 2), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x).flatten(2)[:, :, :8]
        return self.attention(x, x, x)[0]


def test_products_that_we_have_no_op_for_are_counted():
    net = Products().eval()
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        Products().to("meta").eval()(torch.empty(1, 3, 4, 4))
    found = summarise_net(net, (1, 3, 4, 4), "float32")
    assert 2 * found.macs == counter.get_total_flops() > 0
    ops = [row.layer.op for row in found.rows]
    assert ops[0] == "conv_transpose2d" and len(set(ops)) > 1 and found.share("other") > 0


def test_weights_prepared_in_forward_are_no_work_an_image():
    class Standardised(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / weight.std(), self.bias)

    found = summarise_net(Standardised(3, 4, 3), (1, 3, 8, 8), "float32")
    assert [row.layer.op for row in found.rows] == ["conv2d"] and not found.uncounted
    assert found.rows[0].parameters == found.parameters


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v2", "efficientnet_lite0", "alexnet_2012"])
def test_our_nets_leave_nothing_to_torch(name):
    found = summarise(name)
    assert {row.layer.run_by for row in found.rows} == {"convatlas"} and not found.warning
