"""ResNet, ResNeXt and Wide ResNet: one class, whose groups and width_per_group tell them apart; and nets without shortcuts.

He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1; with the stride in the 3x3
convolution of a bottleneck, not its first 1x1, and with torchvision's module names, so that its weights load.
ResNeXt: Xie et al. 2016, "Aggregated Residual Transformations for Deep Neural Networks", arXiv:1611.05431, table 1, in the form
of figure 3(c); resnext_paths.py has figure 3(a).
Wide ResNet: Zagoruyko, Komodakis 2016, arXiv:1605.07146, section 3.3: the 3x3 convolutions of a bottleneck twice as wide.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from convatlas.errors import NetError
from convatlas.nets.layers import AdaptiveAvgPool2d, Conv2d, Linear, MaxPool2d, ResidualAdd
from convatlas.nets.network import Network


@dataclass(frozen=True)
class Config:
    """One row of table 1.

    Attributes:
        depths: blocks in each of the four stages.
        bottleneck: 1x1, 3x3, 1x1 blocks (50 layers and more) in place of two 3x3.
        groups: parallel paths of the 3x3 convolution (ResNeXt's cardinality).
        width_per_group: channels of one path in the first stage; 64 with one group is ResNet.
        shortcuts: False is the paper's plain net, layers of the same shapes and y = relu(F(x)).
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    groups: int = 1
    width_per_group: int = 64
    shortcuts: bool = True


CONFIGS = {
    "resnet18": Config((2, 2, 2, 2), bottleneck=False),
    "resnet34": Config((3, 4, 6, 3), bottleneck=False),
    "resnet50": Config((3, 4, 6, 3), bottleneck=True),
    "resnet101": Config((3, 4, 23, 3), bottleneck=True),
    "resnet152": Config((3, 8, 36, 3), bottleneck=True),
    "wide_resnet50_2": Config((3, 4, 6, 3), bottleneck=True, width_per_group=128),
    "wide_resnet101_2": Config((3, 4, 23, 3), bottleneck=True, width_per_group=128),
    "resnext50_32x4d": Config((3, 4, 6, 3), bottleneck=True, groups=32, width_per_group=4),
    "resnext101_32x8d": Config((3, 4, 23, 3), bottleneck=True, groups=32, width_per_group=8),
    "resnext101_64x4d": Config((3, 4, 23, 3), bottleneck=True, groups=64, width_per_group=4),
    "plain18": Config((2, 2, 2, 2), bottleneck=False, shortcuts=False),
    "plain34": Config((3, 4, 6, 3), bottleneck=False, shortcuts=False),
}


class Block(nn.Module):
    """y = relu(F(x) + shortcut(x)); the shortcut is x, or a strided 1x1 convolution where the shape changes (option B).

    Without shortcuts, y = relu(F(x)).
    """

    def __init__(self, C: int, K: int, stride: int, shortcuts: bool, fuse_residual: bool) -> None:
        super().__init__()
        self.shortcuts = shortcuts
        self.downsample = None
        if shortcuts and (stride != 1 or C != K):
            self.downsample = nn.Sequential(Conv2d(C, K, 1, stride, bias=False), nn.BatchNorm2d(K))
        if not fuse_residual:
            self.add = ResidualAdd()
        self.fuse_residual = fuse_residual

    def shortcut(self, x: Tensor) -> Tensor | None:
        """What is added to F(x), or None in a net without shortcuts."""
        if not self.shortcuts:
            return None
        if self.downsample is None:
            return x
        conv, bn = self.downsample
        return conv(x, bn)

    def finish(self, y: Tensor, conv: Conv2d, bn: nn.BatchNorm2d, shortcut: Tensor | None) -> Tensor:
        """relu(bn(conv(y)) + shortcut): in the convolution's epilogue, or as a kernel of its own."""
        if self.fuse_residual or shortcut is None:
            return conv(y, bn, "relu", residual=shortcut)
        return self.add(conv(y, bn), shortcut, "relu")


class BasicBlock(Block):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, C: int, width: int, stride: int, config: Config, fuse_residual: bool) -> None:
        super().__init__(C, width, stride, config.shortcuts, fuse_residual)
        self.conv1 = Conv2d(C, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.last_bn = "bn2"

    def forward(self, x: Tensor) -> Tensor:
        own, shortcut = self._modules, self.shortcut(x)  # nn.Module's look-up of a name takes ten times as long
        y = own["conv1"](x, own["bn1"], "relu")
        return self.finish(y, own["conv2"], own["bn2"], shortcut)


class Bottleneck(Block):
    """1x1 down, 3x3 (in groups), 1x1 up to four times the width (figure 5, right)."""

    expansion = 4

    def __init__(self, C: int, width: int, stride: int, config: Config, fuse_residual: bool) -> None:
        K = width * self.expansion
        super().__init__(C, K, stride, config.shortcuts, fuse_residual)
        inner = width * config.width_per_group // 64 * config.groups
        self.conv1 = Conv2d(C, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = Conv2d(inner, inner, 3, stride, 1, groups=config.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = Conv2d(inner, K, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(K)
        self.last_bn = "bn3"

    def forward(self, x: Tensor) -> Tensor:
        own, shortcut = self._modules, self.shortcut(x)
        y = own["conv1"](x, own["bn1"], "relu")
        y = own["conv2"](y, own["bn2"], "relu")
        return self.finish(y, own["conv3"], own["bn3"], shortcut)


class ResNet(Network):
    """7x7/2 convolution, 3x3/2 max pooling, four stages of blocks, global average pooling, one linear layer."""

    def __init__(self, config: Config, num_classes: int, in_channels: int, fuse_residual: bool = True) -> None:
        super().__init__(in_channels)
        block = Bottleneck if config.bottleneck else BasicBlock
        self.conv1 = Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = MaxPool2d(3, 2, 1)
        C = 64
        for stage, depth in enumerate(config.depths):
            width, blocks = 64 << stage, []
            for i in range(depth):
                blocks.append(block(C, width, 2 if stage and i == 0 else 1, config, fuse_residual))
                C = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(C, num_classes)
        if config.shortcuts:
            self._damp_residuals(sum(config.depths))

    def _damp_residuals(self, blocks: int) -> None:
        """Random weights only: each block adds 1/blocks of the variance, or 50 of them would overflow float16.

        After Zhang, Dauphin, Ma 2019 ("Fixup"), who scale residual branches down by depth.
        """
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.constant_(module.get_submodule(module.last_bn).weight, blocks**-0.5)

    def logits(self, x: Tensor) -> Tensor:
        """The linear layer on the averages of the last map."""
        x = self.maxpool(self.conv1(x, self.bn1, "relu"))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def build(name: str, num_classes: int, in_channels: int, fuse_residual: bool = True) -> ResNet:
    """The net called `name`. With fuse_residual=False the residual additions run as convatlas.residual_add kernels."""
    if name not in CONFIGS:
        raise NetError(f"ResNet {name!r}, expected one of {', '.join(CONFIGS)}")
    return ResNet(CONFIGS[name], num_classes, in_channels, fuse_residual)
