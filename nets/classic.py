"""What AlexNet and VGG share: convolutions, a map of fixed size, three fully connected layers with dropout in training."""

from __future__ import annotations

from torch import Tensor, nn

from convatlas.nets.layers import AdaptiveAvgPool2d, Linear, is_traced
from convatlas.nets.network import Network
from convatlas.nets.sequential import FusedSequential


class Classic(Network):
    """features, average pooling to a map of fixed size, classifier; torchvision's module names.

    Args:
        features: the convolutional part.
        classifier: the fully connected layers, which take the flattened map.
        pooled: pixels of the map that the classifier was made for; another map is average-pooled to it, as torchvision does. None
            pools nothing, as in the papers, whose input has one size.
    """

    def __init__(
        self, features: FusedSequential, classifier: FusedSequential, in_channels: int, pooled: int | None
    ) -> None:
        super().__init__(in_channels)
        self.features = features
        self.avgpool = None if pooled is None else AdaptiveAvgPool2d(pooled)
        self.classifier = classifier

    def logits(self, x: Tensor) -> Tensor:
        """The features, pooled unless their map has the right size already, through the classifier."""
        x = self.features(x)
        if self.avgpool is not None and (is_traced(x) or x.shape[-2:] != (self.avgpool.output_size,) * 2):
            x = self.avgpool(x)
        return self.classifier(x.flatten(1))


def fully_connected(inputs: int, num_classes: int, dropout_first: bool) -> FusedSequential:
    """4096, 4096 and num_classes units; dropout before the first two layers (AlexNet) or behind them (VGG)."""
    pairs = [(Linear(inputs, 4096), nn.ReLU()), (Linear(4096, 4096), nn.ReLU())]
    layers = [m for pair in pairs for m in ((nn.Dropout(0.5), *pair) if dropout_first else (*pair, nn.Dropout(0.5)))]
    return FusedSequential(*layers, Linear(4096, num_classes))
