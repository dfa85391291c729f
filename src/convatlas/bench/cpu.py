"""What a machine without a GPU can say: how long its own ways of running a kernel take, and what is predicted for GPUs.

torch        PyTorch's CPU kernels (oneDNN), float32
reference    convatlas's NumPy truth, which computes in float64
triton       the Triton kernel in Triton's interpreter: right, and not meant to be fast
cuda         the CUDA C++ kernel compiled by g++ for the CPU: the same

None of these says how fast a kernel is on a GPU. The roofline does, as a bound: no kernel is faster than the longer of its FLOPs at
the tensor cores' peak rate and its compulsory bytes at the memory bandwidth (Williams, Waterman, Patterson 2009).

`reference_race` times NumPy's truth in float32 beside torch, convolution by convolution. Where torch has more than one thread, half
a second passes before each sample: OpenBLAS's idle threads spin for a while after a product, and would hold a core that torch
waits for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from convatlas.bench.cases import layers_of
from convatlas.bench.contestants import by_backend, contestants, with_folded
from convatlas.bench.environment import cpu_name, versions
from convatlas.bench.racing import check, timed
from convatlas.bench.timing import Contestant, HostTimer, Protocol, race
from convatlas.model.ceilings import Ceilings
from convatlas.model.gpu import GPU, gpu
from convatlas.reference import conv2d
from convatlas.results.standings import Race
from convatlas.specs import Conv2dSpec
from convatlas.study.tracing import Layer
from convatlas.verify.on_device import Judge
from convatlas.verify.single import operands

GPUS = ("a100-80", "h100-sxm", "h200", "b200")
WAYS = ("torch", "reference", "triton", "cuda")
SAMPLES = 3
CONVOLUTION_SAMPLES, SETTLE = 5, 0.5

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


@cache
def convolutions() -> list[Conv2dSpec]:
    """The distinct convolutions of ResNet-50 on one image."""
    return list(dict.fromkeys(layer.spec for layer in layers_of("resnet50", 1) if layer.op == "conv2d"))


def host_race(
    suite: str, case: str, seconds: Mapping[str, Sequence[float]], absent: dict[str, str] | None = None,
    wrong: dict[str, str] | None = None, **shared: Any,
) -> Race:  # fmt: skip
    """A race by this host's clock."""
    shared |= {
        "timer": HostTimer.label,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "absent": absent or {},
    }
    return Race.of(suite, case, seconds, cpu_name(), shared, absent, wrong)


@cache
def cpu_race(name: str, samples: int = SAMPLES) -> Race:
    """The ways of WAYS to compute a layer of LAYERS on this CPU, float32, checked and then timed by turns."""
    layer, cpu = LAYERS()[name], torch.device("cpu")
    data = with_folded(layer, operands(layer, torch.float32, cpu, 0))
    by_name = {c.name: c for c in contestants(layer)}
    truth = Contestant("reference", by_backend(layer, "numpy"))
    racing = [Contestant("torch", by_name["cudnn"].run), truth, by_name["triton"], by_name["cuda"]]
    found = check(racing, data, Judge(layer, data))
    seconds = timed(found, racing, [data], HostTimer(), Protocol("warm", "eager", samples))
    case = f"{name}: {layer.spec} | float32 batch1 on this CPU"
    made = host_race("cpu", case, seconds, found.absent, found.wrong, spec=str(layer.spec))
    for contestant, entry in made.entries.items():
        entry.extra["relative_error"] = found.accuracy[contestant].error
    return made


@cache
def reference_race(spec: Conv2dSpec) -> Race:
    """The NumPy reference's convolution in float32, "reference", and torch's, by turns."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, np.float32) for shape in (spec.input_shape, spec.weight_shape))
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    (top, _), (left, _) = spec.padding
    ways = {
        "torch": lambda t: F.conv2d(tx, tw, None, spec.stride, (top, left)),
        "reference": lambda t: conv2d(x, w, None, spec.stride, spec.padding, dtype=np.float32),
    }
    y, expected = ways["reference"]({}), ways["torch"]({}).numpy()
    wrong = {} if np.allclose(y, expected, rtol=1e-3, atol=1e-3) else {"reference": "differs from torch's output"}
    timer = HostTimer(SETTLE if torch.get_num_threads() > 1 else 0)
    racing = [Contestant(name, run) for name, run in ways.items()]
    seconds, _ = race(racing, [{}], timer, Protocol("warm", "eager", CONVOLUTION_SAMPLES))
    case = f"conv2d {spec} | float32 batch1 on this CPU"
    return host_race("reference", case, seconds, None, wrong, spec=str(spec), flops=spec.flops)


def bound(net: str, batch: int, on: GPU, dtype: str = "float16") -> float:
    """Seconds that a net takes at least on a GPU by its published rates, its layers one after another."""
    rates = Ceilings.published(on)
    return sum(rates.bound(layer.spec, layer.epilogue, dtype)[0] for layer in layers_of(net, batch))


def bounds(nets: tuple[str, ...] = ("resnet50", "mobilenet_v2"), batches: tuple[int, ...] = (1, 32)) -> list[Race]:
    """The bounds of each net and batch, by GPU. Predicted: nobody raced."""
    return [
        Race.of(
            "predicted", f"{net}, batch {batch}", {on.title: [bound(net, batch, on)] for on in map(gpu, GPUS)}, "", {}
        )
        for net in nets
        for batch in batches
    ]
