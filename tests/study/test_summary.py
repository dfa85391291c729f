"""The summary: what it counts, against torch's own counter, torchvision's nets and sums by hand."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import convatlas
from convatlas import nets
from convatlas.nets.layers import Conv2d
from convatlas.specs import Conv2dSpec, LinearSpec
from convatlas.study.summary import KINDS, Summary, summarise, summarise_net

NAMES = nets.names()
summary = cache(summarise)


def counted_by_torch(spec: Conv2dSpec | LinearSpec) -> int:
    """FLOPs that torch.utils.flop_counter counts for one layer."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        if isinstance(spec, LinearSpec):
            F.linear(torch.empty(spec.M, spec.C), torch.empty(spec.K, spec.C))
        else:
            (top, bottom), (left, right) = spec.padding
            x = F.pad(torch.empty(spec.input_shape), (left, right, top, bottom))
            F.conv2d(x, torch.empty(spec.weight_shape), None, spec.stride, 0, spec.dilation, spec.groups)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_macs_are_what_torch_counts(name):
    specs = {row.spec for row in summary(name).rows if row.weighted}
    assert {spec: 2 * spec.macs for spec in specs} == {spec: counted_by_torch(spec) for spec in specs}


@pytest.mark.parametrize("name", NAMES)
def test_macs_and_parameters_are_torchvisions(name):
    models = pytest.importorskip("torchvision.models")
    if name not in models.list_models(module=models):
        pytest.skip("torchvision has no such net")
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    size = nets.info(name).size
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model = models.get_model(name, **options).eval()
        model(torch.empty(1, 3, size, size))
    assert 2 * summary(name).macs == counter.get_total_flops()
    assert summary(name).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_a_row(name):
    assert sum(row.parameters for row in summary(name).rows) == summary(name).parameters
    assert summary(name).idle_parameters == 0


@pytest.mark.parametrize("name", ["vgg11_bn", "googlenet", "resnet18", "wrn_28_10", "squeezenet1_1", "mobilenet_v2"])
def test_every_parameter_is_in_a_row_in_training(name):
    """Where batch norms are torch's own, not folded."""
    training = summarise(name, batch=2, train=True)
    assert sum(row.parameters for row in training.rows) == training.parameters == summary(name).parameters


def test_auxiliary_heads_are_idle_at_inference():
    with_heads = summarise("googlenet_2014", aux=True)
    training = summarise("googlenet_2014", aux=True, train=True)
    heads = [row for row in training.rows if row.path.startswith("aux")]
    assert with_heads.idle_parameters == with_heads.parameters - summary("googlenet_2014").parameters
    assert with_heads.idle_parameters == sum(row.parameters for row in heads) > 0 == training.idle_parameters
    assert with_heads.totals()["parameters_not_used_here"] == with_heads.idle_parameters


@pytest.mark.parametrize("name", NAMES)
def test_shares_sum_to_one(name):
    for of in ("macs", "bytes"):
        rest = sum(getattr(row, of) for row in summary(name).rows if not row.kind) / getattr(summary(name), of)
        assert sum(summary(name).share(kind, of) for kind in KINDS) + rest == pytest.approx(1)
    assert sum(row.kind != "" for row in summary(name).rows) == sum(row.weighted for row in summary(name).rows)


DEPTHS = {"alexnet_2012": 8, "vgg11": 11, "vgg13": 13, "vgg16": 16, "vgg19": 19, "googlenet_2014": 22}
DEPTHS |= {name: int(name[6:]) for name in nets.names() if name.startswith("resnet")}
DEPTHS |= {"plain34": 34, "wide_resnet50_2": 50, "resnext101_64x4d": 101, "nin": 12, "mobilenet_v1": 28}


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_is_what_the_paper_says(name):
    assert summary(name).depth == DEPTHS[name]


def test_a_row_of_resnet18():
    row = next(row for row in summary("resnet18").rows if row.path == "layer2.0.conv1")
    assert row.as_dict() == {
        "path": "layer2.0.conv1",
        "op": "conv2d",
        "run_by": "convatlas",
        "input_shape": "1x64x56x56",
        "output_shape": "1x128x28x28",
        "window": "3x3 /2",
        "epilogue": "bias + relu",
        "parameters": 9 * 64 * 128 + 2 * 128,
        "macs": 28 * 28 * 128 * 64 * 9,
        "flops": 2 * 28 * 28 * 128 * 64 * 9,
        "bytes": 2 * (56 * 56 * 64 + 9 * 64 * 128 + 28 * 28 * 128 + 128),
        "intensity": round(row.flops / row.bytes, 4),
        "receptive_field": 11 + 4 * 8 + 2 * 4,
        "jump": 8,
        "start": -(11 + 4 * 8 + 2 * 4 - 1) // 2,
    }


def small() -> Summary:
    """A convolution with a bias, used twice, and a residual addition: 2 -> 2 channels on 4 x 4 pixels."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.idle = Conv2d(2, 2, 3, padding=1), Conv2d(2, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return convatlas.residual_add(self.conv(y), y)

    return summarise_net(Net(), (1, 2, 4, 4), "float32")


def test_a_net_by_hand():
    found = small()
    assert found.parameters == 2 * 2 * 9 + 2 + 15 and found.idle_parameters == 15
    assert [row.parameters for row in found.rows] == [38, 0, 0]
    assert found.macs == 2 * 16 * 2 * 2 * 9 and found.flops == 2 * found.macs + 32
    assert found.bytes == 4 * (2 * (32 + 36 + 32 + 2) + 3 * 32)
    assert found.activations == 4 * 32 and found.activation_bytes == 4 * 4 * 32
    assert found.peak_bytes == 4 * 3 * 32  # y, conv(y) and their sum
    assert found.depth == 2 and found.share("3x3") == 1.0 and found.share("3x3", "parameters") == 1.0
    assert found.totals()["parameters_not_used_here"] == 15


def test_size_batch_and_dtype():
    one, two = summarise("resnet18", 64, 1, "float16"), summarise("resnet18", 64, 2, "float32")
    assert two.input_shape == (2, 3, 64, 64) and two.macs == 2 * one.macs and two.parameters == one.parameters
    assert two.activation_bytes == 4 * one.activation_bytes and 2 * one.bytes < two.bytes < 4 * one.bytes
    assert summarise("resnet18", 64, dtype="bfloat16").totals() == one.totals()


def test_options_reach_the_net():
    fused, alone = summary("resnet18"), summarise("resnet18", fuse_residual=False)
    assert alone.macs == fused.macs and alone.parameters == fused.parameters
    assert alone.bytes - fused.bytes == sum(2 * 2 * r.spec.elements["output"] for r in alone.rows if "add" in r.path)


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ({"name": "resnet19"}, convatlas.NetError, "nearest: resnet18"),
        ({"name": "resnet18", "size": 0}, convatlas.ShapeError, "size=0"),
        ({"name": "resnet18", "batch": 0}, convatlas.ShapeError, "batch=0"),
        ({"name": "resnet18", "dtype": "int8"}, convatlas.DtypeError, "int8"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_summarised(arguments, error, says):
    with pytest.raises(error, match=says):
        summarise(**arguments)
