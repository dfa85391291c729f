"""From a module to a Graph: torch.export lists what the module runs, and each op becomes a step of ours or stays PyTorch's."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_unflatten

from convatlas.errors import ConvAtlasError, NetError
from convatlas.kernels.common.precision import restored
from convatlas.nets.layers import unfolded
from convatlas.ops import functional as ops
from convatlas.plan.converters import bound, converted, is_identity
from convatlas.plan.peer import torch_layers, torch_peak
from convatlas.plan.steps import OURS, VIEW, Graph, Ref, Step, Value, Weight, mapped, name_of

aten = torch.ops.aten
_one_at_a_time = Lock()  # torch.export keeps what it traces in global variables
# Views by another name: they copy only where the memory format does not allow a view, which the plan decides anew.
VIEWS = frozenset(["view", "reshape", "flatten", "_unsafe_view", "unflatten", "expand_as", "view_as", "reshape_as"])


class _Composites(TorchFunctionMode):
    """Keeps whole what PyTorch would trace as many ops: local_response_norm; and the mean over H and W as a pooling."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is F.local_response_norm:
            return ops.local_response_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def require_eval(module: nn.Module) -> None:
    """Raises NetError for a module in training mode, or one of whose parts is."""
    for path, part in module.named_modules():
        learned = next(part.parameters(recurse=False), None) is not None
        if part.training and (not path or learned or _acts(part)):
            where = f" {path!r}" if path else ""
            name = f"{type(module).__name__}{where}"
            raise NetError(f"compile: {name} is in training mode, expected module.eval(): a plan is for inference")


def _acts(part: nn.Module) -> bool:
    return isinstance(part, (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase))


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs what it cannot trace at length, before it raises; the error that we raise says it in one line."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("fx.experimental.symbolic_shapes", "export", "_export")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before):
            logger.disabled = disabled


@contextmanager
def _one_tf32() -> Iterator[None]:
    """For torch.export, which reads PyTorch's older TF32 flag: reading raises unless it agrees with the newer settings."""
    layers = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    with restored(*layers):
        for precision in ("tf32", "ieee"):
            for layer in layers:
                layer.fp32_precision = precision
            with suppress(RuntimeError):
                torch._C._get_cudnn_allow_tf32()
                break
        yield


def exported(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, int, int]:
    """(torch.export's program without in-place ops, PyTorch's peak of activations in bytes, its launches of ops).

    Raises NetError in one line.
    """
    require_eval(module)
    name = type(module).__name__
    try:
        with _one_at_a_time, torch.no_grad(), _quiet(), _one_tf32(), _Composites(), unfolded():
            program = torch.export.export(module, inputs, strict=False)
            peak, launched = torch_peak(program), torch_layers(program)
            program = program.run_decompositions({})
    except ConvAtlasError:
        raise
    except Exception as error:
        kind, text = type(error).__name__, (str(error).strip() or "no message").splitlines()[0]
        if "DataDependent" in kind or "data-dependent" in text.lower():
            raise NetError(
                f"compile: {name} decides by the values of tensors what it runs, expected one path for all inputs "
                f"(torch.export: {text})"
            ) from error
        raise NetError(f"compile: torch.export cannot trace {name} ({kind}: {text})") from error
    return program, peak, launched


def graph_of(module: nn.Module, inputs: tuple[Any, ...]) -> Graph:
    """The module's steps on inputs of these shapes, nothing fused yet. Raises NetError, DtypeError."""
    program, peak, launched = exported(module, inputs)
    graph = _Reader(program, type(module).__name__).graph()
    graph.torch_peak, graph.torch_layers = peak, launched
    return graph


class _Reader:
    """Walks an exported program."""

    def __init__(self, program: Any, name: str) -> None:
        self.program, self.name = program, name
        self.env: dict[str, Any] = {}  # by node: a Ref, a Weight, a tuple of them, or a constant
        self.graph_ = Graph([], [], {}, [], {}, partial(tree_unflatten, treespec=program.call_spec.out_spec))

    def graph(self) -> Graph:
        signature = self.program.graph_signature
        written = {*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()}
        if written:
            raise NetError(
                f"compile: {self.name} writes {', '.join(sorted(map(str, written)))}, expected a pure forward"
            )
        given = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, given[node.name])
            elif node.op == "call_function":
                self._function(node)
            elif node.op == "output":
                kinds = [spec.kind for spec in signature.output_specs]
                found = [self._read(x) for x, kind in zip(node.args[0], kinds) if kind == OutputKind.USER_OUTPUT]
                self.graph_.outputs = found
                for x in node.args[0]:
                    if isinstance(x, Node) and isinstance(self._read(x), Ref):
                        self.graph_.strides[self._read(x).name] = tuple(x.meta["val"].stride())
        return self.graph_

    def _placeholder(self, node: Node, spec: Any) -> None:
        value = node.meta.get("val")
        if spec.kind == InputKind.USER_INPUT:
            self.env[node.name] = self._value(node.name, value) if isinstance(value, Tensor) else value
            if isinstance(value, Tensor):
                self.graph_.inputs.append(node.name)
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            constant = self.program.constants[spec.target]
            self.env[node.name] = Weight(spec.target, tuple(value.shape), value.dtype, lambda get: constant)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            source = spec.target
            self.env[node.name] = Weight(
                source, tuple(value.shape), value.dtype, lambda get: get(source), frozenset((source,))
            )
        else:
            raise NetError(f"compile: {self.name} takes {spec.kind.name.lower()} {node.name}, expected tensors")

    def _value(self, name: str, value: Tensor) -> Ref:
        self.graph_.values[name] = Value(name, tuple(value.shape), value.dtype)
        return Ref(name)

    def _read(self, x: Any) -> Any:
        return mapped(x, lambda leaf: self.env[leaf.name] if isinstance(leaf, Node) else leaf)

    def _function(self, node: Node) -> None:
        target, value = node.target, node.meta.get("val")
        if target is operator.getitem:
            self.env[node.name] = self._read(node.args[0])[node.args[1]]
            return
        if value is None or not hasattr(
            target, "_schema"
        ):  # an assertion on metadata, or nothing that a tensor comes from
            if value is not None:
                raise NetError(f"compile: {self.name} runs {name_of(target)}, expected ops on tensors of fixed shapes")
            return
        args, keywords = self._read(node.args), self._read(node.kwargs)
        fake = bound(target, *_fakes((node.args, node.kwargs)))
        if is_identity(target, fake):
            first = args[0]
            self.env[node.name] = first
            return
        reads = any(isinstance(x, Ref) for x in _flat((args, keywords)))
        random = torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
        if not reads and not random:
            self.env[node.name] = self._constant(node, args, keywords, value)
            return
        path = _path(node)
        found = converted(target, fake)
        several = isinstance(value, (tuple, list))
        if found and (not several or all(_is_first(user) for user in node.users)):
            call, operands = found
            by_id = {id(x): y for x, y in _pairs((node.args, node.kwargs), self._read)}
            result = value[0] if several else value
            ref = self._value(node.name, result)
            name, shape = node.name, tuple(call.spec.output_shape)
            if shape != tuple(result.shape):  # a mean without the two dimensions that it was taken over
                name = f"{node.name}.pooled"
                self.graph_.values[name] = Value(name, shape, result.dtype)
            self.graph_.steps.append(
                Step(path, (name,), call, {k: by_id[id(x)] for k, x in operands.items()}, kind=OURS)
            )
            if name != node.name:
                args = (Ref(name), list(result.shape))
                self.graph_.steps.append(Step(path, (node.name,), target=aten.view.default, args=args, kind=VIEW))
            self.env[node.name] = (ref,) if several else ref
            return
        self._foreign(node, path, args, keywords, value, several)

    def _foreign(self, node: Node, path: str, args: tuple, keywords: dict, value: Any, several: bool) -> None:
        target = node.target
        view = target.is_view or name_of(target) in VIEWS
        parts = list(value) if several else [value]
        names = [f"{node.name}.{i}" if several else node.name for i in range(len(parts))]
        if not all(isinstance(part, Tensor) or part is None for part in parts):
            raise NetError(f"compile: {self.name} runs {name_of(target)}, expected ops that return tensors")
        refs = tuple(None if part is None else self._value(name, part) for name, part in zip(names, parts))
        if view:
            for i, name in enumerate(names):
                index = i if several else None
                self.graph_.steps.append(
                    Step(path, (name,), target=target, args=args, keywords=keywords, kind=VIEW, index=index)
                )
        else:
            self.graph_.steps.append(Step(path, tuple(names), target=target, args=args, keywords=keywords))
        self.env[node.name] = refs if several else refs[0]

    def _constant(self, node: Node, args: tuple, keywords: dict, value: Any) -> Any:
        """What depends on weights alone is one."""
        target = node.target
        sources = frozenset().union(*(x.sources for x in _flat((args, keywords)) if isinstance(x, Weight)))

        def make(get: Any) -> Any:
            given = mapped((args, keywords), lambda x: get(x) if isinstance(x, Weight) else x)
            return target(*given[0], **given[1])

        if isinstance(value, Tensor):
            return Weight(node.name, tuple(value.shape), value.dtype, make, sources)
        return tuple(
            Weight(f"{node.name}.{i}", tuple(x.shape), x.dtype, lambda get, i=i: make(get)[i], sources)
            for i, x in enumerate(value)
        )


def _flat(value: Any) -> list[Any]:
    found: list[Any] = []
    mapped(value, found.append)
    return found


def _fakes(value: Any) -> Any:
    return mapped(value, lambda x: x.meta["val"] if isinstance(x, Node) else x)


def _pairs(value: Any, read: Any) -> list[tuple[Any, Any]]:
    return [(x.meta["val"], read(x)) for x in _flat(value) if isinstance(x, Node)]


def _is_first(user: Node) -> bool:
    return user.target is operator.getitem and user.args[1] == 0


def _path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else ""
