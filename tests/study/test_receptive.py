"""Receptive fields against the truth: NaN in one pixel, and which outputs it reaches."""

import numpy as np
import pytest
import torch
from torch import nn

import convatlas
from convatlas.nets.layers import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Linear, MaxPool2d
from convatlas.study.dataflow import wired
from convatlas.study.receptive import Field, fields


class Branches(nn.Module):
    """A 1x1, a 5x5 behind a 1x1 and a pooling branch, concatenated; then a residual block with a strided shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b1, self.b2 = Conv2d(2, 2, 1), Conv2d(2, 2, 1), Conv2d(2, 2, 5, padding=2)
        self.pool = MaxPool2d(3, 1, 1)
        self.down, self.c1, self.c2 = Conv2d(6, 4, 1, 2), Conv2d(6, 4, 3, 2, 1), Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = convatlas.concat([self.a(x), self.b2(self.b1(x)), self.pool(x)])
        return self.c2(self.c1(x), residual=self.down(x), activation="relu")


class Flat(nn.Module):
    """A map flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = Conv2d(2, 2, 3, 2), Linear(2 * 3 * 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).flatten(1))


NETS = {
    "three 3x3": (nn.Sequential(*(Conv2d(2, 2, 3, padding=1) for _ in range(3))), 15),
    "one 7x7": (Conv2d(2, 2, 7, padding=3), 15),
    "strides": (nn.Sequential(Conv2d(2, 2, 7, 2, 3), MaxPool2d(3, 2, 1), Conv2d(2, 2, 3, 2, 1)), 33),
    "dilated": (nn.Sequential(Conv2d(2, 2, 3, padding=2, dilation=2), AvgPool2d(2), Conv2d(2, 2, 3)), 17),
    "grouped": (nn.Sequential(Conv2d(2, 4, 3, padding=1, groups=2), Conv2d(4, 4, 3, 2, 1, groups=4)), 15),
    "tensorflow": (nn.Sequential(Conv2d(2, 2, 3, 2, tf_same=True), Conv2d(2, 2, 5, 2, tf_same=True)), 24),
    "branches": (Branches(), 21),
    "flat": (Flat(), 7),
    "adaptive": (nn.Sequential(Conv2d(2, 2, 3, padding=1), AdaptiveAvgPool2d(3)), 9),
}


def reached(net: nn.Module, size: int, axis: int, pixel: int) -> np.ndarray:
    """Whether NaN in row (axis 0) or column (axis 1) `pixel` reaches each output along that axis, by the NumPy kernels."""
    x = torch.ones(1, 2, size, size)
    x.select(2 + axis, pixel).fill_(torch.nan)
    with torch.no_grad(), convatlas.use_backend("numpy"):
        y = net(x).isnan().numpy()
    return y.any(axis=(0, 1, 3 - axis)) if y.ndim == 4 else y.any(axis=0)[:1]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", NETS)
def test_the_field_is_what_nan_finds(name, axis):
    net, size = NETS[name]
    field = fields(wired(net, (1, 2, size, size)))[-1][axis]
    found = np.stack([reached(net, size, axis, pixel) for pixel in range(size)])  # [pixel, output]
    for output in range(found.shape[1]):
        start = int(field.start + output * field.jump)
        expected = [pixel for pixel in range(size) if start <= pixel < start + field.size]
        assert np.flatnonzero(found[:, output]).tolist() == expected, f"output {output} of {field}"


def test_three_3x3_see_what_one_7x7_sees_in_a_triton_kernel(device):
    """The same, through a real kernel: the interpreter, or a GPU."""
    net, size = NETS["three 3x3"]
    for pixel in (3, 4, 10, 11):
        x = torch.ones(1, 2, size, size, device=device)
        x[:, :, pixel, 7] = torch.nan
        with torch.no_grad(), convatlas.use_backend("triton"):
            reaches = net.to(device)(x)[0, 0, 7, 7].isnan().item()
        assert reaches is (4 <= pixel <= 10)
    net.to("cpu")


def test_asymmetric_windows():
    wide = Conv2d(2, 2, (1, 5), stride=(2, 1), padding=(0, 2))
    high, across = fields(wired(wide, (1, 2, 8, 8)))[0]
    assert high == Field(1, 2, 0) and across == Field(5, 1, -2)


def test_fields_of_resnet50(built):
    """By hand: 11 behind the pooling; a 3x3 adds twice the jump it sees: 3 of 4, 1 + 3 of 4 and 8, 1 + 5, 1 + 2.

    (Araujo et al. 2019, table 1, have 483: TensorFlow's slim ResNet strides in each stage's last block, not its first.)
    """
    nodes = wired(built("resnet50"), (1, 3, 224, 224))
    found = {node.layer.path: f for node, f in zip(nodes, fields(nodes))}
    assert found["conv1"][0] == Field(7, 2, -3) and found["maxpool"][0] == Field(11, 4, -5)
    assert found["layer4.2.conv3"][0].size == 11 + 2 * (3 * 4 + 4 + 3 * 8 + 8 + 5 * 16 + 16 + 2 * 32)


@pytest.mark.parametrize(
    "name, path, size",
    [("alexnet", "features.12", 195), ("vgg16", "features.30", 212), ("mobilenet_v1", "features.26.0", 315)],
)
def test_fields_that_are_published(built, name, path, size):
    """Araujo et al. 2019, table 1: alexnet_v2, vgg_16, mobilenet_v1, without their classifiers."""
    nodes = wired(built(name), (1, 3, 224, 224))
    found = {node.layer.path: f for node, f in zip(nodes, fields(nodes))}
    assert found[path] == (found[path][0],) * 2 and found[path][0].size == size


def test_the_hull_of_two_fields():
    assert Field(3, 2, -1) | Field(7, 2, -3) == Field(7, 2, -3)
    assert Field(3, 1, 0) | Field(3, 1, 2) == Field(5, 1, 0)
