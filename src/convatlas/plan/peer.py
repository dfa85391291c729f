"""What PyTorch itself needs for the same network: its peak of activations, by the order in which it frees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import Node


def torch_peak(program: Any, value_of: Callable[[Node], Any]) -> int:
    """Bytes of activations that are alive at once when PyTorch runs an exported program, weights not counted.

    A tensor lives from the op that makes it to the last op that reads it, or a view of it; in-place ops and views make none.
    Predicted from the program: workspaces of libraries and the allocator's rounding are left out.
    """
    owner: dict[Node, Node] = {}  # whose memory a node's result is
    size: dict[Node, int] = {}
    last: dict[Node, int] = {}
    parameters = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name != "USER_INPUT"}
    nodes = list(program.graph.nodes)
    for i, node in enumerate(nodes):
        inputs = node.all_input_nodes
        for x in inputs:
            last[owner.get(x, x)] = i
        owner[node] = owner.get(inputs[0], inputs[0]) if inputs and shares(node) else node
        counted = owner[node] is node and node.op != "output" and node.name not in parameters
        size[node] = _bytes(value_of(node)) if counted else 0
        last.setdefault(owner[node], i)
    peak = held = 0
    for i, node in enumerate(nodes):
        held += size[node]
        peak = max(peak, held)
        held -= sum(size[x] for x in {owner[n] for n in (node, *node.all_input_nodes)} if last[x] == i)
    return peak


def torch_layers(program: Any) -> int:
    """Ops that PyTorch launches: all but views, and assertions on metadata."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and hasattr(node.target, "_schema")]
    made = [node for node in nodes if isinstance(node.meta.get("val"), (Tensor, tuple, list))]
    return sum(node.target._schema.is_mutable or not shares(node) for node in made)


def shares(node: Node) -> bool:
    """Whether a node's result is its first operand's memory: a view, an in-place op, an op that does nothing at inference."""
    target = node.target
    if not hasattr(target, "_schema"):
        return node.op == "call_function"
    schema = target._schema
    name = schema.name.split("::")[-1]
    return (
        schema.is_mutable
        or getattr(target, "is_view", False)
        or name in ("view", "reshape", "flatten", "dropout", "contiguous", "to", "detach", "alias")
    )


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, (tuple, list)) else 0
