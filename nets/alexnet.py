"""AlexNet: the network of 2012, in two groups, and the single tower of 2014 that PyTorch users know by this name."""

from __future__ import annotations

from torch import nn

from convatlas.nets.classic import Classic, fully_connected
from convatlas.nets.layers import Conv2d, LocalResponseNorm, MaxPool2d
from convatlas.nets.sequential import FusedSequential


def one_tower(in_channels: int) -> FusedSequential:
    """Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, footnote 1.

    This is the single column that torchvision has: 64, 192, 384, 256, 256 channels, no groups, no normalisation.
    """
    return FusedSequential(
        Conv2d(in_channels, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        MaxPool2d(3, 2),
        Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        MaxPool2d(3, 2),
        Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        MaxPool2d(3, 2),
    )


def two_groups(in_channels: int) -> FusedSequential:
    """Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", section 3.5, figure 2.

    The second, fourth and fifth convolution see the channels of their own GPU only: two groups. Overlapping 3x3/2 pooling. The
    paper says 224x224; its own 55x55 map needs 227x227, and that is what is usually built.
    """
    return FusedSequential(
        Conv2d(in_channels, 96, 11, stride=4),
        nn.ReLU(),
        _response_norm(),
        MaxPool2d(3, 2),
        Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        _response_norm(),
        MaxPool2d(3, 2),
        Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        MaxPool2d(3, 2),
    )


def _response_norm() -> LocalResponseNorm:
    """Section 3.3: n = 5, k = 2, alpha = 1e-4, beta = 0.75. PyTorch divides alpha by n, the paper does not."""
    return LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


class AlexNet(Classic):
    """Five convolutions and three fully connected layers."""


def build(name: str, num_classes: int, in_channels: int) -> AlexNet:
    """ "alexnet", torchvision's; or "alexnet_2012", the paper's."""
    features, pooled = (one_tower, 6) if name == "alexnet" else (two_groups, None)
    return AlexNet(features(in_channels), fully_connected(256 * 6 * 6, num_classes, True), in_channels, pooled)
