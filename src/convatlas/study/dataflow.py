"""How a net's ops are wired: trace's list, with where each op's inputs and weights come from.

Our ops report themselves (convatlas.ops.observe). torch's own ops are seen at torch's dispatcher, where each op of ours is one
op, so that nothing is counted twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convatlas.call import Call
from convatlas.errors import ConvAtlasWarning
from convatlas.nets.meta import run_on_meta
from convatlas.nets.paths import module_paths
from convatlas.ops.observe import observe
from convatlas.specs import LocalResponseNormSpec
from convatlas.study.layer import IMAGE, TORCHS, Layer, Node, Uncounted, by_name
from convatlas.study.torch_ops import describe, is_free, is_new, name_of


class UncountedWarning(ConvAtlasWarning):
    """Warns that a net ran ops of torch that no spec describes, so that they are in no list and no sum."""


@dataclass(frozen=True)
class _Origin:
    """What a piece of memory was computed from: nodes, and names of parameters."""

    nodes: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    def union(self, others: Iterable[_Origin]) -> _Origin:
        """This and the others together."""
        others = list(others)
        nodes = self.nodes.union(*(other.nodes for other in others))
        return _Origin(nodes, self.names.union(*(other.names for other in others)))


class _Flow(TorchDispatchMode):
    """Keeps the origin of every storage while a net runs on the meta device.

    Origins belong to storages, not to tensors, so that views and buffers written in parts need no rule of their own. An op
    of torch between the listed ones (flatten, dropout) passes the origins of its inputs on.

    Attributes:
        nodes: what was run and counted.
        uncounted: what was run on activations and not counted. Ops on weights alone are left out, since
            they are no work for an image.
    """

    def __init__(self, net: nn.Module, path: Callable[[], str]) -> None:
        super().__init__()
        self.net, self.path = net, path
        self.nodes: list[Node] = []
        self.uncounted: list[Uncounted] = []
        self.inside = False  # an op of several of torch's that is counted as one
        self._origins: dict[int, _Origin] = {}
        self._kept: list[Tensor] = []  # storages are told apart by address, which must not be used twice

    def entering(self, module: nn.Module, args: Any) -> None:
        """A forward pre-hook: when `net` begins, notes its parameters (stand-ins on the meta device) and its input, the image."""
        if module is self.net:
            self._set(args[0], _Origin(frozenset((IMAGE,))))
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                self._set(tensor, _Origin(names=frozenset((name,))))

    def seen(self, call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
        """An observer of our ops."""
        layer = Layer(self.path(), Call(call.op, call.spec, call.epilogue, call.params))
        self.add(layer, [self.origin(x) for x in tensors.values()], output)

    def add(self, layer: Layer, origins: list[_Origin], output: Tensor) -> None:
        """Lists an op whose operands have these `origins`."""
        sources = tuple(tuple(sorted(origin.nodes)) for origin in origins if origin.nodes)
        weights = frozenset().union(*(origin.names for origin in origins))
        whole = output.numel() * output.element_size() == output.untyped_storage().nbytes()
        before = _Origin() if whole else self.origin(output)  # a slice of a buffer joins what the buffer holds already
        self._set(output, before.union([_Origin(frozenset((len(self.nodes),)))]))
        self.nodes.append(Node(layer, sources, tuple(sorted(weights))))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "convatlas":  # `seen` hears of it
            return function(*args, **kwargs)
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        origins = [] if is_new(function) else [self.origin(x) for x in operands]
        result = function(*args, **kwargs)
        results = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        for x in results:
            self._set(x, self.origin(x).union(origins))
        computed = results and not self.inside and not is_free(function) and any(origin.nodes for origin in origins)
        if computed and any(x.is_floating_point() for x in operands):
            known = {id(x): origin for x, origin in zip(operands, origins)}
            found = describe(function, args, kwargs, result, lambda x: bool(known[id(x)].nodes))
            if found is None:
                self.uncounted.append(Uncounted(self.path(), name_of(function), tuple(results[0].shape)))
            else:
                self.add(Layer(self.path(), found, TORCHS), origins, results[0])
        return result

    def origin(self, x: Tensor) -> _Origin:
        """What x was computed from."""
        return self._origins.get(x.untyped_storage()._cdata, _Origin())

    def _set(self, x: Tensor, origin: _Origin) -> None:
        self._kept.append(x)
        self._origins[x.untyped_storage()._cdata] = origin


class _Composites(TorchFunctionMode):
    """Recognises what torch's dispatcher shows only in pieces: local_response_norm, which torch computes by an average pooling."""

    def __init__(self, flow: _Flow) -> None:
        super().__init__()
        self.flow = flow

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is not F.local_response_norm:
            return function(*args, **kwargs)
        given = signature(F.local_response_norm).bind(*args, **kwargs)
        given.apply_defaults()
        x, size, params = given.args[0], given.args[1], {k: given.arguments[k] for k in ("alpha", "beta", "k")}
        spec, origin = LocalResponseNormSpec.of(tuple(x.shape), size), self.flow.origin(x)
        self.flow.inside = True
        try:
            result = function(*args, **kwargs)
        finally:
            self.flow.inside = False
        self.flow.add(
            Layer(self.flow.path(), Call("local_response_norm", spec, None, params), TORCHS), [origin], result
        )
        return result


def observed_run(
    net: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None
) -> tuple[list[Node], list[Uncounted]]:
    """One run of `net` on the meta device: what was counted and what was not. Raises as trace."""
    with module_paths(net) as path:
        flow = _Flow(net, path)
        hook = register_module_forward_pre_hook(flow.entering)
        try:
            with observe(flow.seen), flow, _Composites(flow):
                run_on_meta(net, tuple(input_shape), dtype)
        finally:
            hook.remove()
    return flow.nodes, flow.uncounted


def wired(net: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype | None = None) -> list[Node]:
    """What study.trace(net, input_shape, dtype) lists, in the same order, each op with its sources and weights.

    A second result of an op (the indices of a max pooling) is not followed. Warns and raises as trace.
    """
    nodes, uncounted = observed_run(net, input_shape, dtype)
    if uncounted:
        message = f"{type(net).__name__}: run but not listed, convatlas has no spec for it: {by_name(uncounted)}"
        warnings.warn(message, UncountedWarning, stacklevel=2)
    return nodes
