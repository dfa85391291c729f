"""Network in Network: two 1x1 convolutions, a small perceptron slid over the map, follow each convolution; no fully connected
layer.

Lin, Chen, Yan 2013, "Network In Network", arXiv:1312.4400, section 3.1; in the ImageNet form of the authors' Caffe model
(https://gist.github.com/mavenlin/d802a5849de39225bcc6): the paper gives sizes for 32x32 images only.
"""

from __future__ import annotations

from torch import Tensor, nn

from convatlas.nets.layers import AdaptiveAvgPool2d, Conv2d, MaxPool2d
from convatlas.nets.network import Network
from convatlas.nets.sequential import FusedSequential


def mlpconv(C: int, K: int, *perceptron: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    """A convolution to K channels, and a 1x1 one to each of `perceptron`, with a relu behind every one (equation 2)."""
    layers: list[nn.Module] = [Conv2d(C, K, kernel, stride, padding), nn.ReLU()]
    for inputs, outputs in zip((K, *perceptron), perceptron):
        layers += [Conv2d(inputs, outputs, 1), nn.ReLU()]
    return layers


class NetworkInNetwork(Network):
    """Four such blocks, 3x3/2 max pooling between them (rounded up, as Caffe does), dropout, global average pooling."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(in_channels)
        self.features = FusedSequential(
            *mlpconv(in_channels, 96, 96, 96, kernel=11, stride=4),
            MaxPool2d(3, 2, ceil_mode=True),
            *mlpconv(96, 256, 256, 256, kernel=5, padding=2),
            MaxPool2d(3, 2, ceil_mode=True),
            *mlpconv(256, 384, 384, 384, kernel=3, padding=1),
            MaxPool2d(3, 2, ceil_mode=True),
            nn.Dropout(0.5),
            *mlpconv(384, 1024, 1024, num_classes, kernel=3, padding=1),
            AdaptiveAvgPool2d(1),
        )

    def logits(self, x: Tensor) -> Tensor:
        """The averages of the last maps, one map a class (section 3.2)."""
        return self.features(x).flatten(1)


def build(name: str, num_classes: int, in_channels: int) -> NetworkInNetwork:
    """NiN, the only size that this file has."""
    return NetworkInNetwork(num_classes, in_channels)
