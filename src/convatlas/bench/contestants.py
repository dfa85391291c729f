"""Who races on a layer: our two backends, PyTorch's own operators, and cuDNN's fused forms where PyTorch has them.

triton, cuda     convatlas's op with its epilogue fused, by backend
cudnn            torch.nn.functional in channels_last, torch.backends.cudnn.benchmark on: what a PyTorch user gets; bias, residual
                 and activation are kernels of their own. For ops that cuDNN is not used for, PyTorch's kernel. Called without
                 convatlas's dispatch in between, which would cost the peer host time that its users do not pay
cudnn_fused      torch.cudnn_convolution_relu and _add_relu: cuDNN's run-time fusion of the epilogue
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from convatlas.bench.timing import Contestant, Run, Tensors, Timer, sets_for
from convatlas.layout import taps_first
from convatlas.ops import backend_cudnn
from convatlas.ops.backends import use_backend
from convatlas.results.standings import OURS
from convatlas.specs import dtype_name
from convatlas.study.tracing import Layer
from convatlas.verify.single import call, operands

AUTO = "auto"  # the backend that ops/automatic.py chooses
FOLDED = "folded"  # an extra operand: a depthwise weight as nets.folding lays it out


def with_folded(layer: Layer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The operands, and for a depthwise layer its weight a second time, lying as R, S, K, as our nets hand it to our kernels."""
    return {**tensors, FOLDED: taps_first(tensors["weight"])} if layer.spec.layer_kind == "depthwise" else tensors


@contextmanager
def tuned() -> Iterator[None]:
    """cuDNN chooses by trial, as a user who asks for speed lets it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def on(backend: str) -> AbstractContextManager[None]:
    """The context in which ops run on `backend`, or where AUTO sends them."""
    return nullcontext() if backend == AUTO else use_backend(backend)


def by_backend(layer: Layer, backend: str) -> Run:
    """Our op on a data set that `with_folded` made."""

    def run(tensors: Tensors) -> Tensor:
        given = dict(tensors)
        if FOLDED in given:
            given["weight"] = given.pop(FOLDED)
        with torch.no_grad(), on(backend):
            return call(layer, given)

    return run


def _torch(layer: Layer) -> Run:
    described = replace(layer.call, backend="cudnn")

    def run(tensors: Tensors) -> Tensor:
        with torch.no_grad():
            return backend_cudnn.run(described, tensors, None)

    return run


def cudnn_fused(layer: Layer) -> Run | None:
    """cuDNN's conv + bias (+ residual) + ReLU in one kernel; None where PyTorch has no such operator for the layer."""
    epilogue, spec = layer.epilogue, layer.spec
    if layer.op != "conv2d" or epilogue.activation != "relu" or not epilogue.bias:
        return None
    (top, bottom), (left, right) = spec.padding
    if top != bottom or left != right:
        return None
    geometry = list(spec.stride), [top, left], list(spec.dilation), spec.groups
    if epilogue.residual:

        def run(t: Tensors) -> Tensor:
            return torch.cudnn_convolution_add_relu(t["input"], t["weight"], t["residual"], 1.0, t["bias"], *geometry)

    else:

        def run(t: Tensors) -> Tensor:
            return torch.cudnn_convolution_relu(t["input"], t["weight"], t["bias"], *geometry)

    return run


def contestants(layer: Layer, ours: tuple[str, ...] = OURS) -> list[Contestant]:
    """All that race on `layer`, on data sets that `with_folded` made."""
    found = [*(Contestant(name, by_backend(layer, name)) for name in ours), Contestant("cudnn", _torch(layer))]
    fused = cudnn_fused(layer)
    return found if fused is None else [*found, Contestant("cudnn_fused", fused)]


def data_sets(
    layer: Layer, dtype: torch.dtype, device: torch.device, timer: Timer, cache: str
) -> list[dict[str, Tensor]]:
    """As many as are gone round when the cache is to be cold, each drawn on the device by a seed of its own."""
    count = sets_for(timer, cache, layer.spec.bytes(dtype_name(dtype), layer.epilogue))
    return [with_folded(layer, operands(layer, dtype, device, seed, device.type)) for seed in range(count)]
