"""What becomes one launch: each pass takes a Graph and gives one that computes the same with fewer steps.

A step takes up the one behind it only where nobody else reads the value between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from convatlas.plan.spelled import spelled
from convatlas.plan.steps import OURS, Graph, Ref, Step, Weight
from convatlas.specs import Epilogue
from convatlas.specs.activations import own_activation

CONVOLUTIONS = ("conv2d", "conv_transpose2d", "linear")
ACTIVATED = (
    *CONVOLUTIONS,
    "batch_norm",
    "residual_add",
    "channel_scale",
)  # ops whose kernels have an activation in their epilogue
INCREASING = ("relu", "relu6")  # exactly: roundings of the others could turn the order of neighbours


def fused(graph: Graph) -> Graph:
    """All passes, until none finds anything."""
    while spelled(graph):
        pass
    dead(graph)
    found = True
    while found:
        found = sum(one(graph) for one in (norms, activations, residuals, gates, swapped)) > 0
    return graph


def dead(graph: Graph) -> None:
    """Drops steps whose results nobody reads."""
    before = -1
    while len(graph.steps) != before:
        before, users = len(graph.steps), graph.users
        graph.steps = [step for step in graph.steps if any(users[name] for name in step.outputs)]


def _over_pairs(graph: Graph, join: Callable[[Step, Step], Step | None]) -> bool:
    """Replaces a step and the one step that reads its result by join(first, second), at the first one's place."""
    found = False
    users, producers = graph.users, graph.producers
    steps: list[Step | None] = list(graph.steps)
    for i, second in enumerate(steps):
        if second is None or second.call is None:
            continue
        first = _main_input(second)
        at = producers.get(first) if first is not None else None
        before = steps[at] if at is not None else None
        if before is None or before.call is None or users[first] != 1:
            continue
        if (joined := join(before, second)) is not None:
            steps[at], steps[i], found = joined, None, True
            producers[joined.output] = at
    graph.steps = [step for step in steps if step is not None]
    return found


def _main_input(step: Step) -> str | None:
    operand = step.operands.get("input")
    return operand.name if isinstance(operand, Ref) else None


def _joined(first: Step, second: Step, epilogue: Epilogue, **operands: Weight | Ref) -> Step:
    call = replace(first.call, epilogue=epilogue)
    merged = (*first.merged, second.path, *second.merged)
    return replace(first, outputs=second.outputs, call=call, operands={**first.operands, **operands}, merged=merged)


def norms(graph: Graph) -> bool:
    """Batch norm into the weights before it, in float64, rounded once (Ioffe, Szegedy 2015, section 3.1)."""

    def join(first: Step, second: Step) -> Step | None:
        epilogue = first.call.epilogue
        if second.op != "batch_norm" or first.op not in CONVOLUTIONS:
            return None
        if epilogue.activation or epilogue.residual or not isinstance(first.operands["weight"], Weight):
            return None
        given = {name: x for name, x in second.operands.items() if name != "input"}
        bias = first.operands.get("bias")
        if not all(isinstance(x, Weight) for x in (*given.values(), *([bias] if bias is not None else []))):
            return None
        axis = 1 if first.op == "conv_transpose2d" else 0
        groups = getattr(first.call.spec, "groups", 1)
        weight, shift = _folded(first.operands["weight"], bias, given, second.call.params["eps"], axis, groups)
        done = replace(epilogue, bias=True, activation=second.call.epilogue.activation)
        return _joined(first, second, done, weight=weight, bias=shift)

    return _over_pairs(graph, join)


def _folded(
    weight: Weight, bias: Weight | None, norm: dict[str, Weight], eps: float, axis: int, groups: int
) -> tuple[Weight, Weight]:
    """w' = w * s and b' = beta + (b - mean) * s with s = gamma / sqrt(var + eps), a number an output channel.

    axis: of the weight along which filters lie; a transposed convolution's holds those of each group, group after group in axis 0.
    """

    def scale(get: Callable[..., Tensor]) -> Tensor:
        s = 1.0 / torch.sqrt(get(norm["running_var"]).double() + eps)
        return s * get(norm["weight"]).double() if "weight" in norm else s

    def scaled(get: Callable[..., Tensor]) -> Tensor:
        w, s = get(weight).double(), scale(get)
        if axis == 0:
            w = w * s.reshape(-1, *(1,) * (w.dim() - 1))
        else:
            w = (w.unflatten(0, (groups, -1)) * s.reshape(groups, 1, -1, 1, 1)).flatten(0, 1)
        return w.to(weight.dtype)

    def shifted(get: Callable[..., Tensor]) -> Tensor:
        mean = get(norm["running_mean"]).double()
        b = -mean if bias is None else get(bias).double() - mean
        b = b * scale(get)
        return (b + get(norm["bias"]).double() if "bias" in norm else b).to(weight.dtype)

    sources = frozenset().union(*(w.sources for w in norm.values()), weight.sources)
    own = sources if bias is None else sources | bias.sources
    name = f"{weight.name} with batch norm"
    filters = norm["running_var"].shape
    return (
        Weight(name, weight.shape, weight.dtype, scaled, sources),
        Weight(f"{name}, bias", tuple(filters), weight.dtype, shifted, own),
    )


def activations(graph: Graph) -> bool:
    """An activation into the epilogue of what comes before it."""

    def join(first: Step, second: Step) -> Step | None:
        activation = own_activation(second.op, second.call.params)
        if activation is None or first.op not in ACTIVATED or first.call.epilogue.activation:
            return None
        return _joined(first, second, replace(first.call.epilogue, activation=activation))

    return _over_pairs(graph, join)


def residuals(graph: Graph) -> bool:
    """An addition into the epilogue of the convolution or scaling that makes one of its terms, the one that is computed last.

    The fused step stands where the addition stood, behind both terms.
    """
    users, producers = graph.users, graph.producers
    steps: list[Step | None] = list(graph.steps)
    found = False
    for i, step in enumerate(graph.steps):
        if step.op != "residual_add":
            continue
        terms = [step.operands["x"], step.operands["shortcut"]]
        order = sorted((0, 1), key=lambda k: -producers.get(getattr(terms[k], "name", ""), -1))
        for k in order:
            term, other = terms[k], terms[1 - k]
            at = producers.get(term.name) if isinstance(term, Ref) else None
            first = steps[at] if at is not None else None
            if first is None or first.op not in ("conv2d", "channel_scale") or users[term.name] != 1:
                continue
            epilogue = first.call.epilogue
            if epilogue.activation or epilogue.residual:
                continue
            done = replace(epilogue, residual=True, activation=step.call.epilogue.activation)
            steps[at], steps[i], found = None, _joined(first, step, done, residual=other), True
            producers[step.output] = i
            break
    graph.steps = [step for step in steps if step is not None]
    return found


def gates(graph: Graph) -> bool:
    """An activation that no epilogue took, and that only makes factors for channels, into the step that scales them."""
    users, producers = graph.users, graph.producers
    for i, step in enumerate(graph.steps):
        scale = step.operands.get("scale")
        at = producers.get(scale.name) if isinstance(scale, Ref) and step.call.spec.gate is None else None
        first = graph.steps[at] if at is not None and users[scale.name] == 1 else None
        gate = own_activation(first.op, first.call.params) if first is not None and first.call else None
        if gate is None:
            continue
        call = replace(step.call, spec=replace(step.call.spec, gate=gate))
        operands = {**step.operands, "scale": first.operands["input"]}
        graph.steps[i] = replace(step, call=call, operands=operands, merged=(*first.merged, first.path, *step.merged))
        del graph.steps[at]
        return True
    return False


def swapped(graph: Graph) -> bool:
    """relu(max_pool(x)) to max_pool(relu(x)), where an epilogue then takes the relu: exact, for the relu keeps the order."""
    users, producers = graph.users, graph.producers
    for i, step in enumerate(graph.steps):
        pool = producers.get(_main_input(step) or "") if step.op in INCREASING and step.kind == OURS else None
        if pool is None or graph.steps[pool].op != "max_pool2d" or users[graph.steps[pool].output] != 1:
            continue
        middle = _main_input(graph.steps[pool])
        first = producers.get(middle or "")
        if first is None or users[middle] != 1:
            continue
        before = graph.steps[first]
        if before.op not in ACTIVATED or before.call.epilogue.activation:
            continue
        epilogue = replace(before.call.epilogue, activation=step.op)
        call, merged = replace(before.call, epilogue=epilogue), (*before.merged, step.path)
        graph.steps[first] = replace(before, call=call, merged=merged)
        graph.steps[pool] = replace(graph.steps[pool], outputs=step.outputs)
        del graph.steps[i]
        return True
    return False
