"""verify: every layer of a net on random operands, and the whole net end to end, against the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from math import sqrt
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convatlas.call import Call
from convatlas.errors import InputError
from convatlas.nets import create, fold_batch_norms, info
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.backends import BACKENDS, use_backend
from convatlas.plan.plan import LoadedPlan, compile
from convatlas.plan.steps import Ref
from convatlas.reference.error_bound import TF32_CUT, Report
from convatlas.reference.rounding import FORMATS
from convatlas.specs import dtype_name
from convatlas.study.tracing import Layer, plan_layers, trace
from convatlas.verify.check import LayerCheck, check_alone, checking, precision
from convatlas.verify.device import device_for
from convatlas.verify.probes import probes

Progress = Callable[[str, int, int], None]

MARGIN = 4.0


@dataclass(frozen=True)
class LayerResult:
    """One layer of the net.

    Attributes:
        layer: path, op, spec, epilogue.
        alone: the check on random operands, where convolutions and linear layers must be exact; layers of one shape share it.
        inside: the check on what the layer was given in the net; None where the run was interrupted before.
    """

    layer: Layer
    alone: Report
    inside: Report | None

    @property
    def reports(self) -> list[Report]:
        return [report for report in (self.alone, self.inside) if report is not None]

    @property
    def ok(self) -> bool:
        return all(report.ok for report in self.reports)

    @property
    def worst(self) -> float:
        """The larger of the two error / bound; at most 1 when ok."""
        return max(report.worst for report in self.reports)

    @property
    def rms(self) -> float:
        """The larger of the two root-mean-square error / bound; at most 1 when ok."""
        return max(report.rms for report in self.reports)

    @property
    def detail(self) -> str:
        """What is wrong, in one line; empty when ok."""
        return next((report.detail for report in self.reports if report.detail), "")


@dataclass(frozen=True)
class Logits:
    """The net's outputs against the reference network in float64, as compare_logits judges them.

    Attributes:
        error: root mean square of (backend's - float64's).
        yardstick: the same of the NumPy backend, which rounds every layer once to the dtype and nothing else.
        limit: what `error` may be.
        agree: images whose largest logit is the reference's.
        images: the batch.
    """

    error: float
    yardstick: float
    limit: float
    agree: int
    images: int

    @property
    def ok(self) -> bool:
        return self.error <= self.limit  # False for a NaN


@dataclass(frozen=True)
class Verification:
    """What verify found.

    Attributes:
        name, input_shape, dtype, backend: what was asked.
        device: "cuda" or "cpu".
        interpreted: the kernels ran in Triton's interpreter.
        layers: in the order in which the net runs them; those that were checked, where the run was interrupted.
        total: layers of the net.
        distinct: different layers among them.
        logits: the net's outputs; None where the run was interrupted before.
        seconds: all of it.
    """

    name: str
    input_shape: tuple[int, int, int, int]
    dtype: str
    backend: str
    device: str
    interpreted: bool
    layers: list[LayerResult]
    total: int
    distinct: int
    logits: Logits | None
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.logits is not None

    @property
    def ok(self) -> bool:
        return self.logits is not None and self.logits.ok and all(result.ok for result in self.layers)

    @property
    def first_wrong(self) -> LayerResult | None:
        """The first layer of the net outside its bound."""
        return next((result for result in self.layers if not result.ok), None)


class Interrupted(KeyboardInterrupt):
    """An interrupt (Ctrl-C, SIGTERM) that brings along what was found before it.

    Attributes:
        found: verify's Verification; verify_all's list of NetResults, the last of which may be incomplete.
        left: the nets that verify_all has not done.
    """

    def __init__(self, found: Any, left: list[str] | None = None) -> None:
        super().__init__("interrupted")
        self.found, self.left = found, left or []


def verify(
    name: str,
    size: int | None = None,
    batch: int = 1,
    dtype: str = "float16",
    backend: str = "triton",
    progress: Progress | None = None,
    seed: int = 0,
    plan: bool = False,
    fuse: str | Collection[str] = "auto",
) -> Verification:
    """Runs the net called `name`, with random weights, on `backend` and holds it to the reference.

    Every distinct layer runs on random operands on which a fault shows (verify/probes.py), into a buffer full of NaN; then
    the net runs, each layer checked on what it was given, and its logits are compared with the reference network's.

    Args:
        size: pixels of the square input; None is the net's own.
        batch: images.
        dtype: "float16", "bfloat16", "float32" or "float64", as far as the backend has it.
        progress: called with (what, done, of how many).
        seed: seed of weights and inputs.
        plan: check the steps of the net's plan (convatlas.compile), and its outputs, instead of the net's own.
        fuse: which blocks of layers the plan makes one kernel of, as convatlas.compile has it.

    Raises NetError, BackendError, DtypeError, InputError for a size or batch below 1, ShapeError for a size the net cannot take,
    Interrupted, a KeyboardInterrupt, with what was found so far.
    """
    start = perf_counter()
    row = info(name)
    name = row.name
    size = row.size if size is None else size
    for what, value in (("size", size), ("batch", batch)):
        if value < 1:
            raise InputError(f"verify: {what}={value}, expected at least 1")
    device, kind = device_for(backend, dtype), getattr(torch, dtype)
    shape = (batch, 3, size, size)
    net = random_net(name, seed).to(kind)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)
    moved = copy.deepcopy(net).to(device)
    runs = compile(moved, x.to(device), backend=backend, fuse=fuse) if plan else moved
    layers = plan_layers(runs) if plan else trace(net, shape)
    return _verified(
        _Subject(name, moved, runs, x, device, dtype, backend, [backend] * len(layers), layers),
        lambda: run_net(net, x, "numpy"),
        lambda: run_net(fold_batch_norms(net, shape).double(), x.double(), "numpy"),
        seed, progress, start,
    )  # fmt: skip


def verify_plan(plan: LoadedPlan, progress: Progress | None = None, seed: int = 0) -> Verification:
    """Holds the steps of a plan from a file, and what it returns, to the reference, as verify does with a net's plan.

    The reference network is the plan's own steps by the NumPy backend, in float64 with the file's weights: what a fault in making
    the plan made of the module it cannot know.

    Raises InputError for a plan that returns more than one tensor; Interrupted.
    """
    start = perf_counter()
    (x, *more), device, graph = plan.example, plan.example[0].device, plan.program().graph
    if more or not isinstance(graph.rebuild(list(graph.outputs)), Ref):
        raise InputError(f"plan {plan.path}: takes or returns several tensors, expected one of each")
    dtype = dtype_name(x.dtype)
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.dtype)
    rows = [layer for layer in plan.layers if layer.ours]
    by = [layer.backend for layer in rows]
    named = ", ".join(dict.fromkeys(by))
    subject = _Subject(plan.name, plan.module, plan, x, device, dtype, named, by, plan_layers(plan))

    def reference(kind: torch.dtype) -> np.ndarray:
        return run_net(plan.reference(kind), x.to(kind), "numpy")

    return _verified(subject, lambda: reference(x.dtype), lambda: reference(torch.float64), seed, progress, start)


@dataclass(frozen=True)
class _Subject:
    """What is verified: a net as its `module` or as a plan (`runs`), on an input x on a device, each layer by a backend."""

    name: str
    module: nn.Module
    runs: Callable[[Tensor], Tensor]
    x: Tensor
    device: torch.device
    dtype: str
    backend: str
    by: list[str]
    layers: list[Layer]


def _verified(
    subject: _Subject,
    rounded: Callable[[], np.ndarray],
    exact: Callable[[], np.ndarray],
    seed: int,
    progress: Progress | None,
    start: float,
) -> Verification:
    """Checks each layer alone and in the net, and the outputs beside the reference network's, in the dtype and in float64."""
    x, layers, backend, dtype, device = subject.x, subject.layers, subject.backend, subject.dtype, subject.device
    distinct: dict[tuple, tuple[Layer, str]] = {}
    for layer, one in zip(layers, subject.by):
        distinct.setdefault(layer.key, (layer, one))
    steps = _Steps(len(distinct) + len(layers) + 2, progress)

    alone: dict[tuple, Report] = {}
    checks: list[LayerCheck] = []

    def found(logits: Logits | None) -> Verification:
        inside = [check.report for check in checks] + [None] * (len(layers) - len(checks))
        results = [
            LayerResult(layer, alone[layer.key], one) for layer, one in zip(layers, inside) if layer.key in alone
        ]
        where = device.type, "triton" in subject.by and device.type == "cpu"
        counts = len(layers), len(distinct)
        given = subject.name, tuple(x.shape), dtype, backend
        return Verification(*given, *where, results, *counts, logits, perf_counter() - start)

    try:
        for i, (key, (layer, one)) in enumerate(distinct.items()):
            steps.next(layer.path or layer.op)
            alone[key] = check_alone(layer, probes(layer, x.dtype, device, seed + i), one, probing=True).report

        with checking(subject.module, raises=False, seen=lambda c: steps.next(c.path or c.call.op)) as checks:
            y = run_net(subject.runs, x.to(device), backend if backend in BACKENDS else None)
        steps.next("reference network")
        rounding = y if backend == "numpy" else rounded()
        steps.next("reference network in float64")
        right = exact()
    except KeyboardInterrupt:
        raise Interrupted(found(None)) from None
    return found(
        compare_logits(y, rounding, right, relative_accumulation([check.call for check in checks], dtype, device))
    )


class _Steps:
    """Counts steps for a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def next(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what, self.done, self.total)
        self.done += 1


def random_net(name: str, seed: int) -> nn.Module:
    """create(name) with batch norms away from their defaults, which would fold into nothing and leave biases untested."""
    net = create(name, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.25, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return net


def run_net(net: Callable[[Tensor], Tensor], x: Tensor, backend: str | None) -> np.ndarray:
    with torch.no_grad(), nullcontext() if backend is None else use_backend(backend):
        return np.asarray(as_array(net(x)), np.float64)


def compare_logits(y: np.ndarray, rounded: np.ndarray, exact: np.ndarray, accumulation: float) -> Logits:
    """Judges logits by the error that rounding alone makes in this very net: rms(y - exact) <= 4 e (1 + accumulation).

        exact    the NumPy backend in float64, with the same rounded weights
        rounded  the NumPy backend in the dtype: every layer computed in float64 and rounded once
        e        rms(rounded - exact)

    How much a net amplifies a rounding error depends on its weights, so no constant times a unit roundoff is right for all
    of them; e measures it. A right kernel also rounds every layer once, but not always to the same side. Where it rounds to the
    other side, the errors of the two runs begin to differ, and after some layers they are two independent draws from one
    distribution, so that error / e is near 1. Each is a sum of roundings seen through the features of the last layer, so
    error^2 / e^2 is spread like an F distribution of as many degrees of freedom: with only 10 features it passes 4^2 with
    probability 7e-5, with the hundreds that nets have, never. Measured on ResNet-18 and EfficientNet-Lite0, float16 and
    bfloat16, three seeds each: 0.93 to 1.07. The layers' own checks find a fault that moves the logits by less than rounding
    does.

    `accumulation` is the error of summation relative to that of the rounding it comes with: a sum of L terms is rounded L
    times, a random walk of sqrt(L) steps of u_acc against one step of u_out. To first order the logits are linear in both.
    """

    def rms(a: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(a))))

    with np.errstate(invalid="ignore"):
        error, yardstick = rms(y - exact), rms(rounded - exact)
    agree = int((y.argmax(1) == exact.argmax(1)).sum())
    return Logits(error, yardstick, MARGIN * yardstick * (1 + accumulation), agree, len(y))


def relative_accumulation(calls: list[Call], dtype: str, device: torch.device) -> float:
    """(sqrt(L) u_acc + what tf32 cuts off both factors) / u_out, of the layer where it is largest."""
    largest = 0.0
    for call in calls:
        how = precision(call, device)
        accumulator = how.get("accumulate") or ("float64" if dtype == "float64" else "float32")
        steps = sqrt(getattr(call.spec, "reduction", 1)) * FORMATS[accumulator].unit_roundoff
        largest = max(largest, steps + 2 * TF32_CUT * how.get("tf32", False))
    return largest / FORMATS[dtype].unit_roundoff
