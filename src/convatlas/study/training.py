"""A training step in numbers, from one step on the meta device: the ops of the backward pass by layer, and the memory it takes.

    step    = forward + gradients by input (dgrad) + gradients by weight (wgrad) + the rest of the backward pass + optimizer
    memory  = weights + their gradients + the optimizer's numbers, all in float32 as torch.autocast leaves them,
              + what ops keep for the backward pass, in the dtype of the activations

A tensor that several ops keep is counted once. Checkpointing (Chen et al. 2016, arXiv:1604.06174) keeps the inputs of some segments
of the net alone and computes a segment again when its backward comes: then the memory is that of the segments' inputs and of what
the largest segment keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_pre_hook

from convatlas.call import Call
from convatlas.errors import ArgumentError, NetError
from convatlas.nets import layers
from convatlas.nets.paths import module_paths
from convatlas.ops.observe import observe
from convatlas.specs import GradSpec, LinearSpec, dtype_name, itemsize

STATE = {"sgd": 1, "adamw": 2}  # float32 numbers a weight that torch.optim keeps: the momentum; two moments
FLOAT32 = 4
PARTS = ("forward", "dgrad", "wgrad", "other")
COUNTED = (
    "FLOPs: 2 a MAC, and those of pooling, normalisation and activations; of the optimizer none",
    "dgrad: gradient by a layer's input; wgrad: by its weight and bias; other: batch norm's, pooling's and activations' backward",
    "bytes: compulsory, each operand and result of each op once",
    "kept: what ops keep for the backward pass, a tensor once, with the layer that keeps it first; of the loss too",
    "weights, gradients and the optimizer's numbers: float32, as under torch.autocast",
)


@dataclass(frozen=True)
class LayerStep:
    """What a step computes of one module.

    Attributes:
        path: the module's, such as "layer1.0.conv1"; its batch norm and activation are with it.
        calls: by part, one of PARTS.
        kept: bytes that its ops keep for the backward pass and none before them.
    """

    path: str
    calls: dict[str, list[Call]] = field(default_factory=lambda: {part: [] for part in PARTS})
    kept: int = 0

    def total(self, of: Callable[[Call], float], *parts: str) -> float:
        """The sum of a number over the calls of the parts, or of all."""
        return sum(of(call) for part in parts or PARTS for call in self.calls[part])

    def flops(self, *parts: str) -> int:
        return int(self.total(lambda call: call.spec.flops, *parts))

    def bytes(self, *parts: str) -> int:
        return int(self.total(lambda call: call.spec.bytes(call.dtype, call.epilogue), *parts))

    @property
    def products(self) -> tuple[int, int]:
        """MACs of the products of the forward pass, and of the whole step."""
        macs = [int(self.total(lambda call: call.spec.macs, *parts)) for parts in (("forward",), ())]
        return macs[0], macs[1]


@dataclass(frozen=True)
class TrainingStep:
    """A net's.

    Attributes:
        name, input_shape, dtype: what was traced, activations in `dtype`.
        optimizer: a name in STATE.
        layers: in the order of the forward pass.
        parameters: numbers that learn.
        segments: for each part of the net's chain of modules the storages that are its inputs and those that its ops keep, with
            their sizes.
    """

    name: str
    input_shape: tuple[int, ...]
    dtype: str
    optimizer: str
    layers: list[LayerStep] = field(repr=False)
    parameters: int
    segments: list[tuple[dict[int, int], dict[int, int]]] = field(repr=False)

    def flops(self, *parts: str) -> int:
        return sum(layer.flops(*parts) for layer in self.layers)

    def bytes(self, *parts: str) -> int:
        return sum(layer.bytes(*parts) for layer in self.layers)

    @property
    def ratio(self) -> float:
        """MACs of a step over those of its forward pass."""
        forward, step = (sum(layer.products[i] for layer in self.layers) for i in (0, 1))
        return step / forward

    @property
    def kept(self) -> int:
        """Bytes that the forward pass leaves for the backward pass."""
        return sum(layer.kept for layer in self.layers)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes that the optimizer moves: it reads weight, gradient and its own numbers, and writes weight and own numbers."""
        return self.parameters * FLOAT32 * (3 + 2 * STATE[self.optimizer])

    @property
    def fixed(self) -> dict[str, int]:
        """Bytes of what does not depend on the batch."""
        numbers = self.parameters * FLOAT32
        return {"weights": numbers, "gradients": numbers, "optimizer": numbers * STATE[self.optimizer]}

    @property
    def memory(self) -> int:
        return sum(self.fixed.values()) + self.kept

    @cached_property
    def checkpointed(self) -> tuple[int, int]:
        """(bytes, number of segments) of what is kept with checkpointing, by the number of segments that keeps the least.

        Segments are neighbours in the chain of the net's modules, cut where equal shares of what is kept have been reached.
        """
        return min((self._cut(count), count) for count in range(1, len(self.segments) + 1))

    def _cut(self, count: int) -> int:
        whole, groups, done = sum(sum(kept.values()) for _, kept in self.segments), [[]], 0
        for segment in self.segments:
            if groups[-1] and done >= whole * len(groups) / count:
                groups.append([])
            groups[-1].append(segment)
            done += sum(segment[1].values())
        borders = {key: size for group in groups for key, size in group[0][0].items()}
        inside = [{k: n for _, kept in group for k, n in kept.items() if k not in borders} for group in groups]
        return sum(borders.values()) + max(sum(kept.values()) for kept in inside)

    def predicted(self, seconds: Callable[[Call], float], *parts: str) -> float:
        """The sum of predicted times of the calls, one after another."""
        return sum(layer.total(seconds, *parts) for layer in self.layers)


def training_step(
    net: nn.Module, input_shape: tuple[int, ...], dtype: str = "float16", optimizer: str = "sgd", name: str = ""
) -> TrainingStep:
    """One step of `net`, which lies on the meta device, forward, cross entropy and backward: nothing is computed.

    Raises NetError for a net whose convolutions or linear layers are not ours, ArgumentError for an unknown optimizer, and what the
    net raises.
    """
    from convatlas.train.run import loss_of

    if optimizer not in STATE:
        raise ArgumentError(f"optimizer {optimizer!r}, expected one of {', '.join(STATE)}")
    theirs = [n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and not _ours(m)]
    if theirs:
        raise NetError(
            f"{name or type(net).__name__}: {theirs[0]} is torch.nn's, whose backward is not counted: expected layers of "
            "convatlas.nets"
        )
    dtype = dtype_name(dtype)
    net = net.train().to(getattr(torch, dtype))
    x = torch.empty(input_shape, dtype=getattr(torch, dtype), device="meta").contiguous(
        memory_format=torch.channels_last
    )
    recorder = _Recorder(net)
    with recorder.watching():
        outputs = net(x)
        recorder.backward = True
        loss_of(outputs, torch.zeros(input_shape[0], dtype=torch.long, device="meta")).backward()
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    segments = [(inputs, kept) for inputs, kept in recorder.segments.values() if kept]
    return TrainingStep(
        name or type(net).__name__, tuple(input_shape), dtype, optimizer, list(recorder.layers.values()), parameters, segments
    )  # fmt: skip


def _ours(module: nn.Module) -> bool:
    return isinstance(module, (layers.Conv2d, layers.Linear))


class _Recorder:
    """Gives each op of a step to a module. In the backward pass that is the one whose kept tensors were asked for last: an op's
    backward begins by asking for them. Ops that keep nothing (average pooling) are found by the call whose gradient they are.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net, self.backward = net, False
        self.layers: dict[str, LayerStep] = {}
        self.segments: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
        self._weights = {p.untyped_storage()._cdata for p in net.parameters()}
        self._known: set[int] = set()
        self._path, self._running, self._segment = "", lambda: "", ""
        self._all: list[Tensor] = []  # storages are told apart by address, which must not be used twice

    @contextmanager
    def watching(self) -> Iterator[None]:
        chain = {id(module): name for name, module in _chain(self.net)}

        def entering(module: nn.Module, args: Any) -> None:
            name = chain.get(id(module))
            if name is not None and not self.backward:
                self._segment = name
                held = self.segments.setdefault(name, ({}, {}))[0]
                held.update((self._key(x), _size(x)) for x in args if isinstance(x, Tensor))

        hook = register_module_forward_pre_hook(entering)
        try:
            with (
                module_paths(self.net) as self._running,
                observe(self._seen),
                saved_tensors_hooks(self._keep, self._take),
            ):
                yield
        finally:
            hook.remove()

    def _key(self, x: Tensor) -> int:
        self._all.append(x)
        return x.untyped_storage()._cdata

    def _layer(self, path: str) -> LayerStep:
        return self.layers.setdefault(path, LayerStep(path))

    def _keep(self, x: Tensor) -> tuple[str, Tensor]:
        path = "the loss" if self.backward else self._running() or "the net itself"
        key = self._key(x)
        if key in self._weights:
            return path, x
        if key not in self._known:
            self._known.add(key)
            layer = self._layer(path)
            self.layers[path] = replace(layer, kept=layer.kept + _size(x))
        if self._segment and not self.backward:
            self.segments[self._segment][1][key] = _size(x)
        return path, x

    def _take(self, packed: tuple[str, Tensor]) -> Tensor:
        self._path, x = packed
        return x

    def _seen(self, call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
        call = replace(call, backend="meta")
        if not self.backward:
            self._layer(self._running() or "the net itself").calls["forward"].append(call)
            return
        path = self._path
        if call.op.startswith(("avg_pool", "adaptive_avg")):
            layers = reversed(self.layers.values())
            path = next((x.path for x in layers if any(c.spec == call.spec.forward for c in x.calls["forward"])), path)
        self._layer(path).calls[_part(call, self._layer(path))].append(call)


def _part(call: Call, layer: LayerStep) -> str:
    if call.op == "conv2d_input_grad":
        return "dgrad"
    if call.op == "conv2d_weight_grad":
        return "wgrad"
    if isinstance(call.spec, LinearSpec) and not isinstance(call.spec, GradSpec):
        forward = next((c.spec for c in layer.calls["forward"] if isinstance(c.spec, LinearSpec)), None)
        by_input = forward and call.spec.output_shape == (*forward.lead, forward.C) and not layer.calls["dgrad"]
        return "dgrad" if by_input else "wgrad"
    return "other"


def _size(x: Tensor) -> int:
    return x.untyped_storage().nbytes()


def _chain(net: nn.Module, prefix: str = "") -> Sequence[tuple[str, nn.Module]]:
    """The modules that a net's forward calls one after another: its children, in the place of nn.Sequential its own."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in net.named_children():
        path = f"{prefix}{name}"
        found += _chain(child, f"{path}.") if isinstance(child, nn.Sequential) else [(path, child)]
    return found


def inference_bytes(parameters: int, peak: int, dtype: str) -> int:
    """Bytes of inference: the weights in the dtype, and the most activations alive at once."""
    return parameters * itemsize(dtype) + peak
