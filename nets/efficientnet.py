"""EfficientNet-Lite0: inverted residual blocks without squeeze-excite, TensorFlow's padding, batch-norm eps 1e-3, ReLU6.

Tan, Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946, table 1, in the
Lite form of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: no squeeze-excite, ReLU6 for
swish, stem and head not scaled. Module names are those of the published PyTorch weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from convatlas.nets.layers import AdaptiveAvgPool2d, Conv2d, Linear
from convatlas.nets.network import Network

BN = {"eps": 1e-3, "momentum": 0.01}  # TensorFlow's momentum 0.99


@dataclass(frozen=True)
class Stage:
    """A row of table 1: `repeats` blocks of a kernel x kernel depthwise convolution, the first with `stride`."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    K: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280


class InvertedResidual(nn.Module):
    """1x1 up, depthwise, 1x1 down without activation (Sandler et al. 2018), x added where the shapes agree."""

    def __init__(self, C: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = C * stage.expansion
        self._expand_conv = None
        if stage.expansion != 1:
            self._expand_conv = Conv2d(C, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, **BN)
        self._depthwise_conv = Conv2d(inner, inner, stage.kernel, stride, groups=inner, bias=False, tf_same=True)
        self._bn1 = nn.BatchNorm2d(inner, **BN)
        self._project_conv = Conv2d(inner, stage.K, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(stage.K, **BN)
        self.residual = stride == 1 and C == stage.K

    def forward(self, x: Tensor) -> Tensor:
        y = x if self._expand_conv is None else self._expand_conv(x, self._bn0, "relu6")
        y = self._depthwise_conv(y, self._bn1, "relu6")
        return self._project_conv(y, self._bn2, residual=x if self.residual else None)


class EfficientNetLite(Network):
    """Stem, seven stages of inverted residual blocks, a 1x1 head, global average pooling, dropout in training, one linear layer."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(in_channels)
        self._conv_stem = Conv2d(in_channels, STEM, 3, 2, bias=False, tf_same=True)
        self._bn0 = nn.BatchNorm2d(STEM, **BN)
        self._blocks = nn.ModuleList()
        C = STEM
        for stage in STAGES:
            for i in range(stage.repeats):
                self._blocks.append(InvertedResidual(C, stage, stage.stride if i == 0 else 1))
                C = stage.K
        self._conv_head = Conv2d(C, HEAD, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD, **BN)
        self._avg_pooling = AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(0.2)
        self._fc = Linear(HEAD, num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """The linear layer on the averages of the head's maps."""
        x = self._conv_stem(x, self._bn0, "relu6")
        for block in self._blocks:
            x = block(x)
        x = self._conv_head(x, self._bn1, "relu6")
        return self._fc(self._dropout(self._avg_pooling(x).flatten(1)))


def build(name: str, num_classes: int, in_channels: int) -> EfficientNetLite:
    """EfficientNet-Lite0, the only size that this file has."""
    return EfficientNetLite(num_classes, in_channels)
