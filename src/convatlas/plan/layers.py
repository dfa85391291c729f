"""What a plan runs, as a list and as a table: of each step its kernels, buffers, bytes, FLOPs, and whether it is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from convatlas.call import Call
from convatlas.plan.program import Program, Ready
from convatlas.plan.steps import COPY, OURS, Graph, Ref, Step, Weight, mapped
from convatlas.specs import Part


@dataclass(frozen=True)
class Kernel:
    """One launch: the kernel's name, its grid, and its config as text."""

    name: str
    grid: tuple[int, ...]
    config: str


@dataclass(frozen=True)
class PlanLayer:
    """One step of a plan.

    Attributes:
        path: the module that it belongs to; "" for an op of the network's own forward.
        merged: paths of the modules whose work it does besides: batch norm, activation, addition.
        op: name of our op, or PyTorch's.
        kind: the spec's kind of layer, such as "3x3 dense"; the op's name for one of PyTorch's.
        call: what it computes, of a step of ours.
        backend: who computes it: triton, cuda, cudnn, numpy, or torch.
        kernels: the launches of our kernels; none where the reference or PyTorch computes.
        reads: buffers of its operands that depend on the input, with the channels where it is a slice: "conv1" or "cat[64:128]".
        writes: the buffer of its result.
        bytes: compulsory bytes, weights included.
        flops: by our specs; of PyTorch's ops by torch.utils.flop_counter, else one an element of the result.
        ours: whether our op computes it.
        parts: the ops of a block (plan/blocks.py), in order; none of anything else.
    """

    path: str
    merged: tuple[str, ...]
    op: str
    kind: str
    call: Call | None
    backend: str
    kernels: tuple[Kernel, ...]
    reads: tuple[str, ...]
    writes: str
    bytes: int
    flops: int
    ours: bool
    parts: tuple[Part, ...] = ()


def layers(program: Program) -> list[PlanLayer]:
    """The program's steps in the order in which they run."""
    return [_layer(program, ready) for ready in program.steps]


def _layer(program: Program, ready: Ready) -> PlanLayer:
    step, graph = ready.step, program.graph
    reads = tuple(buffer_of(program, name) for name in dict.fromkeys(step.inputs))
    writes = buffer_of(program, step.output)
    if step.kind == OURS:
        spec, dtype = step.call.spec, step.call.dtype
        kind = spec.layer_kind if spec.layer_kind != "other" else getattr(spec, "pattern", step.op)
        moved, flops = spec.bytes(dtype, step.call.epilogue), spec.flops
    else:
        kind, moved, flops = step.op, _bytes(graph, step), _flops(graph, step)
    kernels = tuple(map(_kernel, ready.launches))
    return PlanLayer(
        step.path,
        step.merged,
        step.op,
        kind,
        step.call,
        ready.backend,
        kernels,
        reads,
        writes,
        moved,
        flops,
        step.kind == OURS,
        spec.parts if step.op == "block" else (),
    )


def buffer_of(program: Program, name: str) -> str:
    """ "cat[64:128]" for a value that is channels 64 to 127 of a wider buffer, "cat" for a whole one."""
    value, place = program.graph.values[name], program.places[name]
    whole = program.graph.values[place.buffer]
    if prod(value.shape) == prod(whole.shape):
        return place.buffer
    if len(value.shape) == len(whole.shape) == 4 and place.strides[1] == 1:
        first = place.start % whole.shape[1]
        return f"{place.buffer}[{first}:{first + value.shape[1]}]"
    return f"{place.buffer}[...]"


def _kernel(launch: Any) -> Kernel:
    kernel = launch.kernel
    name = kernel if isinstance(kernel, str) else kernel.__name__
    if isinstance(kernel, str):
        return Kernel(launch.expression, tuple(launch.grid), f"{launch.block} threads")
    flat = launch.flat
    tile = "x".join(str(flat[key]) for key in ("BM", "BN", "BK", "BC", "BLOCK") if flat.get(key))
    split = f", split {flat['SPLIT']}" if flat.get("SPLIT", 1) > 1 else ""
    return Kernel(name, tuple(launch.grid), f"{tile}{split}, {launch.num_warps} warps, {launch.num_stages} stages")


def _bytes(graph: Graph, step: Step) -> int:
    values = [graph.values[name] for name in (*step.inputs, *step.outputs) if name in graph.values]
    return sum(prod(x.shape) * x.dtype.itemsize for x in (*values, *step.weights))


def _flops(graph: Graph, step: Step) -> int:
    if step.kind == COPY:
        return 0

    def meta(x: Any) -> Any:
        known = graph.values[x.name] if isinstance(x, Ref) else x if isinstance(x, Weight) else None
        return x if known is None else torch.empty(known.shape, dtype=known.dtype, device="meta")

    with FlopCounterMode(display=False) as counter:  # sees the products inside of composite ops such as einsum
        step.target(*mapped(step.args, meta), **mapped(step.keywords, meta))
    return counter.get_total_flops() or prod(graph.values[step.output].shape)


def our_share(rows: Sequence[PlanLayer]) -> float:
    """The share of the FLOPs that ops of ours compute."""
    total = sum(row.flops for row in rows) or 1
    return 1 - sum(row.flops for row in rows if not row.ours) / total


def report(name: str, program: Program) -> str:
    """What stayed PyTorch's and its share of the FLOPs, launches before and after, and memory beside PyTorch's."""
    rows = layers(program)
    total = sum(row.flops for row in rows)
    foreign = [row for row in rows if not row.ours]
    by_backend = ", ".join(f"{sum(r.backend == b for r in rows)} {b}" for b in dict.fromkeys(r.backend for r in rows))
    kernels = sum(len(row.kernels) for row in rows)
    size, graph = program.arena, program.graph
    lines = [
        f"{name}: {len(rows)} steps ({by_backend}), {graph.torch_layers} ops of PyTorch before; {kernels} launches of our kernels",
        f"FLOPs on our ops: {100 * our_share(rows):.2f} % of {total:,}",
        f"activations{' and workspaces' if size.workspaces else ''}: {size.bytes:,} bytes in one arena; "
        f"{size.activations:,} without sharing; "
        f"{graph.torch_peak:,} predicted for PyTorch",
    ]
    if not foreign:
        return "\n".join([*lines, "PyTorch's own ops: none"])
    lines.append("PyTorch's own ops:")
    for op in dict.fromkeys(row.op for row in foreign):
        same = [row for row in foreign if row.op == op]
        share = 100 * sum(row.flops for row in same) / (total or 1)
        lines.append(f"    {op:<24} {len(same):>4}   {share:6.2f} % of the FLOPs")
    return "\n".join(lines)
