"""Wide ResNet for 32x32 images: pre-activation blocks, few of them, with many channels.

Zagoruyko, Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146, table 1; the blocks are those of He et al. 2016, "Identity
Mappings in Deep Residual Networks", arXiv:1603.05027: batch norm and relu stand before a convolution, so the path along the
shortcuts holds nothing but additions. (The Wide ResNets for ImageNet, wide_resnet50_2 and 101_2, are ResNets: resnet.py.)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from convatlas.errors import NetError
from convatlas.nets.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Linear
from convatlas.nets.network import Network


@dataclass(frozen=True)
class Config:
    """WRN-depth-widening; the depth is 6 * blocks + 4 (three groups, two convolutions a block).

    Attributes:
        blocks: in each of the three groups.
        widening: the k that multiplies 16, 32 and 64 channels.
    """

    blocks: int
    widening: int


CONFIGS = {"wrn_28_10": Config(blocks=4, widening=10)}
DROPOUT = 0.3  # section 2.4's for CIFAR


class PreActivation(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))), with dropout between the convolutions in training (figure 1d).

    Where the shape changes the shortcut is a 1x1 convolution of the first relu, as in the authors' code.
    """

    def __init__(self, C: int, K: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(C)
        self.conv1 = Conv2d(C, K, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(K)
        self.dropout = nn.Dropout(DROPOUT)
        self.conv2 = Conv2d(K, K, 3, 1, 1, bias=False)
        self.shortcut = Conv2d(C, K, 1, stride, bias=False) if stride != 1 or C != K else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x, "relu")
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.dropout(self.conv1(y, self.bn2, "relu"))
        return self.conv2(y, residual=shortcut)


class WideResNet(Network):
    """3x3 convolution, three groups of blocks, batch norm and relu, global average pooling, one linear layer."""

    def __init__(self, config: Config, num_classes: int, in_channels: int) -> None:
        super().__init__(in_channels)
        self.conv1 = Conv2d(in_channels, 16, 3, padding=1, bias=False)
        C = 16
        for group in range(3):
            K, blocks = (16 << group) * config.widening, []
            for i in range(config.blocks):
                blocks.append(PreActivation(C, K, 2 if group and i == 0 else 1))
                C = K
            self.add_module(f"group{group + 1}", nn.Sequential(*blocks))
        self.bn = BatchNorm2d(C)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(C, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """The linear layer on the averages of the last map."""
        x = self.group3(self.group2(self.group1(self.conv1(x))))
        return self.fc(self.avgpool(self.bn(x, "relu")).flatten(1))


def build(name: str, num_classes: int, in_channels: int) -> WideResNet:
    """The Wide ResNet called `name`."""
    if name not in CONFIGS:
        raise NetError(f"Wide ResNet {name!r}, expected one of {', '.join(CONFIGS)}")
    return WideResNet(CONFIGS[name], num_classes, in_channels)
