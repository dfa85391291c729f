"""What a machine without a GPU can say: how long its own ways of running a kernel take, and what is predicted for GPUs.

torch        PyTorch's CPU kernels (oneDNN), float32
reference    convatlas's NumPy truth, which computes in float64
triton       the Triton kernel in Triton's interpreter: right, and not meant to be fast
cuda         the CUDA C++ kernel compiled by g++ for the CPU: the same

None of these says how fast a kernel is on a GPU. The roofline does, as a bound: no kernel is faster than the longer of its FLOPs at
the peak rate and its compulsory bytes at the memory bandwidth (Williams, Waterman, Patterson 2009).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from convatlas.bench.accuracy import Judge
from convatlas.bench.cases import layers_of
from convatlas.bench.contestants import contestants, with_folded
from convatlas.bench.racing import Result, check, timed
from convatlas.bench.timing import Contestant, HostTimer, Protocol, Tensors
from convatlas.ops.backends import use_backend
from convatlas.study.roofline import MACHINES, Machine
from convatlas.study.tracing import Layer
from convatlas.verify.single import call, operands

WAYS = ("torch", "reference", "triton", "cuda")
SAMPLES = 3

# The layer of each kind that stands for it: net, module path.
CHOSEN = {
    "stem 7x7": ("resnet50", "conv1"),
    "dense 3x3": ("resnet50", "layer1.0.conv2"),
    "pointwise 1x1": ("resnet50", "layer1.1.conv1"),
    "depthwise 3x3": ("mobilenet_v2", "features.3.conv.1.0"),
    "grouped 3x3": ("resnext50_32x4d", "layer1.0.conv2"),
    "max pool 3x3": ("resnet50", "maxpool"),
    "linear": ("resnet50", "fc"),
}


@cache
def LAYERS() -> dict[str, Layer]:
    """One layer of each kind by name, at batch 1 and its native size."""
    return {name: next(x for x in layers_of(net, 1) if x.path == path) for name, (net, path) in CHOSEN.items()}


def _reference(layer: Layer) -> Contestant:
    def run(tensors: Tensors) -> Tensor:
        with torch.no_grad(), use_backend("numpy"):
            return call(layer, {name: x for name, x in tensors.items() if name != "folded"})

    return Contestant("reference", run)


def cpu_race(layer: Layer, samples: int = SAMPLES) -> Result:
    """The ways of WAYS on this CPU, float32, checked and then timed by turns."""
    cpu = torch.device("cpu")
    data = with_folded(layer, operands(layer, torch.float32, cpu, 0))
    by_name = {c.name: c for c in contestants(layer)}
    racing = [Contestant("torch", by_name["cudnn"].run), _reference(layer), by_name["triton"], by_name["cuda"]]
    result = Result()
    check(result, racing, data, Judge(layer, data))
    timed(result, racing, [data], HostTimer(), Protocol("warm", "eager", samples))
    return result


def bound(net: str, batch: int, machine: Machine, dtype: str = "float16") -> tuple[float, float]:
    """(seconds, share of them that bandwidth binds) that a net takes at least on `machine`, its layers one after another."""
    total = bandwidth = 0.0
    for layer in layers_of(net, batch):
        bytes = layer.spec.bytes(dtype, layer.epilogue)
        seconds = machine.seconds(layer.spec.flops, bytes, layer.spec.tensor_cores)
        total += seconds
        bandwidth += seconds if seconds == bytes / machine.bandwidth else 0.0
    return total, bandwidth / total


def bounds(nets: tuple[str, ...] = ("resnet50", "mobilenet_v2"), batches: tuple[int, ...] = (1, 32)) -> list[dict]:
    """A record for each net, batch and machine: {"net", "batch", "gpu", "seconds", "bandwidth_share"}. Predicted."""
    return [
        {"net": net, "batch": batch, "gpu": machine.name, "seconds": seconds, "bandwidth_share": share}
        for net in nets
        for batch in batches
        for machine in MACHINES
        for seconds, share in [bound(net, batch, machine)]
    ]
