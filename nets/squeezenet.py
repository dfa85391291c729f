"""SqueezeNet: Fire modules, which squeeze to few channels by 1x1 and expand by 1x1 and 3x3 side by side.

Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", arXiv:1602.07360,
table 1; with torchvision's module names, so that its weights load.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from convatlas.errors import NetError
from convatlas.nets.branches import join
from convatlas.nets.layers import AdaptiveAvgPool2d, Conv2d, MaxPool2d
from convatlas.nets.network import Network
from convatlas.nets.sequential import FusedSequential

# Fire modules 2 to 9 of table 1: (squeezed, expanded) channels; half of the expanded ones are 1x1, half 3x3.
FIRES = ((16, 128), (16, 128), (32, 256), (32, 256), (48, 384), (48, 384), (64, 512), (64, 512))


@dataclass(frozen=True)
class Config:
    """A version.

    Attributes:
        channels, kernel: filters and kernel size of the first convolution, which has stride 2.
        pooled: the Fire modules, counted from 0, that a 3x3/2 max pooling precedes.
    """

    channels: int
    kernel: int
    pooled: tuple[int, ...]


CONFIGS = {
    "squeezenet1_0": Config(96, 7, (0, 3, 7)),
    # https://github.com/forresti/SqueezeNet/tree/master/SqueezeNet_v1.1: 2.4 times less work at the same accuracy.
    "squeezenet1_1": Config(64, 3, (0, 2, 4)),
}


class Fire(nn.Module):
    """concat(relu(1x1(s)), relu(3x3(s))) of s = relu(1x1(x)) (figure 1)."""

    def __init__(self, C: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = Conv2d(C, squeezed, 1)
        self.expand1x1 = Conv2d(squeezed, expanded // 2, 1)
        self.expand3x3 = Conv2d(squeezed, expanded // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        s = self.squeeze(x, activation="relu")
        return join(s, [(conv, conv.out_channels) for conv in (self.expand1x1, self.expand3x3)], activation="relu")


class SqueezeNet(Network):
    """A convolution, eight Fire modules, dropout in training, a 1x1 convolution to one map a class, their averages."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__(in_channels)
        layers: list[nn.Module] = [Conv2d(in_channels, config.channels, config.kernel, stride=2), nn.ReLU()]
        C = config.channels
        for i, (squeezed, expanded) in enumerate(FIRES):
            if i in config.pooled:
                layers.append(MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(C, squeezed, expanded))
            C = expanded
        self.features = FusedSequential(*layers)
        self.classifier = FusedSequential(nn.Dropout(0.5), Conv2d(C, num_classes, 1), nn.ReLU(), AdaptiveAvgPool2d(1))

    def logits(self, x: Tensor) -> Tensor:
        """The averages of the last maps."""
        return self.classifier(self.features(x)).flatten(1)


def build(name: str, num_classes: int, in_channels: int) -> SqueezeNet:
    """SqueezeNet 1.0 or 1.1."""
    if name not in CONFIGS:
        raise NetError(f"SqueezeNet {name!r}, expected one of {', '.join(CONFIGS)}")
    return SqueezeNet(CONFIGS[name], num_classes, in_channels)
