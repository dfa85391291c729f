"""torch.compile(module, backend="convatlas"): each graph that torch.compile captures becomes a plan."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from convatlas.errors import ConvAtlasError, ConvAtlasWarning
from convatlas.plan.plan import SHAPES, Plan


class _Lifted(nn.Module):
    """A captured graph whose parameters and buffers are its own again: torch.compile hands them over as inputs."""

    def __init__(self, captured: GraphModule, given: Sequence[Any]) -> None:
        super().__init__()
        self.captured = captured
        self.fixed: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        for i, (node, x) in enumerate(zip(_placeholders(captured), given)):
            if not isinstance(x, Tensor):
                self.fixed[i] = x
            elif _is_static(node, x):
                self.names[i] = f"weight{i}"
                if isinstance(x, nn.Parameter):
                    self.register_parameter(self.names[i], x)
                else:
                    self.register_buffer(self.names[i], x)
        self.count = len(given)
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        rest = iter(inputs)
        given = []
        for i in range(self.count):
            if i in self.fixed:
                given.append(self.fixed[i])
            else:
                given.append(getattr(self, self.names[i]) if i in self.names else next(rest))
        return self.captured(*given)


def _placeholders(captured: GraphModule) -> list[Any]:
    return [node for node in captured.graph.nodes if node.op == "placeholder"]


def _is_static(node: Any, x: Tensor) -> bool:
    """Whether an input is a parameter or buffer of the module, by torch.compile's own mark."""
    return isinstance(x, nn.Parameter) or hasattr(x, "_dynamo_static_input_type") or "_buffers_" in node.name


def backend(captured: GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
    """The backend: for torch.compile(module, backend=...), whose name for it is "convatlas".

    A graph becomes a plan when it first runs. Where a gradient is wanted, or no plan can be made of it, the graph runs as
    torch.compile captured it, with a warning: a plan has no gradients.
    """
    plans: dict[Any, tuple[Plan, list[int]] | None] = {}

    def run(*given: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in given):
            if "gradient" not in plans:
                plans["gradient"] = None
                _warn("a gradient is wanted, which a plan has not; expected torch.no_grad() or inference_mode()")
            return captured(*given)
        weights = tuple(id(x) for x, node in zip(given, _placeholders(captured)) if _weight(node, x))
        sizes = tuple(tuple(x.shape) if isinstance(x, Tensor) else x for x in given)
        key = weights, sizes
        if key not in plans:
            if len(plans) >= SHAPES:
                return captured(*given)
            plans[key] = _planned(captured, given)
        found = plans[key]
        if found is None:
            return captured(*given)
        plan, inputs = found
        return plan(*(given[i] for i in inputs))

    return run


def _weight(node: Any, x: Any) -> bool:
    return isinstance(x, Tensor) and _is_static(node, x)


def _planned(captured: GraphModule, given: Sequence[Any]) -> tuple[Plan, list[int]] | None:
    lifted = _Lifted(captured, given)
    inputs = [i for i in range(len(given)) if i not in lifted.fixed and i not in lifted.names]
    try:
        plan = Plan(lifted, tuple(given[i] for i in inputs))
        plan.program()
    except ConvAtlasError as error:
        _warn(str(error))
        return None
    return plan, inputs


def _warn(why: str) -> None:
    warnings.warn(f"convatlas: the graph runs as PyTorch's, {why}", ConvAtlasWarning, stacklevel=3)
