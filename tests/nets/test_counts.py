"""Parameters of the nets that torchvision lacks, counted again from their papers' tables."""

import pytest
import torch
from torch import nn

from convatlas import nets


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return nets.create(name, **options)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def conv(C: int, K: int, size: int, groups: int = 1) -> int:
    """Weights and biases."""
    return K * (C // groups) * size**2 + K


def linear(C: int, K: int) -> int:
    return C * K + K


def conv_bn(C: int, K: int, size: int, groups: int = 1) -> int:
    """Weights, and a batch norm's scale and shift in place of the bias."""
    return K * (C // groups) * size**2 + 2 * K


def test_alexnet_2012():
    """Krizhevsky et al. 2012, section 3.5: "60 million parameters"."""
    convolutions = (
        conv(3, 96, 11) + conv(96, 256, 5, 2) + conv(256, 384, 3) + conv(384, 384, 3, 2) + conv(384, 256, 3, 2)
    )
    fully_connected = linear(6 * 6 * 256, 4096) + linear(4096, 4096) + linear(4096, 1000)
    assert parameters(on_meta("alexnet_2012")) == convolutions + fully_connected == 60_965_224


def test_nin():
    """Four convolutions, each with two 1x1 behind it; the last gives one map a class."""
    blocks = ((3, 11, 96, 96, 96), (96, 5, 256, 256, 256), (256, 3, 384, 384, 384), (384, 3, 1024, 1024, 1000))
    expected = sum(conv(C, a, size) + conv(a, b, 1) + conv(b, c, 1) for C, size, a, b, c in blocks)
    assert parameters(on_meta("nin")) == expected == 7_595_176


# Szegedy et al. 2014, table 1: input channels, #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
INCEPTIONS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


@pytest.mark.parametrize("name", INCEPTIONS)
def test_googlenet_2014_row(name):
    C, n1, r3, n3, r5, n5, pool = INCEPTIONS[name]
    module = on_meta("googlenet_2014").get_submodule(f"inception{name}")
    expected = conv(C, n1, 1) + conv(C, r3, 1) + conv(r3, n3, 3) + conv(C, r5, 1) + conv(r5, n5, 5) + conv(C, pool, 1)
    assert parameters(module) == expected


def test_googlenet_2014():
    """The stem and the classifier of table 1, and the two heads of section 5."""
    stem = conv(3, 64, 7) + conv(64, 64, 1) + conv(64, 192, 3)
    net = on_meta("googlenet_2014")
    inceptions = sum(parameters(net.get_submodule(f"inception{name}")) for name in INCEPTIONS)
    assert parameters(net) == stem + inceptions + linear(1024, 1000) == 6_998_552
    heads = sum(conv(C, 128, 1) + linear(4 * 4 * 128, 1024) + linear(1024, 1000) for C in (512, 528))
    assert parameters(on_meta("googlenet_2014", aux=True)) == 6_998_552 + heads == 13_378_280


def test_mobilenet_v1():
    """Howard et al. 2017, table 1: "4.2 million" (table 8)."""
    outputs = (64, 128, 128, 256, 256, 512, *[512] * 5, 1024, 1024)
    expected = conv_bn(3, 32, 3) + linear(1024, 1000)
    for C, K in zip((32, *outputs), outputs):
        expected += conv_bn(C, C, 3, groups=C) + conv_bn(C, K, 1)
    assert parameters(on_meta("mobilenet_v1")) == expected == 4_231_976


@pytest.mark.parametrize("width, millions", [(0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_mobilenet_v1_by_width(width, millions):
    """Table 6."""
    assert round(parameters(on_meta("mobilenet_v1", width=width)) / 1e6, 1) == millions


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.4])
def test_mobilenet_v2_by_width_is_torchvisions(width):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = models.mobilenet_v2(width_mult=width).state_dict()
    ours = on_meta("mobilenet_v2", width=width).state_dict()
    assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in theirs.items()}


def test_wrn_28_10():
    """Zagoruyko, Komodakis 2016, table 1 with N = 4 and k = 10: "36.5M" (table 4)."""
    expected, C = 3 * 16 * 9, 16
    for K in (160, 320, 640):
        for block in range(4):
            expected += 2 * C + C * K * 9 + 2 * K + K * K * 9 + (C * K if block == 0 else 0)
            C = K
    assert parameters(on_meta("wrn_28_10")) == expected + 2 * 640 + linear(640, 10) == 36_479_194


@pytest.mark.parametrize("depth, per_stage", [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_plain(depth, per_stage):
    """He et al. 2015, table 1 without shortcuts, so also without the convolutions that make them fit."""
    expected, C = conv_bn(3, 64, 7), 64
    for K, blocks in zip((64, 128, 256, 512), per_stage):
        for _ in range(blocks):
            expected += conv_bn(C, K, 3) + conv_bn(K, K, 3)
            C = K
    assert parameters(on_meta(f"plain{depth}")) == expected + linear(512, 1000)
    assert not any("downsample" in name for name, _ in on_meta(f"plain{depth}").named_parameters())
