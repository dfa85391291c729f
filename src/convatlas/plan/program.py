"""A plan's steps on inputs of one shape, ready to run: an arena, packed weights, launches that know every address."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convatlas.call import Call
from convatlas.kernels.backend import launches, viewable
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.driver import Unprepared, cuda_driver
from convatlas.kernels.common.launch import Launch, require_countable
from convatlas.kernels.common.proven import depends
from convatlas.kernels.common.target import Target
from convatlas.layout import taps_first
from convatlas.nets.paths import step_of
from convatlas.ops import backends, hot
from convatlas.ops.automatic import chosen
from convatlas.ops.observe import notify, observed
from convatlas.plan.carried import Carried, key_of
from convatlas.plan.memory import ALIGNMENT, Arena, arena, workspace_of, written_over
from convatlas.plan.places import Place, out_form, placed
from convatlas.plan.replay import Launches, Recording, Turns
from convatlas.plan.steps import COPY, OURS, Graph, Ref, Step, Weight, mapped

OWN = ("triton", "cuda")
aten = torch.ops.aten


@dataclass
class Ready:
    """A step that knows its tensors.

    Attributes:
        step: what it computes.
        backend: who computes it: a backend of ours, or "torch".
        tensors: its operands, of a step of ours.
        out: where the result goes.
        run: computes it.
        launches: of our kernels; nothing for the reference and for PyTorch.
    """

    step: Step
    backend: str
    tensors: dict[str, Tensor]
    out: Tensor | None
    run: Callable[[], Any]
    launches: list[Any]


class Weights:
    """The tensors of all Weights, computed once and laid out as kernels read them."""

    def __init__(self, get: Callable[[str], Tensor]) -> None:
        self._get = get
        self._made: dict[int, Tensor] = {}

    def __call__(self, wanted: Any) -> Tensor:
        """The tensor of a Weight, or of a name in the module's state."""
        if isinstance(wanted, str):
            return self._get(wanted)
        if id(wanted) not in self._made:
            with torch.no_grad():
                self._made[id(wanted)] = wanted.make(self).detach()
        return self._made[id(wanted)]

    def packed(self, name: str, call: Call, weight: Weight) -> Tensor:
        """A weight as the op's kernels read it without another copy."""
        x = self(weight)
        if name.rpartition(".")[2] == "weight" and x.dim() == 4 and call.op in ("conv2d", "block"):
            x = taps_first(x) if x.shape[1] == 1 else x.contiguous(memory_format=torch.channels_last)
        elif name == "weight" and x.dim() == 2:
            x = x.contiguous()
        self._made[id(weight)] = x
        return x

    def keep(self, weights: list[Weight]) -> None:
        """Forgets what is not among `weights`: the tensors that others were computed from."""
        kept = {id(w) for w in weights}
        self._made = {key: x for key, x in self._made.items() if key in kept}


class _Listing(TorchDispatchMode):
    """What a launcher does with memory while it lists launches.

    Attributes:
        copied: whether it copied memory of the arena: such a copy must be made anew in each run.
        taken: bytes of the workspaces that it asked for; they lie in `room`, or beside the arena where there is none yet.
    """

    def __init__(self, memory: Tensor, room: Tensor | None) -> None:
        super().__init__()
        self.memory, self.room, self.copied, self.taken = memory, room, False, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if (
            function in (aten.empty.memory_format, aten.empty_strided.default)
            and kwargs.get("device") == self.memory.device
        ):
            like = function(*args, **{**kwargs, "device": torch.device("meta")})
            start, size = self.taken, like.untyped_storage().nbytes()
            self.taken += -(-size // ALIGNMENT) * ALIGNMENT
            if self.room is not None:
                return self.room[start : start + size].view(like.dtype).as_strided(like.shape, like.stride())
        result, arena = function(*args, **kwargs), self.memory.untyped_storage()._cdata
        if args and isinstance(args[0], Tensor) and args[0].untyped_storage()._cdata == arena:
            fresh = isinstance(result, Tensor) and result.untyped_storage()._cdata != arena
            self.copied |= fresh and not function._schema.name.startswith(("aten::empty", "aten::new_"))
        return result


class Program:
    """Runs a Graph on inputs of its shapes, on one device."""

    def __init__(
        self,
        graph: Graph,
        device: torch.device,
        get: Callable[[str], Tensor],
        backend: str | None,
        capture: bool,
        places: dict[str, Place] | None = None,
        carried: Carried | None = None,
        target: Target | None = None,
    ) -> None:
        """A program of a graph.

        Args:
            graph: what it computes.
            device: where.
            get: turns a name of the module's state into a tensor.
            backend: of all steps of ours; None chooses.
            capture: whether a GPU's runs are recorded in a CUDA graph.
            places: where values lie; None chooses.
            carried: compiled kernels that came with the graph, whose steps then name their backends.
            target: a GPU that is not here, whose launches are listed, on memory of `device`, and never run.
        """
        self.graph, self.device, self.backend = graph, device, backend
        self.carried, self.target = carried, target
        self.capture = capture and device.type == "cuda"
        self.driver: Any = cuda_driver() if device.type == "cuda" else None
        self.early = early(target.arch if target else arch_of(device)) if capture else ()
        self.index = -1 if device.index is None else device.index
        self.turns = Turns(self.index)
        self.places = places or placed(graph)
        if places is None:
            written_over(graph, self.places)
        self.arena: Arena = arena(graph, self.places)
        self.memory = torch.empty(self.arena.bytes, dtype=torch.uint8, device=device)
        self.workspaces: dict[int, int] = {}  # bytes, by step
        self.lock = Lock()
        self.pack(get)

    def tensor(self, name: str) -> Tensor:
        """A value's memory, seen as the value."""
        value, place = self.graph.values[name], self.places[name]
        return view_of(self.memory, self.arena.buffers[place.buffer].offset, value, place)

    def pack(self, get: Callable[[str], Tensor]) -> None:
        """Computes the weights, and lists the launches on them. What runs on the old ones has ended before they are freed."""
        self._synchronize()
        weights = self.weights = Weights(get)
        listed = [self._ready(i, step, weights) for i, step in enumerate(self.graph.steps)]
        if (
            self.workspaces and not self.arena.workspaces
        ):  # now that their sizes are known, they get places of their own
            del listed
            self.arena = arena(self.graph, self.places, self.workspaces)
            self.memory = torch.empty(self.arena.bytes, dtype=torch.uint8, device=self.device)
            listed = [self._ready(i, step, weights) for i, step in enumerate(self.graph.steps)]
        self.steps = listed
        weights.keep(self.graph.weights)
        self.inputs = [self.tensor(name) for name in self.graph.inputs]
        self.given_out = [self._given_out(out) for out in self.graph.outputs]
        self.recording: Recording | None = None
        self._synchronize()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _ready(self, i: int, step: Step, weights: Weights) -> Ready:
        if step.kind != OURS:
            return self._torch(step, weights)
        tensors = {
            name: self.tensor(x.name) if isinstance(x, Ref) else weights.packed(name, step.call, x)
            for name, x in step.operands.items()
        }
        out = self.tensor(step.output)
        backend = self._backend(step.call, out)
        backends.check_dtype(backend, step.call)
        call = replace(step.call, backend=backend)
        step = replace(step, call=call)

        def run() -> None:
            backends.runner(backend)(call, tensors, out)

        if backend not in OWN:
            return Ready(step, backend, tensors, out, run, [])
        require_countable(call)
        room = self.arena.buffers.get(workspace_of(i))
        with _Listing(self.memory, room and self.memory[room.offset : room.offset + room.bytes]) as listing:
            listed = launches(call, tensors, out, self.target) if viewable(call.op, out) else []
        if listing.copied or not listed:
            if self.carried is not None:  # such a step takes the ordinary path, in which launches are compiled
                self.carried.missed.update(map(key_of, listed))
            return Ready(step, backend, tensors, out, run, listed)
        if listing.taken:
            self.workspaces[i] = listing.taken
        listed = [one.dependent if isinstance(one, self.early) else one for one in listed]
        return Ready(step, backend, tensors, out, self._launches(listed, out).run, listed)

    def _launches(self, listed: list[Any], out: Tensor) -> Launches:
        kernels = self.carried.find(listed, hot.driver_for(out), self.index) if self.carried else None
        try:
            return Launches(listed, out, self.capture, kernels)
        except Unprepared as reason:
            self.carried.fault = str(reason)
            return Launches(listed, out, self.capture)

    def _backend(self, call: Call, out: Tensor) -> str:
        if self.carried is not None and not self.carried.fault and call.backend in backends.BACKENDS:
            return call.backend
        if self.target is not None:
            return self.backend or chosen(call, self.target.held)
        return backends.resolve(self.backend, out, call)

    def _torch(self, step: Step, weights: Weights) -> Ready:
        def given(x: Any) -> Any:
            return self.tensor(x.name) if isinstance(x, Ref) else weights(x) if isinstance(x, Weight) else x

        args, keywords = mapped(step.args, given), mapped(step.keywords, given)
        outs = [self.tensor(name) if name in self.places else None for name in step.outputs]
        form = out_form(step.target) if step.kind != COPY else None

        def run() -> None:
            if step.kind == COPY:
                _copy(outs[0], args, keywords, step.target)
            elif form is not None:
                form(*args, **keywords, out=outs[0])
            else:
                results = step.target(*args, **keywords)
                for out, x in zip(outs, results if isinstance(results, (tuple, list)) else [results]):
                    if x is not None and out is not None:
                        out.copy_(x)

        return Ready(step, "torch", {}, outs[0], run, [])

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """The module's result. One call at a time uses the arena; other threads wait, and other streams after them."""
        driver, stream = self.driver, 0
        with self.lock, self._on_device():
            alone = driver is not None and not driver.capturing()  # nobody records this call in a graph of his own
            if alone:
                stream = driver.stream(self.index)
                if stream != self.turns.stream:
                    self.turns.enter(stream, driver)
            self._fill(inputs)
            if alone and self.capture and not observed():
                if self.recording is None:
                    self.recording = self._recorded()
                    self._fill(inputs)
                self.recording.replay(stream, self.index, driver)
            else:
                self.run()
            result = [give() for give in self.given_out]
            if stream:
                self.turns.leave(driver)
        return self.graph.rebuild(result)

    def _on_device(self) -> Any:
        driver, index = self.driver, self.index
        return nullcontext() if driver is None or driver.current() == index else driver.on(index)

    @torch.no_grad()
    def run(self) -> None:
        """All steps, one after another; who observes ops is told of ours."""
        watched = observed()
        for ready in self.steps:
            seen = {}
            if watched and ready.step.kind == OURS:
                seen = {name: x.clone() if _meets(x, ready.out) else x for name, x in ready.tensors.items()}
            ready.run()
            if watched and ready.step.kind == OURS:
                with step_of(ready.step.path):
                    notify(ready.step.call, seen, ready.out)

    def _recorded(self) -> Recording:
        """A CUDA graph of all steps, after one run that compiles what is to be compiled. That run may write over the inputs."""
        side, recording = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.run()
            with torch.cuda.graph(recording, stream=side, capture_error_mode="thread_local"):
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        return Recording(recording, self.graph.steps)

    def _fill(self, inputs: Sequence[Tensor]) -> None:
        for own, x in zip(self.inputs, inputs):
            own.copy_(x)

    def _given_out(self, out: Any) -> Callable[[], Any]:
        """What makes an output of the caller's own of what lies in the arena: one allocation, and one copy."""
        if isinstance(out, Weight):
            return self.weights(out).clone
        if not isinstance(out, Ref):
            return lambda: out
        x, strides = self.tensor(out.name), self.graph.strides[out.name]
        if torch.empty_like(x, device="meta").stride() == strides:
            return x.clone
        return lambda: x.new_empty_strided(x.shape, strides).copy_(x)


def arch_of(device: torch.device) -> int:
    """The compute capability of a GPU as an int (90); 0 for a CPU."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def early(arch: int) -> tuple[type, ...]:
    """Which launches of a graph start before the kernels in front of them have ended, on GPUs of a compute capability.

    By default Triton's on Hopper, where it was measured, and those in CUDA C++ once a GPU has passed the tests with it (proven.py);
    with CONVATLAS_DEPENDENT=1 both, on later GPUs as well, with 0 neither.
    """
    asked = os.environ.get("CONVATLAS_DEPENDENT")
    if asked is None and arch // 10 == 9:
        return (Launch, CudaLaunch) if depends(arch) else (Launch,)
    return (Launch, CudaLaunch) if asked == "1" and arch >= 90 else ()


def _meets(x: Tensor, out: Tensor) -> bool:
    return x.data_ptr() == out.data_ptr()


def _copy(out: Tensor, args: tuple, keywords: dict[str, Any], target: Any) -> None:
    """out = target(x), which only moves elements. Where `out` can be seen in x's shape, no other memory is written."""
    x = args[0]
    try:
        seen = out.view(x.shape)
    except RuntimeError:
        seen, x = out, target(*args, **keywords)
    seen.copy_(x)


def view_of(memory: Tensor, offset: int, value: Any, place: Place) -> Tensor:
    """The value that lies at `place` of the buffer that begins `offset` bytes into the arena."""
    size = value.dtype.itemsize
    usable = memory[: memory.numel() // size * size] if memory.numel() % size else memory
    typed = usable.view(value.dtype)
    start = offset // size + place.start
    if not prod(value.shape):
        return typed[:0].view(value.shape) if 0 in value.shape else typed[:0]
    return typed.as_strided(value.shape, place.strides, start)
