"""Convolutions that read one input by the same window, as one: its output is as wide as all of theirs, and each is a channel slice.

One launch reads the input once and fills the GPU better, where each by itself is small: inception's reductions. Whether it pays is
the time model's answer (model/time.py). A convolution whose result is written into a concatenation stays alone, since its place is
there; so do those of different activations, of which a kernel has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.kernels.backend import launches
from convatlas.kernels.common.precision import tf32
from convatlas.kernels.common.target import of
from convatlas.kernels.common.work import works
from convatlas.model.gpu import GPU, gpu, of_device, representative
from convatlas.model.time import predict
from convatlas.ops.automatic import preferred
from convatlas.plan.places import strides_of
from convatlas.plan.steps import OURS, VIEW, Graph, Ref, Step, Value, Weight

ELSEWHERE = "h100-sxm"  # the GPU that the model is asked about where there is none


def gpu_of(device: torch.device) -> GPU:
    """The GPU that a plan is for."""
    if device.type != "cuda":
        return gpu(ELSEWHERE)
    properties = torch.cuda.get_device_properties(device)
    return of_device(properties.name) or representative(10 * properties.major + properties.minor)


def seconds(call: Call, on: GPU, backend: str | None = None) -> float:
    """The predicted time of a call's launches, with one block an SM where the launcher knows no better: nothing is compiled."""
    backend = backend if backend in ("triton", "cuda") else preferred(call)
    dtype = getattr(torch, call.dtype)

    def meta(shape: tuple[int, ...]) -> Tensor:
        return torch.empty_strided(shape, strides_of(shape), dtype=dtype, device="meta")

    tensors = {name: meta(shape) for name, shape in call.spec.operands(call.epilogue).items()}
    listed = launches(replace(call, backend=backend), tensors, meta(call.spec.output_shape), of(on))
    mode, found = "tf32" if tf32(call) else call.dtype, works(call, listed, call.dtype)
    return predict(found, [work.resident for work in found], on, mode).seconds


def siblings(graph: Graph, on: GPU, backend: str | None = None) -> Graph:
    """Joins what the model predicts to be quicker together on a GPU."""
    joined = {name for step in graph.steps if step.op == "concat" for name in step.inputs}
    families: dict[tuple, list[int]] = {}
    for i, step in enumerate(graph.steps):
        if step.op == "conv2d" and step.kind == OURS and _may(step) and step.output not in joined:
            s = step.call.spec
            window = s.R, s.S, s.stride, s.padding, s.dilation
            key = step.operands["input"].name, window, step.call.epilogue.activation, step.call.dtype
            families.setdefault(key, []).append(i)
    steps: list[list[Step]] = [[step] for step in graph.steps]
    for members in families.values():
        together = [graph.steps[i] for i in members]
        if len(together) > 1 and (wide := _pays(together, on, backend)) is not None:
            for i in members:
                steps[i] = []
            steps[members[0]] = _joined(graph, together, wide)
    graph.steps = [step for one in steps for step in one]
    return graph


def _may(step: Step) -> bool:
    weights = [x for name, x in step.operands.items() if name != "input"]
    plain = step.call.spec.groups == 1 and not step.call.epilogue.residual
    return plain and isinstance(step.operands["input"], Ref) and all(isinstance(w, Weight) for w in weights)


def _pays(members: Sequence[Step], on: GPU, backend: str | None) -> Call | None:
    """The joint call, where it is predicted to take less time than its members one after another."""
    first = members[0].call
    if first.dtype == "float64":
        return None
    spec = replace(first.spec, K=sum(step.call.spec.K for step in members))
    bias = any(step.call.epilogue.bias for step in members)
    wide = replace(first, spec=spec, epilogue=replace(first.epilogue, bias=bias))
    alone = sum(seconds(step.call, on, backend) for step in members)
    return wide if seconds(wide, on, backend) < alone else None


def _joined(graph: Graph, members: Sequence[Step], wide: Call) -> list[Step]:
    first, name = members[0], "+".join(step.output for step in members)
    shape = tuple(wide.spec.output_shape)
    graph.values[name] = Value(name, shape, graph.values[first.output].dtype)
    operands: dict[str, Ref | Weight] = {"input": first.operands["input"], "weight": _cat(members, "weight")}
    if wide.epilogue.bias:
        operands["bias"] = _cat(members, "bias")
    merged = (*first.merged, *(path for step in members[1:] for path in (step.path, *step.merged)))
    steps = [replace(first, outputs=(name,), call=wide, operands=operands, merged=merged)]
    start = 0
    for step in members:
        end = start + step.call.spec.K
        args = (Ref(name), 1, start, end)
        steps.append(Step(step.path, (step.output,), target=torch.ops.aten.slice.Tensor, args=args, kind=VIEW))
        start = end
    return steps


def _cat(members: Sequence[Step], operand: str) -> Weight:
    """The members' weights, or their biases, one after another; a member without a bias has zeros."""
    given = [(step.operands.get(operand), step.operands["weight"]) for step in members]

    def make(get: Callable[[Weight], Tensor]) -> Tensor:
        parts = [get(x) if x is not None else torch.zeros_like(get(w)[:, 0, 0, 0]) for x, w in given]
        return torch.cat(parts)

    known = [x for x, _ in given if x is not None]
    shape = sum(w.shape[0] for _, w in given), *known[0].shape[1:]
    sources = frozenset().union(*(x.sources for x in known))
    return Weight(" + ".join(x.name for x in known), shape, known[0].dtype, make, sources)
