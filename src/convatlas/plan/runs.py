"""Runs of convolutions on small maps, which one launch can compute whose blocks stay (kernels/persistent)."""

from __future__ import annotations

from convatlas.kernels.persistent.configs import LAYERS
from convatlas.kernels.persistent.launch_cuda import may
from convatlas.plan.steps import OURS, Graph, Step, Weight
from convatlas.specs import Part


def run(last: Step, graph: Graph) -> dict[str, Step] | None:
    """The run that ends in this step, its layers by name in order; None where none of two layers or more does.

    A run is steps that follow one another in the plan, each of which the kernel takes by itself; they read one value from outside,
    and what they make is read by themselves only, but for the last one's result. Where neighbours could be cut into runs in several
    ways, the last run is as long as can be, and so on towards the first.
    """
    steps = graph.steps
    at = next(i for i, step in enumerate(steps) if step is last)
    end = at
    while end + 1 < len(steps) and _may(steps[end + 1], last):
        end += 1
    while end >= at:
        start = _start(graph, end, last)
        if end == at and start < end:
            return {f"layer{i}": step for i, step in enumerate(steps[start : end + 1])}
        end = start - 1
    return None


def _may(step: Step, last: Step) -> bool:
    if step.kind != OURS or step.op != "conv2d" or step.call.dtype != last.call.dtype:
        return False
    weights = all(isinstance(x, Weight) for name, x in step.operands.items() if name in ("weight", "bias"))
    return weights and may(Part("", step.op, step.call.spec, step.call.epilogue))


def _start(graph: Graph, end: int, last: Step) -> int:
    """The place of the first step of the longest run that ends at `end`; `end` itself where there is none."""
    steps, users, start = graph.steps, graph.users, end
    made: set[str] = set()
    reads: list[str] = []
    for i in range(end, max(-1, end - LAYERS), -1):
        if not _may(steps[i], last):
            break
        made.add(steps[i].output)
        reads += steps[i].inputs
        inside = all(reads.count(name) == users[name] for name in made - {steps[end].output})
        if inside and len(set(reads) - made) == 1:
            start = i
    return start
