"""VGG: 3x3 convolutions only, doubled in width after each 2x2 pooling, and three fully connected layers.

Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556, table 1; with
torchvision's module names, so that its weights load.
"""

from __future__ import annotations

from torch import nn

from convatlas.errors import NetError
from convatlas.nets.classic import Classic, fully_connected
from convatlas.nets.layers import Conv2d, MaxPool2d
from convatlas.nets.sequential import FusedSequential

# Columns A, B, D and E of table 1: 3x3 convolutions in each of the five stages, which have these channels.
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)


def features(depths: tuple[int, ...], in_channels: int, batch_norm: bool) -> FusedSequential:
    """The stages. batch_norm: one follows each convolution; the paper, which is older than batch norm, has none."""
    layers: list[nn.Module] = []
    C = in_channels
    for depth, K in zip(depths, CHANNELS):
        for _ in range(depth):
            norm = [nn.BatchNorm2d(K)] if batch_norm else []
            layers += [Conv2d(C, K, 3, padding=1), *norm, nn.ReLU()]
            C = K
        layers.append(MaxPool2d(2))
    return FusedSequential(*layers)


class VGG(Classic):
    """Five stages of 3x3 convolutions and three fully connected layers."""


def build(name: str, num_classes: int, in_channels: int) -> VGG:
    """The VGG called `name`, such as "vgg16" or "vgg16_bn"."""
    column = name.removesuffix("_bn")
    if column not in DEPTHS:
        raise NetError(f"VGG {name!r}, expected one of {', '.join(DEPTHS)}, with or without _bn")
    convolutions = features(DEPTHS[column], in_channels, batch_norm=name != column)
    return VGG(convolutions, fully_connected(512 * 7 * 7, num_classes, False), in_channels, pooled=7)
