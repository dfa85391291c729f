"""Activations that a network writes out in arithmetic: x * sigmoid(x), x * relu6(x + 3) / 6 and their kin, as one step each."""

from __future__ import annotations

from typing import Any

from convatlas.call import Call
from convatlas.plan.steps import OURS, Graph, Ref, Step
from convatlas.specs import ElementwiseSpec, dtype_name

GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}  # x * gate(x)
SIXTH = 1 / 6


def spelled(graph: Graph) -> bool:
    """Replaces the last step of such a chain by the activation of its first value; what nobody else reads is dropped as dead."""
    producers = {name: step for step in graph.steps for name in step.outputs}

    def made(name: Any) -> Step | None:
        return producers.get(name.name) if isinstance(name, Ref) else None

    def ramp(x: Any) -> Any:
        """v of relu6(v + 3), else None."""
        capped = made(x)
        if capped is None or capped.op != "relu6":
            return None
        added = made(capped.operands["input"])
        if (
            added is None
            or not _is(added, "add")
            or not _number(added.args[1], 3)
            or added.keywords.get("alpha", 1) != 1
        ):
            return None
        return added.args[0]

    def sixth(step: Step) -> Any:
        """v of v / 6 or v * (1 / 6), else None."""
        if _is(step, "div") and _number(step.args[1], 6) and not step.keywords:
            return step.args[0]
        if _is(step, "mul") and _number(step.args[1], SIXTH):
            return step.args[0]
        return None

    for i, step in enumerate(graph.steps):
        found = None
        if (inner := sixth(step)) is not None:
            if (v := ramp(inner)) is not None:
                found = "hardsigmoid", v
            elif (product := made(inner)) is not None and _is(product, "mul"):
                for x, other in _orders(product):
                    if isinstance(x, Ref) and (v := ramp(other)) is not None and v == x:
                        found = "hardswish", x
        elif _is(step, "mul"):
            for x, other in _orders(step):
                gate = made(other)
                if (
                    isinstance(x, Ref)
                    and gate is not None
                    and gate.op in GATES
                    and gate.kind == OURS
                    and gate.operands["input"] == x
                ):
                    found = GATES[gate.op], x
        if found is None:
            continue
        name, x = found
        value, result = graph.values[x.name], graph.values[step.output]
        if value.shape != result.shape or value.dtype != result.dtype:
            continue
        call = Call(name, ElementwiseSpec(name, tuple(value.shape)), dtype=dtype_name(value.dtype))
        graph.steps[i] = Step(step.path, step.outputs, call, {"input": x}, kind=OURS)
        return True
    return False


def _is(step: Step, name: str) -> bool:
    return step.kind != OURS and step.op == name and len(step.args) == 2


def _number(x: Any, expected: float) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x - expected) < 1e-6


def _orders(step: Step) -> list[tuple[Any, Any]]:
    a, b = step.args
    return [(a, b), (b, a)]
