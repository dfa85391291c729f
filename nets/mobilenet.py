"""MobileNetV1, depthwise separable convolutions, and MobileNetV2, inverted residual blocks; both with a width multiplier."""

from __future__ import annotations

from torch import Tensor, nn

from convatlas.errors import NetError
from convatlas.nets.layers import AdaptiveAvgPool2d, Conv2d, Linear
from convatlas.nets.network import Network
from convatlas.nets.sequential import FusedSequential

# V1, table 1: (channels, stride of the depthwise convolution) of each separable one. The table's last stride of 2 is a misprint:
# the map is 7x7 before and after it.
SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))

# V2, table 2: expansion t, channels c, repeats n, stride s of the first.
INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_bn(C: int, K: int, kernel: int, stride: int, activation: type[nn.Module], groups: int = 1) -> FusedSequential:
    """Convolution, batch norm, activation: one kernel."""
    conv = Conv2d(C, K, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return FusedSequential(conv, nn.BatchNorm2d(K), activation())


class MobileNet(Network):
    """features, global average pooling, dropout in training, one linear layer."""

    def __init__(self, features: FusedSequential, K: int, dropout: float, num_classes: int, in_channels: int) -> None:
        super().__init__(in_channels)
        self.features = features
        self.avgpool = AdaptiveAvgPool2d(1)
        self.classifier = FusedSequential(nn.Dropout(dropout), Linear(K, num_classes))

    def logits(self, x: Tensor) -> Tensor:
        """The linear layer on the averages of the features."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def v1(width: float, num_classes: int, in_channels: int) -> MobileNet:
    """Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", arXiv:1704.04861.

    Table 1, with a batch norm and a relu behind each convolution (figure 3). `width` is section 3.3's alpha: channels are
    int(alpha * channels), at least 8, as the authors' code rounds them; so is their dropout of 0.001.
    """

    def scaled(channels: int) -> int:
        return max(8, int(channels * width))

    C = scaled(32)
    layers = [conv_bn(in_channels, C, 3, 2, nn.ReLU)]
    for channels, stride in SEPARABLE:
        K = scaled(channels)
        layers += [conv_bn(C, C, 3, stride, nn.ReLU, groups=C), conv_bn(C, K, 1, 1, nn.ReLU)]
        C = K
    return MobileNet(FusedSequential(*layers), C, 0.001, num_classes, in_channels)


class InvertedResidual(nn.Module):
    """1x1 up by `expansion`, 3x3 depthwise, 1x1 down without activation; x added where the shapes agree (figure 3b)."""

    def __init__(self, C: int, K: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = C * expansion
        expand = [conv_bn(C, inner, 1, 1, nn.ReLU6)] if expansion != 1 else []
        self.conv = FusedSequential(
            *expand,
            conv_bn(inner, inner, 3, stride, nn.ReLU6, groups=inner),
            Conv2d(inner, K, 1, bias=False),
            nn.BatchNorm2d(K),
        )
        self.residual = stride == 1 and C == K

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, residual=x if self.residual else None)


def v2(width: float, num_classes: int, in_channels: int) -> MobileNet:
    """Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, table 2.

    With torchvision's module names, so that its weights load, and its rounding of scaled channels to multiples of 8. The last
    1x1 convolution grows by `width` but does not shrink (section 5).
    """
    C, head = divisible(32 * width), divisible(1280 * max(1.0, width))
    layers: list[nn.Module] = [conv_bn(in_channels, C, 3, 2, nn.ReLU6)]
    for expansion, channels, repeats, stride in INVERTED:
        K = divisible(channels * width)
        for i in range(repeats):
            layers.append(InvertedResidual(C, K, stride if i == 0 else 1, expansion))
            C = K
    layers.append(conv_bn(C, head, 1, 1, nn.ReLU6))
    return MobileNet(FusedSequential(*layers), head, 0.2, num_classes, in_channels)


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by`, at least `by`, and not more than a tenth below `channels`."""
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * channels else nearest


def build(name: str, num_classes: int, in_channels: int, width: float = 1.0) -> MobileNet:
    """MobileNetV1 or V2, its channels multiplied by `width`. Raises NetError for a width that is not positive."""
    if not width > 0:
        raise NetError(f"{name}: width={width!r}, expected a positive number")
    return {"mobilenet_v1": v1, "mobilenet_v2": v2}[name](width, num_classes, in_channels)
