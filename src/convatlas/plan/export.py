"""From a module to a Graph: torch.export lists what the module runs, and each op becomes a step of ours or stays PyTorch's."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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


def exported(module: nn.Module, inputs: tuple[Any, ...], free: bool = False) -> Traced:
    """What torch.export lists of the module on these inputs; with `free` the batch stays open, where the module lets it.

    Raises NetError in one line.
    """
    require_eval(module)
    name = type(module).__name__
    sizes = tuple({0: torch.export.Dim.AUTO} if x.dim() > 1 else None for x in inputs) if free else None
    try:
        with _one_at_a_time, torch.no_grad(), _quiet(), _one_tf32(), _Composites(), unfolded():
            program = torch.export.export(module, inputs, dynamic_shapes=sizes, strict=False)
            return Traced(name, program, program.run_decompositions({}), free)
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


def graph_of(module: nn.Module, inputs: tuple[Any, ...], traced: list[Traced] | None = None) -> Graph:
    """The module's steps on inputs of these shapes, nothing fused yet.

    Args:
        module, inputs: what is traced.
        traced: what was traced of the module already, to which this adds. Where one of them has an open batch that these inputs
            fit, the module is not traced again. The first size is traced by itself, since an open batch costs torch.export more;
            so is a batch of 1, which torch.export takes for a constant.

    Raises NetError, DtypeError.
    """
    traced = [] if traced is None else traced
    require_eval(module)
    for one in traced:
        if (sizes := one.sizes(inputs)) is not None:
            return one.graph(sizes)
    found = None
    if traced and not any(one.free for one in traced) and all(x.shape[0] > 1 for x in inputs if x.dim() > 1):
        with suppress(NetError):
            found = exported(module, inputs, free=True)
    if found is None or (sizes := found.sizes(inputs)) is None:
        found = exported(module, inputs)
        sizes = found.sizes(inputs)
    traced.append(found)
    return found.graph(sizes or {})


@dataclass(frozen=True)
class Traced:
    """A module as torch.export lists it.

    Attributes:
        name: the module's class.
        before: the program with its in-place ops, as PyTorch runs it.
        program: the same without them.
        free: whether its batch was left open.
    """

    name: str
    before: Any
    program: Any
    free: bool

    def sizes(self, inputs: tuple[Tensor, ...]) -> dict[Any, int] | None:
        """The open sizes on these inputs, by symbol; None where the program is for other inputs."""
        given = [node for node, spec in self._placeholders() if spec.kind == InputKind.USER_INPUT]
        found: dict[Any, int] = {}
        for node, x in zip(given, inputs):
            value = node.meta.get("val")
            for size, wanted in zip(value.shape, x.shape) if isinstance(value, Tensor) else ():
                expression = size.node.expr if isinstance(size, torch.SymInt) else size
                if getattr(expression, "is_Symbol", False):
                    if found.setdefault(expression, wanted) != wanted:
                        return None
                elif expression != wanted:
                    return None
        ranges = self.program.range_constraints
        inside = all(
            ranges[symbol].lower <= size <= ranges[symbol].upper for symbol, size in found.items() if symbol in ranges
        )
        return found if inside and all(guard.subs(found) == True for guard in self._guards()) else None  # noqa: E712 (sympy's)

    def _placeholders(self) -> list[tuple[Node, Any]]:
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        return [(node, specs[node.name]) for node in self.program.graph.nodes if node.op == "placeholder"]

    def _guards(self) -> list[Any]:
        """What torch.export found that sizes have to obey for this to be the module's path."""
        values = [node.meta.get("val") for node, _ in self._placeholders()]
        sizes = [size for x in values if isinstance(x, Tensor) for size in x.shape if isinstance(size, torch.SymInt)]
        return [guard.expr for size in sizes[:1] for guard in size.node.shape_env.guards]

    def graph(self, sizes: dict[Any, int]) -> Graph:
        """Its steps on inputs of these sizes."""
        graph = _Reader(self.program, self.name, sizes).graph()
        before = partial(_sized, sizes=sizes)
        graph.torch_peak, graph.torch_layers = torch_peak(self.before, before), torch_layers(self.before)
        return graph


def _sized(node: Node, sizes: dict[Any, int]) -> Any:
    """A node's value with these sizes in the place of symbols: stand-ins for tensors, numbers."""

    def one(x: Any) -> Any:
        if isinstance(x, Tensor):
            numbers = [*map(one, x.shape)], [*map(one, x.stride())]
            with x.fake_mode:
                return torch.empty_strided(*numbers, dtype=x.dtype, device=x.device)
        if isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            value = x.node.expr.subs(sizes)
            return x if value.free_symbols else x.node.pytype(value)
        return x

    value = node.meta.get("val")
    return mapped(value, one) if sizes else value


class _Reader:
    """Walks an exported program, with sizes in the place of its symbols."""

    def __init__(self, program: Any, name: str, sizes: dict[Any, int]) -> None:
        self.program, self.name = program, name
        self.values = {node: _sized(node, sizes) for node in program.graph.nodes}
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
                        self.graph_.strides[self._read(x).name] = tuple(self.values[x].stride())
        return self.graph_

    def _placeholder(self, node: Node, spec: Any) -> None:
        value = self.values[node]
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

    def _fakes(self, value: Any) -> Any:
        return mapped(value, lambda x: self.values[x] if isinstance(x, Node) else x)

    def _pairs(self, value: Any) -> list[tuple[Any, Any]]:
        return [(self.values[x], self._read(x)) for x in _flat(value) if isinstance(x, Node)]

    def _function(self, node: Node) -> None:
        target, value = node.target, self.values[node]
        if isinstance(value, (int, float)):  # computed of the batch
            self.env[node.name] = value
            return
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
        fake = bound(target, *self._fakes((node.args, node.kwargs)))
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
            by_id = {id(x): y for x, y in self._pairs((node.args, node.kwargs))}
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


def _is_first(user: Node) -> bool:
    return user.target is operator.getitem and user.args[1] == 0


def _path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else ""
