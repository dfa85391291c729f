"""convatlas.compile: a module becomes a Plan, which computes what the module computes at inference.

plan = convatlas.compile(module, example)        y = plan(x)
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from os import PathLike
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import (
    ArgumentError,
    BackendError,
    ConvAtlasError,
    ConvAtlasWarning,
    DtypeError,
    InputError,
    ShapeError,
)
from convatlas.files import shown
from convatlas.kernels.common.precision import may_be_tf32
from convatlas.kernels.common.proven import held
from convatlas.kernels.common.target import of
from convatlas.model.gpu import GPU
from convatlas.model.gpu import gpu as known_gpu
from convatlas.ops.automatic import cuda_is_here, held_on
from convatlas.ops.observe import observed
from convatlas.plan.blocks import blocks, checked
from convatlas.plan.export import Traced, graph_of
from convatlas.plan.layers import PlanLayer, layers, report
from convatlas.plan.passes import fused
from convatlas.plan.program import Program, arch_of
from convatlas.plan.saved import architecture, as_reference, graph_from, kernels_of, read, save
from convatlas.plan.siblings import gpu_of, siblings
from convatlas.plan.steps import Graph
from convatlas.plan.watching import Watch

SHAPES = 8  # batch sizes that a plan keeps programs for


def compile(
    module: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    backend: str | None = None,
    graph: bool = True,
    fuse: str | Collection[str] = "auto",
    watch: bool = True,
) -> Plan:
    """A plan that computes what `module` computes at inference.

    Args:
        module: any torch.nn.Module in eval mode, of ours, torchvision's, timm's or your own. torch.export has to see through it:
            what it runs may not depend on the values of tensors.
        example: an input, or a tuple of inputs, of the shape, dtype and device that the plan is for. Later inputs may have another
            first dimension, the batch.
        backend: "triton", "cuda", "cudnn" or "numpy" for all steps of ours; None chooses for each as the ops do.
        graph: whether a plan on a GPU is captured in a CUDA graph, one a batch size.
        fuse: which blocks of layers become one kernel (docs/fusion.md): "auto" those whose kernels are proven on this GPU and
            that the time model predicts to gain; "predicted" those that it predicts to gain, proven or not; "all", or a set of
            names of patterns, wherever a kernel takes the shapes; "none".
        watch: whether a call looks at the module's weights, and packs them anew where one has changed. Without, a call costs the
            host less, and after a change it may compute with old weights, or with some of each, until Plan.refresh is called.

    Convolutions, norms, activations, pooling, additions, concatenations and linear layers become our kernels; every other op stays
    PyTorch's, in the same plan (Plan.report). Outputs have the module's dtypes and memory formats. Nothing has a gradient.

    Raises NetError for a module that torch.export cannot trace or that is in training mode, ArgumentError for an example that is no
    tensor and for an unknown `fuse`, BackendError for a backend that cannot run here.
    """
    plan = Plan(module, example, backend, graph, fuse, watch)
    plan.program(plan.example)
    return plan


@dataclass(frozen=True)
class _Input:
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        batch = f"N, {', '.join(map(str, self.shape[1:]))}" if len(self.shape) > 1 else ", ".join(map(str, self.shape))
        return f"({batch}) {str(self.dtype).removeprefix('torch.')} on {self.device}"


class Plan:
    """A network as steps on our kernels (convatlas.compile). Call it as the module.

    Threads may share a plan: one at a time runs, the others wait. While a plan is made, or meets a batch size for the first time,
    no other thread may call a module: torch.export listens to all of them. A changed weight is noticed at the next call
    (`refresh`), unless the plan was made with watch=False. The precision settings of torch (TF32) and torch.autocast hold as they
    are when the plan is called.
    """

    def __init__(
        self,
        module: nn.Module,
        example: Tensor | tuple[Tensor, ...],
        backend: str | None = None,
        graph: bool = True,
        fuse: str | Collection[str] = "auto",
        watch: bool = True,
    ) -> None:
        given = example if isinstance(example, tuple) else (example,)
        if not given or not all(isinstance(x, Tensor) for x in given):
            raise ArgumentError(f"compile: example {type(example).__name__}, expected a tensor or a tuple of tensors")
        self.module, self.backend, self.graph, self.name = module, backend, graph, type(module).__name__
        self.example, self.fuse, self.watch = given, checked(fuse), watch
        self.expected = tuple(_Input(tuple(x.shape), x.dtype, x.device) for x in given)
        self._kind = given[0].device.type
        self._programs: dict[Any, Program] = {}
        self._traced: dict[torch.dtype | None, list[Traced]] = {}  # by autocast's dtype
        self._lock = RLock()
        self._watch = Watch(module, ())

    def __call__(self, *inputs: Tensor) -> Any:
        """What the module returns for these inputs.

        Raises ShapeError, DtypeError or BackendError for inputs of another shape, dtype or device than the example's, and
        ArgumentError for one that requires a gradient while gradients are on.
        """
        try:
            program = self._programs.get(self._key(inputs))
        except AttributeError:  # no tensor
            program = None
        if program is not None and program.recording is not None and not observed() and not _wants_gradient(inputs):
            watch = self._watch  # it knows the weights that the program has now, or older ones
            result = program(inputs)
            if not watch.changed():  # looked at while the GPU works
                return result
        self._check(inputs)
        program = self.program(inputs)
        if program is None:
            with torch.no_grad():
                return self.module(*inputs)
        return program(inputs)

    def _check(self, inputs: tuple[Any, ...]) -> None:
        if len(inputs) != len(self.expected):
            raise ArgumentError(f"plan: {len(inputs)} inputs, expected {len(self.expected)}, as in the example")
        for x, expected in zip(inputs, self.expected):
            if not isinstance(x, Tensor):
                raise ArgumentError(f"plan: input {type(x).__name__}, expected a torch.Tensor")
            free = len(expected.shape) > 1
            if x.dim() != len(expected.shape) or tuple(x.shape)[free:] != expected.shape[free:]:
                raise ShapeError(f"plan: input of shape {tuple(x.shape)}, expected {expected}, as the example")
            if x.dtype != expected.dtype:
                raise DtypeError(f"plan: input of dtype {x.dtype}, expected {expected}, as the example")
            if x.device != expected.device:
                raise BackendError(f"plan: input on {x.device}, expected {expected}, as the example")
            if _wants_gradient((x,)):
                raise ArgumentError("plan: input requires a gradient, which a plan has not; expected torch.no_grad()")

    def program(self, inputs: tuple[Tensor, ...] | None = None) -> Program | None:
        """The program for inputs of these shapes (None: the example's), made where there is none yet.

        None where a plan already keeps as many as it may; the module itself then computes.
        """
        inputs = self.example if inputs is None else inputs
        key = self._key(inputs)
        with self._lock:
            if self._watch.changed():
                self.refresh()
            if key not in self._programs:
                if len(self._programs) >= SHAPES:
                    return None
                self._programs[key] = self._made(inputs, key[1])
                self._watch = self._watched()
            return self._programs[key]

    def _key(self, inputs: tuple[Tensor, ...]) -> tuple:
        """What a program depends on: shapes, autocast's dtype, TF32's settings; and what inputs of all calls have in common."""
        kind, cast = self._kind, None
        if kind != "meta" and torch.is_autocast_enabled(kind):
            cast = torch.get_autocast_dtype(kind)
        shapes, common = tuple([x.shape for x in inputs]), tuple([(x.dtype, x.device) for x in inputs])
        return shapes, cast, may_be_tf32("conv2d"), may_be_tf32("linear"), common

    def _made(self, inputs: tuple[Tensor, ...], cast: torch.dtype | None) -> Program:
        device = inputs[0].device
        back = held_on(device.index) if device.type == "cuda" else None
        without = self.backend is None and back is not None and not cuda_is_here()  # blocks have no other kernels
        graph = self._fused(inputs, gpu_of(device), back, "none" if without else self.fuse)
        return Program(graph, device, self._state, self.backend, self.graph)

    def _fused(self, inputs: tuple[Tensor, ...], on: GPU, held: Collection[str] | None, fuse: Any) -> Graph:
        cast = self._key(inputs)[1]
        graph = fused(graph_of(self.module, tuple(x.detach() for x in inputs), self._traced.setdefault(cast, [])))
        siblings(graph, on, self.backend)
        return blocks(graph, on, held, self.backend, fuse)

    def _made_for(self, on: GPU, inputs: tuple[Tensor, ...]) -> Program:
        """The program of a GPU that is not here: it lists that GPU's launches, and does not run."""
        target = replace(of(on), held=held(on.arch, None))
        graph = self._fused(inputs, on, target.held, self.fuse)
        return Program(graph, inputs[0].device, self._state, self.backend, self.graph, target=target)

    def _state(self, name: str) -> Tensor:
        """A parameter or buffer of the module."""
        path, _, last = name.rpartition(".")
        return getattr(self.module.get_submodule(path), last)

    def _watched(self) -> Watch:
        used = (weight for program in self._programs.values() for weight in program.graph.weights)
        return Watch(self.module, {source for weight in used for source in weight.sources}, self.watch)

    def refresh(self) -> None:
        """Computes all weights anew from the module's.

        A call does so by itself where a parameter or buffer is another tensor, has another address, or was written in place, and
        makes the plan anew where another module stands in the place of a part. What PyTorch counts no version for, a write through
        `.data` or under torch.inference_mode, has to be told by this method; of a plan made with watch=False, every change.
        """
        with self._lock:
            if not self._watch.fits():
                self._programs.clear()
                self._traced.clear()
            for program in self._programs.values():
                with program.lock:
                    program.pack(self._state)
            self._watch = self._watched()

    @property
    def layers(self) -> list[PlanLayer]:
        """What runs for the example's shapes, in order."""
        return layers(self._example())

    def report(self) -> str:
        """Text: launches, memory, and which ops stayed PyTorch's with their share of the FLOPs."""
        return report(self.name, self._example())

    def save(self, path: str | PathLike[str], *, kernels: bool = False, gpu: str | None = None) -> None:
        """Writes the plan to a file, with its weights as they are now; convatlas.load_plan reads it.

        The file holds a program for each batch size that the plan has met. It is safetensors, and the plan itself is JSON in its
        metadata, with a hash of every byte.

        Args:
            path: the file.
            kernels: whether the compiled kernels travel with it, so that the process that loads it compiles nothing. They are
                compiled here and now, which takes a second or two each where no cache has them.
            gpu: a GPU that is not here, by a name of `convatlas map --gpus` such as "h100-sxm", that the file is for; None is the
                device of the example. A plan on a CPU can be saved for a GPU: its programs are made anew for the batch sizes that
                it has met outside of autocast, and with `kernels` Triton and NVRTC (cuda-core) compile for that GPU.

        Raises InputError where the file cannot be written, where an op has an argument that no file can hold, and for an unknown
        GPU; ArgumentError for kernels of a CPU, and for another GPU where the plan has no module or is on a GPU itself;
        BackendError where a kernel cannot be compiled here, as in a process that interprets Triton's.
        """
        with self._lock:
            self.program()
            made, arch, example = self._programs, arch_of(self.example[0].device), self.example
            if gpu is not None:
                on = known_gpu(gpu)
                made, arch = self._programs_for(on), on.arch
            elif kernels and not arch:
                raise ArgumentError(
                    "plan.save: kernels of a plan on a CPU, expected gpu=NAME, the GPU that they are for"
                )
            about = {
                "name": self.name,
                "architecture": f"sm_{arch}" if gpu else architecture(example[0].device),
                "backend": self.backend,
                "graph": self.graph,
                "dtypes": [str(x.dtype).removeprefix("torch.") for x in example],
                "example": [list(x.shape) for x in example],
            }
            programs = {(shapes, cast): program for (shapes, cast, *_), program in made.items()}
            save(path, programs, about, arch if kernels else None)

    def _programs_for(self, on: GPU) -> dict[Any, Program]:
        device = self.example[0].device
        if device.type != "cpu" or self.backend not in (None, "triton", "cuda"):
            where = f'{device}, backend "{self.backend}"'
            raise ArgumentError(f"plan.save: a plan on {where} for {on.name}, expected one of our kernels' on the CPU")
        kept = [key for key in self._programs if key[1] is None] or [self._key(self.example)]
        given = {key: [x.new_zeros(shape) for x, shape in zip(self.example, key[0])] for key in kept}
        return {key: self._made_for(on, tuple(inputs)) for key, inputs in given.items()}

    def _example(self) -> Program:
        program = self.program()
        if program is None:  # the settings changed, and no further program may be kept
            program = next(iter(self._programs.values()))
        return program


def _wants_gradient(inputs: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


class LoadedPlan(Plan):
    """A plan from a file: it has programs for the batch sizes that were saved, and no module."""

    def __init__(self, path: str | PathLike[str], kernels: bool = True, reference: torch.dtype | None = None) -> None:
        document, tensors = read(path)
        if reference is not None:
            document, tensors = as_reference(document, tensors, reference)
        self._file, self.digest = path, document["sha256"]
        cuda = document["architecture"].startswith("sm_")
        device = torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")
        if cuda and device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        if (here := architecture(device)) != document["architecture"]:
            raise InputError(f"plan {shown(path)}: made for {document['architecture']}, and here is {here}")
        given = zip(document["example"], document["dtypes"])
        example = tuple(torch.zeros(shape, dtype=getattr(torch, dtype), device=device) for shape, dtype in given)
        super().__init__(nn.Identity(), example, document["backend"], document["graph"])
        self.name, self.path = document["name"], shown(path)
        self._graphs, self.carried = {}, None
        try:
            self.carried = kernels_of(document, tensors) if kernels else None
            for entry in document["programs"]:
                cast = None if entry["cast"] is None else getattr(torch, entry["cast"])
                self._graphs[tuple(map(tuple, entry["shapes"])), cast] = graph_from(entry, tensors, device)
        except InputError as error:
            raise InputError(f"plan {self.path}: {error}") from None

    def program(self, inputs: tuple[Tensor, ...] | None = None) -> Program:
        """The program for inputs of these shapes. Where the plan keeps as many as it may, it makes room, since it has no module."""
        with self._lock:
            found = super().program(inputs)
            if found is None:
                self._programs.clear()
                found = super().program(inputs)
            return found

    def _made(self, inputs: tuple[Tensor, ...], cast: torch.dtype | None) -> Program:
        shapes = tuple(tuple(x.shape) for x in inputs)
        if (shapes, cast) not in self._graphs:
            known = ", ".join("x".join(map(str, s[0])) + (f" by autocast to {c}" if c else "") for s, c in self._graphs)
            given = "x".join(map(str, shapes[0])) + (f" by autocast to {cast}" if cast else "")
            raise ShapeError(f"plan {self.path}: input of {given}, expected one that was saved: {known}")
        graph, places = self._graphs[shapes, cast]
        device = inputs[0].device
        return Program(graph, device, self._state, self.backend, self.graph, places, self.carried)

    def _programs_for(self, on: GPU) -> dict[Any, Program]:
        raise ArgumentError(f"plan {self.path}: has no module to make a plan for {on.name} of")

    def reference(self, dtype: torch.dtype) -> LoadedPlan:
        """The same steps by the NumPy backend on the CPU, in `dtype` where they are in the plan's own."""
        return LoadedPlan(self._file, kernels=False, reference=dtype)

    def report(self) -> str:
        """As of any plan; and what became of the kernels that came with the file."""
        return super().report() + (f"\n{self.carried}" if self.carried else "")

    def refresh(self) -> None:
        """Raises ArgumentError: the weights are those of the file."""
        raise ArgumentError(
            f"plan {self.path}: has no module to take weights from, expected a plan that convatlas.compile made"
        )


def load_plan(path: str | PathLike[str], *, kernels: bool = True) -> LoadedPlan:
    """The plan that plan.save wrote to a file. Nothing is unpickled, and no op but PyTorch's own and ours is run.

    It runs inputs of the shapes that were saved, on a GPU of the same architecture (or on the CPU, if it was made there).

    Args:
        path: the file.
        kernels: whether compiled kernels that came with it are launched, so that nothing is compiled. They are machine code for the
            GPU, which only somebody whom you trust should have written; False compiles all anew. Kernels of another Triton or of
            other sources than the ones here are not used, nor are those that the driver refuses; a warning and `report` say so.

    Raises InputError, one line, for a file that is missing, damaged, none of ours, of a newer format or of another architecture.
    """
    try:
        plan = LoadedPlan(path, kernels)
        plan.program(plan.example)
        if plan.carried is not None and (plan.carried.fault or plan.carried.missed):
            warnings.warn(f"plan {plan.path}: {plan.carried}", ConvAtlasWarning, stacklevel=2)
    except ConvAtlasError:
        raise
    except Exception as error:  # what a document that is none of ours makes the parts raise is no closed list
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"plan {shown(path)}: cannot be read as a plan: {line:.200}") from error
    return plan
