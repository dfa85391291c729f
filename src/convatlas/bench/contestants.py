"""Who races on a layer: our two backends, PyTorch's own operators, and cuDNN's fused forms where PyTorch has them.

triton, cuda     convatlas's op with its epilogue fused, by backend
cudnn            torch.nn.functional in channels_last, torch.backends.cudnn.benchmark on: what a PyTorch user gets; bias, residual
                 and activation are kernels of their own. For ops that cuDNN is not used for, PyTorch's kernel
cudnn_fused      torch.cudnn_convolution_relu and _add_relu: cuDNN's run-time fusion of the epilogue, for half precision
"""

from __future__ import annotations

import torch
from torch import Tensor

from convatlas.bench.timing import Contestant, Run, Tensors
from convatlas.engine.single import call
from convatlas.ops.backends import use_backend
from convatlas.study.tracing import Layer

OURS = ("triton", "cuda")
PEERS = ("cudnn", "cudnn_fused")


def _by_backend(layer: Layer, backend: str) -> Run:
    def run(tensors: Tensors) -> Tensor:
        with torch.no_grad(), use_backend(backend):
            return call(layer, dict(tensors))

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
    """All that race on `layer`."""
    found = [Contestant(name, _by_backend(layer, name)) for name in (*ours, "cudnn")]
    fused = cudnn_fused(layer)
    return found if fused is None else [*found, Contestant("cudnn_fused", fused)]
