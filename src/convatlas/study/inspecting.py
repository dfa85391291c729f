"""inspect: the code of a layer's kernels as they will run on a GPU that need not be here, and what its main loop does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.errors import ArgumentError, InputError
from convatlas.model.gpu import GPU, architectures, names
from convatlas.model.gpu import gpu as named
from convatlas.names import spelled
from convatlas.study.layer import Layer

if TYPE_CHECKING:
    from convatlas.codegen.banks import Buffer
    from convatlas.codegen.loops import Loop
    from convatlas.codegen.mix import Issue, Mix
    from convatlas.codegen.sass import Instruction
    from convatlas.model.work import Work

# The stages of compilation, and the backends that have each.
STAGES: dict[str, tuple[str, ...]] = {
    "triton": ("triton",), "ttir": ("triton",), "ttgir": ("triton",), "cuda": ("cuda",), "ptx": ("triton", "cuda"),
    "sass": ("triton", "cuda"),
}  # fmt: skip


@dataclass(frozen=True)
class Inspected:
    """One launch of a layer, as compiled.

    Attributes:
        work: kernel, config, grid, tile.
        expression: the kernel's name; of CUDA C++ the instantiation.
        registers, shared, stack: of a thread, of a block in bytes, of a thread in bytes.
        texts: the text of each stage by name, "sass" left out.
        code: its instructions.
        loop: the main loop; None for a kernel without one that multiplies.
        whole, main: what all of its instructions do, and those of the main loop.
        issue: issue slots against the pipe that multiplies; None without such a loop.
        buffers: operands in shared memory, and their bank conflicts.
        files: where the sources lie that `code` names, by the name that is shown.
    """

    work: Work
    expression: str
    registers: int
    shared: int
    stack: int
    texts: dict[str, str]
    code: Sequence[Instruction]
    loop: Loop | None
    whole: Mix
    main: Mix | None
    issue: Issue | None
    buffers: tuple[Buffer, ...]
    files: dict[str, Path]

    @property
    def spills(self) -> int:
        """Loads and stores of local memory."""
        return self.whole.kinds.get("spill", 0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: exact numbers, and every instruction."""
        body = frozenset(self.loop.body if self.loop else ())
        always = self.loop.always if self.loop else frozenset()
        return {
            "kernel": self.work.kernel, "expression": self.expression, "config": self.work.config, "grid": self.work.grid,
            "threads": self.work.threads, "tile": asdict(self.work.tile), "registers": self.registers,
            "shared_bytes": self.shared, "stack_bytes": self.stack, "spills": self.spills,
            "main_loop": None if self.loop is None else {
                "first_address": self.code[self.loop.body[0]].address, "last_address": self.code[self.loop.body[-1]].address,
                "instructions": len(body), "instructions_every_round": len(always), "mix": self.main.kinds,
            },
            "mix": self.whole.kinds, "accesses": [asdict(one) for one in self.whole.accesses],
            "issue": self.issue and asdict(self.issue), "shared_memory": [asdict(one) for one in self.buffers],
            "instructions": [
                {
                    "address": one.address, "predicate": one.predicate, "opcode": one.opcode, "operands": one.operands,
                    "target": one.target, "lines": [f"{shown(file)}:{line}" for file, line in one.lines],
                    "in_main_loop": i in body, "every_round": i in always,
                }
                for i, one in enumerate(self.code)
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """A layer's launches, as compiled for one architecture."""

    layer: Layer
    gpu: GPU
    dtype: str
    backend: str
    launches: tuple[Inspected, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "layer": self.layer.path, "op": self.layer.op, "spec": str(self.layer.spec),
            "epilogue": str(self.layer.epilogue or "none"), "arch": f"sm_{self.gpu.arch}", "chosen_for": self.gpu.name,
            "dtype": self.dtype, "backend": self.backend, "launches": [one.as_dict() for one in self.launches],
        }  # fmt: skip


def target_gpu(arch: str | None, gpu: str | None) -> GPU:
    """The GPU of that name, or the known one with the most SMs of an architecture such as "sm_90": its launch configs are taken.

    Raises InputError, with the nearest names, for an unknown one.
    """
    if gpu is not None:
        found = named(gpu)
        if arch is not None and folded_arch(arch) != found.arch:
            raise InputError(f"--arch {arch} with --gpu {gpu}, which is sm_{found.arch}: give one of them")
        return found
    wanted = folded_arch(arch or "sm_90")
    return max((one for one in map(named, names()) if one.arch == wanted), key=lambda one: one.sms)


def folded_arch(arch: str) -> int:
    """90 for "sm_90", "SM90", "sm_90a" or "90"."""
    known = [f"sm_{one}" for one in architectures()]
    plain = arch.casefold().removesuffix("a")
    text = plain if plain.startswith("sm") else f"sm_{plain}"
    return int(spelled(text, known, "architecture", f"known are {', '.join(known)}", InputError).removeprefix("sm_"))


def one_layer(
    net: Any, path: str | None, batch: int, shape: tuple[int, ...] | None = None, dtype: str = "float16"
) -> Layer:
    """The layer `path` of a net, or the layer that `net` itself writes.

    Of several ops of one module the first that computes most is meant. Raises NetError, with the nearest names, for an unknown
    one; ArgumentError where a layer is missing or is one too many.
    """
    from convatlas.study.mapping import layers_of
    from convatlas.study.written import is_layer

    _, layers, _, _ = layers_of(net, shape, batch, dtype)
    if isinstance(net, Layer) or (isinstance(net, str) and is_layer(net)):
        if path is not None:
            raise ArgumentError(f"{net!r} is a layer already, expected no second one, given {path!r}")
        return layers[0]
    names = list(dict.fromkeys(one.path or one.op for one in layers))
    if path is None:
        few = ", ".join(names[:3])
        raise ArgumentError(
            f"{net}: expected one of its {len(names)} layers as well, such as {few}; `convatlas map {net} --no-compile` lists them"
        )
    if path not in names:
        path = spelled(path, names, "layer", f"`convatlas map {net} --no-compile` lists those of {net}")
    return max((one for one in layers if (one.path or one.op) == path), key=lambda one: one.spec.flops)


def inspect(
    net: Any,
    layer: str | None = None,
    *,
    arch: str | None = None,
    gpu: str | GPU | None = None,
    dtype: str = "float16",
    backend: str = "auto",
    batch: int = 32,
    shape: tuple[int, ...] | None = None,
) -> Inspection:
    """The code of a layer's kernels as they would run.

    Args:
        net, layer: a net and the path of one of its layers, or a layer alone, as study.map takes them.
        arch: compute capability, such as "sm_90".
        gpu: a GPU instead, whose launch configs are taken.
        dtype: float16, bfloat16, tf32 or float32.
        backend: triton, cuda or auto, the one that measured quicker on an H100 on such layers.
        batch, shape: of the net's input.

    Raises InputError for an unknown GPU or architecture, NetError for an unknown net or layer, BackendError where the compiler
    refuses.
    """
    from convatlas.codegen import banks, mix, sass
    from convatlas.codegen.inventory import MODES
    from convatlas.codegen.resources import Task, code
    from convatlas.kernels.common.cuda.launch import CudaLaunch
    from convatlas.kernels.common.target import of
    from convatlas.kernels.common.work import works
    from convatlas.ops.automatic import preferred

    if dtype not in MODES:
        raise ArgumentError(f"dtype {dtype!r}, expected one of {', '.join(MODES)}")
    one = gpu if isinstance(gpu, GPU) else target_gpu(arch, gpu)
    chosen = one_layer(net, layer, batch, shape, dtype)
    element = "float32" if dtype == "tf32" else dtype
    call = replace(chosen.call, dtype=element)
    backend = preferred(call) if backend == "auto" else backend
    task = Task(replace(call, backend="meta"), dtype, of(one), backend)
    launches = task.launches
    found = []
    for launch, work, coded in zip(launches, works(call, launches, element), code(task)):
        used = coded.resources
        instructions = sass.listing(coded.cubin)[coded.function]
        loop = mix.main(instructions)
        inner = None if loop is None else mix.Mix.of([instructions[i] for i in loop.body])
        cuda = isinstance(launch, CudaLaunch)
        buffers = banks.of_cuda(launch) if cuda else banks.of_triton(coded.stages["ttgir"])
        texts, files = dict(coded.stages), sources(instructions)
        texts |= {"cuda": source_text(launch.source)} if cuda else {"triton": kernel_text(launch.kernel)}
        found.append(
            Inspected(
                work, coded.kernel, used.registers, used.shared, used.stack, texts, instructions, loop, mix.Mix.of(instructions),
                inner, loop and mix.issue(instructions, loop, work, one, dtype), tuple(buffers), files,
            )
        )  # fmt: skip
    return Inspection(chosen, one, dtype, backend, tuple(found))


def kernel_text(kernel: Any) -> str:
    """A Triton kernel's Python, with where it stands."""
    import inspect as python

    function = kernel.fn
    lines, first = python.getsourcelines(function)
    return f"# {shown(python.getsourcefile(function))}:{first}\n{''.join(lines)}"


def source_text(source: str) -> str:
    """A .cu file with our own headers in their place, as NVRTC gets it."""
    from convatlas.kernels.common.cuda.source import expand

    return expand(source)


def shown(file: str) -> str:
    """A source file as a reader knows it: below kernels/ where it is ours."""
    if (found := re.search(r"(?:^|/)(kernels/.+)$", file)) is not None:
        return found[1]
    own = _headers().get(Path(file).name)
    return f"kernels/{own}" if own else "/".join(Path(file).parts[-2:])


def _headers() -> dict[str, str]:
    """CUDA files by their name, which is all that NVRTC is told."""
    from convatlas.kernels.common.cuda.source import ROOT

    return {path.name: str(path.relative_to(ROOT)) for path in ROOT.rglob("*.cu*")}


def sources(code: Sequence[Instruction]) -> dict[str, Path]:
    """The files of ours that instructions come from, by the name that is shown."""
    from convatlas.kernels.common.cuda.source import ROOT

    names = {shown(file) for file in {file for one in code for file, _ in one.lines}}
    return {
        name: path
        for name in sorted(names)
        if name.startswith("kernels/") and (path := ROOT / name.removeprefix("kernels/")).is_file()
    }


def own_line(one: Instruction) -> tuple[str, int] | None:
    """(file as shown, line) of the innermost source line of ours that an instruction comes from."""
    for file, line in one.lines:
        if (name := shown(file)).startswith("kernels/"):
            return name, line
    return None
