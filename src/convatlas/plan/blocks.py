"""Several layers as one kernel: the table of fused patterns, and the pass that finds them in a plan.

A pattern is a row of PATTERNS: who belongs together. Its kernels lie in the folder of kernels/ that ROOMS names, whose launcher
also says which shapes it takes and what the time model has to know. Which GPUs take them unasked is kernels/common/proven.py's to
say, as for all kernels: of the pattern bottleneck the kernel is "cuda/bottleneck" there.
The reference of every block is the chain of its parts' references (reference/block.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from convatlas.call import Call
from convatlas.errors import ArgumentError
from convatlas.kernels.backend import room
from convatlas.model.gpu import GPU
from convatlas.plan.runs import run
from convatlas.plan.siblings import seconds
from convatlas.plan.steps import OURS, Graph, Operand, Ref, Step
from convatlas.specs import INPUT, BlockSpec, Part

Members = dict[str, Step]
Maker = Callable[[Operand], Step | None]


@dataclass(frozen=True)
class Pattern:
    """A kind of block.

    Attributes:
        name: as BlockSpec.pattern, ROOMS and the option `fuse` have it.
        match: from a step that may be a block's last, and a function that gives the step of ours that makes an operand (None where
            others read that value too, or it is no such step's), to the block's steps by the names of its parts, in order.
        slower: compute capabilities on which a GPU measured it to be no quicker than its layers where the model says that it is;
            there `fuse="auto"` leaves it out.
        whole: `match` takes the plan's graph in the place of that function, and sees by itself who reads what.
    """

    name: str
    match: Callable[[Step, Any], Members | None]
    slower: frozenset[int] = frozenset()
    whole: bool = False


def _is(step: Step | None, kind: str) -> bool:
    return step is not None and step.op == "conv2d" and step.call.spec.kind == kind and step.call.epilogue.bias


def _inverted_residual(last: Step, maker: Maker) -> Members | None:
    """1x1 up -> depthwise -> 1x1 down, plus its own input or nothing (Sandler et al. 2018, figure 3b)."""
    found = _depthwise_separable(last, maker, residual=True)
    expand = maker(found["depthwise"].operands["input"]) if found else None
    if not _is(expand, "pointwise") or expand.call.epilogue.residual or last.call.spec.K >= last.call.spec.C:
        return None  # the middle map is the wide one; of MobileNetV1's layers it is not
    own = last.operands.get("residual")
    return {"expand": expand, **found} if own in (None, expand.operands["input"]) else None


def _depthwise_separable(last: Step, maker: Maker, residual: bool = False) -> Members | None:
    """Depthwise -> 1x1 (Howard et al. 2017, figure 3)."""
    if not _is(last, "pointwise") or (last.call.epilogue.residual and not residual):
        return None
    depthwise = maker(last.operands["input"])
    if not _is(depthwise, "depthwise") or depthwise.call.epilogue.residual:
        return None
    return {"depthwise": depthwise, "project": last}


def _bottleneck(last: Step, maker: Maker) -> Members | None:
    """1x1 -> 3x3 -> 1x1 plus the input, or plus a 1x1 of it (He et al. 2016, figure 5 right; option B of section 3.3)."""
    window = maker(last.operands["input"]) if _is(last, "pointwise") else None
    reduce = maker(window.operands["input"]) if _is(window, "dense") else None
    shortcut = last.operands.get("residual")
    if (
        not _is(reduce, "pointwise")
        or shortcut is None
        or window.call.epilogue.residual
        or reduce.call.epilogue.residual
    ):
        return None
    if shortcut == reduce.operands["input"]:
        return {"reduce": reduce, "window": window, "expand": last}
    down = maker(shortcut)
    if not _is(down, "pointwise") or down.call.epilogue.residual:
        return None
    return {"reduce": reduce, "window": window, "downsample": down, "expand": last}


def _basic_block(last: Step, maker: Maker) -> Members | None:
    """3x3 -> 3x3 plus the input (He et al. 2016, figure 5 left)."""
    first = maker(last.operands["input"]) if _is(last, "dense") else None
    if not _is(first, "dense") or first.call.epilogue.residual:
        return None
    return {"first": first, "second": last} if last.operands.get("residual") == first.operands["input"] else None


def _is_max_pool(step: Step | None) -> bool:
    return step is not None and step.op == "max_pool2d" and not step.call.params.get("return_indices")


def _stem_pool(last: Step, maker: Maker) -> Members | None:
    """A convolution of an image's few channels -> max pooling (He et al. 2015, table 1: conv1 and the pooling of conv2_x)."""
    conv = maker(last.operands["input"]) if _is_max_pool(last) else None
    return {"conv": conv, "pool": last} if _is(conv, "stem") and not conv.call.epilogue.residual else None


def _pool_pointwise(last: Step, maker: Maker) -> Members | None:
    """Max pooling -> 1x1 (Szegedy et al. 2015, figure 2b: the branch of an inception that pools)."""
    pool = maker(last.operands["input"]) if _is(last, "pointwise") and not last.call.epilogue.residual else None
    return {"pool": pool, "conv": last} if _is_max_pool(pool) else None


# In the order in which they are looked for: a larger block before one that is a part of it.
PATTERNS = {
    pattern.name: pattern
    for pattern in (
        Pattern("inverted_residual", _inverted_residual),
        Pattern("depthwise_separable", _depthwise_separable, frozenset({90})),
        Pattern("bottleneck", _bottleneck),
        Pattern("basic_block", _basic_block, frozenset({90})),
        Pattern("stem_pool", _stem_pool),
        Pattern("pool_pointwise", _pool_pointwise),
        Pattern("persistent", run, whole=True),  # of what the others leave
    )
}
MODES = ("auto", "predicted", "all", "none")


def checked(fuse: str | Collection[str]) -> str | frozenset[str]:
    """The option `fuse` of convatlas.compile. Raises ArgumentError for what is neither one of MODES nor names of PATTERNS."""
    if isinstance(fuse, str):
        if fuse in MODES:
            return fuse
    elif isinstance(fuse, Collection) and set(fuse) <= PATTERNS.keys():
        return frozenset(fuse)
    expected = f"{', '.join(map(repr, MODES))} or a set of {', '.join(PATTERNS)}"
    raise ArgumentError(f"compile: fuse {fuse!r}, expected {expected}")


def blocks(
    graph: Graph,
    on: GPU,
    held: Collection[str] | None,
    backend: str | None = None,
    fuse: str | Collection[str] = "auto",
) -> Graph:
    """Joins the steps of each block that is found.

    Args:
        on: the GPU that the time model is asked about.
        held: kernels that the GPU which runs the plan does not take unasked (Target.held); None where none runs it.
        backend: that the plan was made for. Blocks have kernels in CUDA C++ and the reference.
        fuse: "auto" takes patterns that the GPU does not hold back where the model predicts a gain, "predicted" held back or not,
            "all" and a set of names take what the kernels take, "none" nothing.
    """
    fuse = checked(fuse)
    if fuse == "none" or backend not in (None, "cuda", "numpy"):
        return graph
    for pattern in PATTERNS.values():
        named = fuse == "all" or (not isinstance(fuse, str) and pattern.name in fuse)
        free = held is not None and f"cuda/{pattern.name}" not in held and on.arch not in pattern.slower
        if not (named or fuse == "predicted" or (fuse == "auto" and free)):
            continue
        for last in list(graph.steps):
            members = _members(graph, pattern, last)
            if members is None or (call := _call(pattern, members)) is None:
                continue
            if named or _pays(call, members, on, backend):
                _join(graph, members, call)
    return graph


def _members(graph: Graph, pattern: Pattern, last: Step) -> Members | None:
    """The block that ends in this step: its maps are read by its own steps only, and all that it reads besides is one value."""
    if last.kind != OURS or last.call is None or last not in graph.steps:
        return None
    users, producers = graph.users, graph.producers

    def maker(operand: Operand) -> Step | None:
        at = producers.get(operand.name) if isinstance(operand, Ref) and users[operand.name] == 1 else None
        step = graph.steps[at] if at is not None else None
        return step if step is not None and step.kind == OURS else None

    found = pattern.match(last, graph if pattern.whole else maker)
    if found is None:
        return None
    made = {step.output for step in found.values()}
    outside = {name for step in found.values() for name in step.inputs} - made
    return found if len(outside) == 1 else None


def _call(pattern: Pattern, members: Members) -> Call | None:
    """The block as a Call, None where no kernel takes it."""
    made = {step.output: name for name, step in members.items()}
    dtype = next(iter(members.values())).call.dtype
    parts = []
    for name, step in members.items():
        reads = [(key, made.get(x.name, INPUT)) for key, x in step.operands.items() if isinstance(x, Ref)]
        parts.append(Part(name, step.op, step.call.spec, step.call.epilogue, tuple(reads)))
    spec = BlockSpec.of(pattern.name, tuple(parts), dtype)
    call = Call("block", spec, dtype=dtype)
    return call if room(pattern.name, "takes")(spec, dtype) else None


def _pays(call: Call, members: Members, on: GPU, backend: str | None) -> bool:
    """Whether one launch is predicted to take less time than its parts one after another."""
    return seconds(call, on) < sum(seconds(step.call, on, backend) for step in members.values())


def _join(graph: Graph, members: Members, call: Call) -> None:
    *before, last = members.values()
    operands: dict[str, Operand] = {}
    for name, step in members.items():
        for key, (block_name, _) in call.spec.part(name).operands.items():
            if block_name == INPUT or block_name in call.spec.inputs:
                operands[block_name] = step.operands[key]
    order = {name: operands[name] for name in call.spec.inputs}
    first, *rest = members.values()
    merged = (*first.merged, *(path for step in rest for path in (step.path, *step.merged)))
    whole = replace(last, path=first.path, call=call, operands=order, merged=merged)
    graph.steps = [whole if step is last else step for step in graph.steps if not any(step is one for one in before)]
