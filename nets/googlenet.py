"""GoogLeNet: nine Inception modules, 1x1, 3x3 and 5x5 convolutions and a pooling side by side, behind 1x1 bottlenecks.

Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv:1409.4842, table 1, in two forms, one class:

- "googlenet_2014" is the paper's: biases and no batch norm, local response normalisation, 5x5 convolutions in the third branch.
- "googlenet" is torchvision's, whose weights load. It departs from the paper: it has batch norms and no response normalisation,
  3x3 convolutions in the place of the 5x5 (a mistake that the published weights made permanent,
  https://github.com/pytorch/vision/issues/906), a 2x2 max pooling in the place of the last 3x3, other dropout, and auxiliary
  classifiers that pool to 4x4 whatever the size. torchvision turns images
  normalised by ImageNet's mean into (x - 127.5) / 127.5 inside the net; here the registry's preprocessing gives that at once.

Auxiliary classifiers against vanishing gradients (section 5) exist in training only: create(name, aux=True), and train().
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from convatlas.nets.branches import join
from convatlas.nets.layers import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Linear, LocalResponseNorm, MaxPool2d
from convatlas.nets.network import Network
from convatlas.nets.sequential import FusedSequential


@dataclass(frozen=True)
class Row:
    """An Inception module's output channels in table 1, with the paper's names of the columns."""

    n1x1: int
    reduce3x3: int
    n3x3: int
    reduce5x5: int
    n5x5: int
    pool_proj: int

    @property
    def K(self) -> int:
        return self.n1x1 + self.n3x3 + self.n5x5 + self.pool_proj


STAGES = {
    3: {"a": Row(64, 96, 128, 16, 32, 32), "b": Row(128, 128, 192, 32, 96, 64)},
    4: {
        "a": Row(192, 96, 208, 16, 48, 64),
        "b": Row(160, 112, 224, 24, 64, 64),
        "c": Row(128, 128, 256, 24, 64, 64),
        "d": Row(112, 144, 288, 32, 64, 64),
        "e": Row(256, 160, 320, 32, 128, 128),
    },
    5: {"a": Row(256, 160, 320, 32, 128, 128), "b": Row(384, 192, 384, 48, 128, 128)},
}
AUXILIARY = {"aux1": "4a", "aux2": "4d"}  # heads, and the modules that they stand behind


@dataclass(frozen=True)
class Config:
    """The ways in which the two forms differ.

    Attributes:
        batch_norm: a batch norm follows every convolution, which then has no bias.
        third: kernel size of the third branch.
        response_norm: there is one before the second and one behind the third convolution.
        last_pool: kernel size of the max pooling before stage 5.
        dropout: its probability before the last layer.
        adaptive_aux_pool: the auxiliary classifiers pool to 4x4; else they pool by 5x5/3, which makes 4x4 of the native 14x14.
    """

    batch_norm: bool
    third: int
    response_norm: bool
    last_pool: int
    dropout: float
    adaptive_aux_pool: bool


CONFIGS = {
    "googlenet": Config(True, 3, False, 2, 0.2, True),
    "googlenet_2014": Config(False, 5, True, 3, 0.4, False),
}


class Outputs(NamedTuple):
    """What a net with auxiliary classifiers returns in training: torchvision's GoogLeNetOutputs."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class ConvBlock(nn.Module):
    """relu(conv(x)) or relu(bn(conv(x)))."""

    def __init__(self, config: Config, C: int, K: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(C, K, kernel, stride, padding=kernel // 2, bias=not config.batch_norm)
        self.bn = nn.BatchNorm2d(K, eps=1e-3) if config.batch_norm else None

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return self.conv(x, self.bn, "relu", out=out)


class Inception(nn.Module):
    """Figure 2(b): four branches, joined along the channels."""

    def __init__(self, config: Config, C: int, row: Row) -> None:
        super().__init__()
        self.row = row
        self.branch1 = ConvBlock(config, C, row.n1x1, 1)
        self.branch2 = FusedSequential(
            ConvBlock(config, C, row.reduce3x3, 1), ConvBlock(config, row.reduce3x3, row.n3x3, 3)
        )
        self.branch3 = FusedSequential(
            ConvBlock(config, C, row.reduce5x5, 1), ConvBlock(config, row.reduce5x5, row.n5x5, config.third)
        )
        self.branch4 = FusedSequential(MaxPool2d(3, 1, 1), ConvBlock(config, C, row.pool_proj, 1))

    def forward(self, x: Tensor) -> Tensor:
        branches = self.branch1, self.branch2, self.branch3, self.branch4
        return join(x, list(zip(branches, (self.row.n1x1, self.row.n3x3, self.row.n5x5, self.row.pool_proj))))


def response_norm(config: Config) -> nn.Module:
    """The paper gives no constants; these are those of the Caffe model that follows it, bvlc_googlenet."""
    return LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0) if config.response_norm else nn.Identity()


class Auxiliary(nn.Module):
    """Section 5: average pooling, 1x1 to 128 channels, 1024 units, dropout of 70 %, logits."""

    def __init__(self, config: Config, C: int, num_classes: int) -> None:
        super().__init__()
        self.pool = AdaptiveAvgPool2d(4) if config.adaptive_aux_pool else AvgPool2d(5, 3)
        self.conv = ConvBlock(config, C, 128, 1)
        self.fc1 = Linear(128 * 4 * 4, 1024)
        self.fc2 = Linear(1024, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)
        return self.fc2(self.dropout(self.fc1(x, "relu")))


class GoogLeNet(Network):
    """Three convolutions, three stages of Inception modules, max pooling between them, global average pooling, one linear layer."""

    training_only = tuple(f"{name}." for name in AUXILIARY)

    def __init__(self, config: Config, num_classes: int, in_channels: int, aux: bool) -> None:
        super().__init__(in_channels)
        self.conv1 = ConvBlock(config, in_channels, 64, 7, 2)
        self.maxpool1 = MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = response_norm(config)
        self.conv2 = ConvBlock(config, 64, 64, 1)
        self.conv3 = ConvBlock(config, 64, 192, 3)
        self.norm2 = response_norm(config)
        self.maxpool2 = MaxPool2d(3, 2, ceil_mode=True)
        C, channels = 192, {}
        for stage, rows in STAGES.items():
            for letter, row in rows.items():
                self.add_module(f"inception{stage}{letter}", Inception(config, C, row))
                C = channels[f"{stage}{letter}"] = row.K
        self.maxpool3 = MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool4 = MaxPool2d(config.last_pool, 2, ceil_mode=True)
        self.aux = aux
        for name, behind in AUXILIARY.items() if aux else ():
            self.add_module(name, Auxiliary(config, channels[behind], num_classes))
        self.avgpool = AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = Linear(C, num_classes)

    def logits(self, x: Tensor) -> Tensor | Outputs:
        """The logits or, with auxiliary classifiers and in training, Outputs."""
        x = self.norm1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.aux and self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.aux and self.training else None
        x = self.maxpool4(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        y = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return y if aux1 is None else Outputs(y, aux2, aux1)


def build(name: str, num_classes: int, in_channels: int, aux: bool = False) -> GoogLeNet:
    """ "googlenet", torchvision's, or "googlenet_2014", the paper's; with aux=True auxiliary classifiers run in training."""
    return GoogLeNet(CONFIGS[name], num_classes, in_channels, aux)
