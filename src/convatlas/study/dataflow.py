"""How a net's ops are wired: trace's list, with where each op's inputs and weights come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convatlas.nets.meta import run_on_meta
from convatlas.nets.paths import module_paths
from convatlas.ops.observe import Call, observe
from convatlas.study.layer import IMAGE, Layer, Node


@dataclass(frozen=True)
class _Origin:
    """What a piece of memory was computed from: nodes, and names of parameters."""

    nodes: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    def __or__(self, other: _Origin) -> _Origin:
        return _Origin(self.nodes | other.nodes, self.names | other.names)


class _Flow(TorchDispatchMode):
    """Keeps the origin of every storage while a net runs on the meta device.

    Origins belong to storages, not to tensors, so that views and buffers written in parts need no rule of their own. What torch
    does between our ops (flatten, dropout, a batch norm in training) hands the origins of its inputs on.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.nodes: list[Node] = []
        self._origins: dict[int, _Origin] = {}
        self._kept: list[Tensor] = []  # storages are told apart by address, which must not be used twice

    def entering(self, module: nn.Module, args: Any) -> None:
        """A forward pre-hook: when `net` begins, its parameters are the stand-ins that it runs with, and its input is the image."""
        if module is self.net:
            self._set(args[0], _Origin(frozenset((IMAGE,))))
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                self._set(tensor, _Origin(names=frozenset((name,))))

    def seen(self, path: str, call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
        """An observer of our ops."""
        origins = [self._get(x) for x in tensors.values()]
        sources = tuple(tuple(sorted(origin.nodes)) for origin in origins if origin.nodes)
        weights = frozenset().union(*(origin.names for origin in origins))
        whole = output.numel() * output.element_size() == output.untyped_storage().nbytes()
        before = _Origin() if whole else self._get(output)  # a slice of a buffer joins what the buffer holds already
        self._set(output, before | _Origin(frozenset((len(self.nodes),))))
        layer = Layer(path, call.op, call.spec, call.epilogue, call.params)
        self.nodes.append(Node(layer, sources, tuple(sorted(weights))))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.namespace != "convatlas":  # of ours, `seen` has heard
            origin = self._union(x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self._set(x, self._get(x) | origin)
        return result

    def _union(self, tensors: Iterable[Tensor]) -> _Origin:
        origin = _Origin()
        for x in tensors:
            origin |= self._get(x)
        return origin

    def _get(self, x: Tensor) -> _Origin:
        return self._origins.get(x.untyped_storage()._cdata, _Origin())

    def _set(self, x: Tensor, origin: _Origin) -> None:
        self._kept.append(x)
        self._origins[x.untyped_storage()._cdata] = origin


def wired(net: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype | None = None) -> list[Node]:
    """What study.trace(net, input_shape, dtype) lists, in the same order, each op with its sources and weights.

    A second result of an op (the indices of a max pooling) is not followed. Raises as trace.
    """
    flow = _Flow(net)
    hook = register_module_forward_pre_hook(flow.entering)
    try:
        with module_paths(net) as path, observe(lambda *told: flow.seen(path(), *told)), flow:
            run_on_meta(net, tuple(input_shape), dtype)
    finally:
        hook.remove()
    return flow.nodes
