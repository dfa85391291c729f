"""The small ResNets for images of 32x32 pixels and fewer, and the plain nets beside them; for `convatlas train`.

He et al. 2015, arXiv:1512.03385, section 4.2: a 3x3 convolution of 16 filters, then three stages of n blocks with 16, 32 and 64
filters, 6n + 2 layers that learn in all. The shortcuts have no parameters: where the shape changes they take every second pixel and
fill up with channels of zeros (option A), by average pooling of 1x1 windows and a concatenation.
"""

from __future__ import annotations

from torch import Tensor, nn

from convatlas.errors import NetError
from convatlas.nets.layers import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Linear
from convatlas.nets.network import Network
from convatlas.ops import functional as ops

DEPTHS = (8, 14, 20, 32, 44, 56, 110)
NAMES = tuple(f"{kind}{depth}" for kind in ("resnet", "plain") for depth in DEPTHS)


class Block(nn.Module):
    """y = relu(F(x) + x) of two 3x3 convolutions (figure 2), or relu(F(x)) without shortcuts."""

    def __init__(self, C: int, K: int, stride: int, shortcuts: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv2d(C, K, 3, stride, 1, bias=False), nn.BatchNorm2d(K)
        self.conv2, self.bn2 = Conv2d(K, K, 3, 1, 1, bias=False), nn.BatchNorm2d(K)
        self.shortcuts, self.added = shortcuts, K - C
        self.take = AvgPool2d(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output. Raises ShapeError, DtypeError, BackendError."""
        shortcut = x if self.shortcuts else None
        if self.shortcuts and self.added:
            shortcut = self.take(x)
            shortcut = ops.concat([shortcut, shortcut.new_zeros(x.shape[0], self.added, *shortcut.shape[2:])])
        return self.conv2(self.conv1(x, self.bn1, "relu"), self.bn2, "relu", residual=shortcut)


class CifarResNet(Network):
    """3x3 convolution, three stages of blocks, global average pooling, one linear layer."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int, shortcuts: bool) -> None:
        super().__init__(in_channels)
        self.conv1, self.bn1 = Conv2d(in_channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        C = 16
        for stage in range(3):
            K = 16 << stage
            first = Block(C, K, 2 if stage else 1, shortcuts)
            self.add_module(
                f"layer{stage + 1}", nn.Sequential(first, *(Block(K, K, 1, shortcuts) for _ in range(blocks - 1)))
            )
            C = K
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(C, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """The linear layer on the averages of the last map."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x, self.bn1, "relu"))))
        return self.fc(self.avgpool(x).flatten(1))


def build(name: str, num_classes: int, in_channels: int) -> CifarResNet:
    """One of NAMES: "resnet20" with shortcuts, "plain20" without. Raises NetError for any other."""
    if name not in NAMES:
        raise NetError(f"{name!r}, expected one of {', '.join(NAMES)}")
    depth = int(name.removeprefix("resnet").removeprefix("plain"))
    return CifarResNet((depth - 2) // 6, num_classes, in_channels, name.startswith("resnet"))
