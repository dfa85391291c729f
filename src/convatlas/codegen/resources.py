"""What the compiler makes of each launch of a call: registers, shared memory, spills, and if asked its code.

Kept on disk, compiled in worker processes.

Compiling a layer takes a second or two and needs no GPU. The results are kept in `cache_folder("codegen")`, a small JSON file a
call, under a hash of the call, the target and the text of all kernels, so that a changed kernel is compiled anew. Workers are
processes of their own without TRITON_INTERPRET: a process that interprets kernels can ask as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from convatlas.call import Call
from convatlas.errors import BackendError, ConvAtlasError
from convatlas.files import cache_folder, write_text
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.cuda.source import ROOT
from convatlas.kernels.common.launch import Launch
from convatlas.kernels.common.target import Target


@dataclass(frozen=True)
class Resources:
    """What one launch takes of an SM, by the compiler.

    Attributes:
        registers: of a thread.
        shared: bytes of a block, static and dynamic.
        stack: bytes of local memory of a thread: spills and indexed arrays.
    """

    registers: int
    shared: int
    stack: int


@dataclass(frozen=True)
class Coded:
    """One launch's code.

    Attributes:
        kernel: its name; of CUDA C++ the instantiation.
        resources: what it takes of an SM.
        stages: the text of each stage by name: ttir, ttgir, ptx of Triton; ptx of CUDA C++.
        cubin: the machine code, with line information.
        function: the name that it has in the cubin.
    """

    kernel: str
    resources: Resources
    stages: dict[str, str]
    cubin: bytes
    function: str


@dataclass(frozen=True)
class Task:
    """A call to be compiled for a target: by which backend, in which mode (codegen.inventory.MODES).

    config: a launch config in place of the one that is chosen (kernels/common/override.py).
    code: whether the code is wanted rather than the resources.
    """

    call: Call
    mode: str
    target: Target
    backend: str
    config: Any = None
    code: bool = False

    @property
    def launches(self) -> list[Any]:
        """The launches, to be looked at or compiled."""
        from convatlas.codegen.inventory import launches_of
        from convatlas.kernels.common.override import override

        with nullcontext() if self.config is None else override(self.config):
            return launches_of(self.call, self.mode, self.target, self.backend)

    @cached_property
    def key(self) -> str:
        """Equal for tasks of one result."""
        c = self.call
        parts = (
            c.op,
            repr(c.spec),
            repr(c.epilogue),
            repr(sorted(c.params.items())),
            self.mode,
            repr(self.target),
            self.backend,
            *([repr(self.config)] if self.config is not None else []),
            *(["code, resources"] if self.code else []),
        )
        return hashlib.sha256("\0".join((*parts, _sources())).encode()).hexdigest()[:32]

    @property
    def file(self) -> Path | None:
        """Where its resources are kept."""
        folder = cache_folder("codegen")
        return folder and folder / f"{self.key}.json"


@cache
def _sources() -> str:
    """A hash of all kernels and launchers, and of the compilers' versions."""
    digest = hashlib.sha256()
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in (".py", ".cu", ".cuh"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for package in ("triton", "nvidia-cuda-nvrtc"):
        try:
            digest.update(version(package).encode())
        except PackageNotFoundError:
            digest.update(b"none")
    return digest.hexdigest()


def threads(launch: Launch | CudaLaunch) -> int:
    """Threads of a block."""
    return launch.block if isinstance(launch, CudaLaunch) else 32 * launch.num_warps


def resources(
    tasks: Sequence[Task], progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> list[list[Resources] | str]:
    """For each task what its launches take, in their order, or why they could not be compiled, in one line."""
    return [
        record if isinstance(record, str) else [Resources(**r) for r in record] for record in _records(tasks, progress)
    ]


def code(task: Task) -> list[Coded]:
    """The code of a task's launches, in their order. Raises BackendError where they cannot be compiled."""
    (record,) = _records([replace(task, code=True)], lambda what, done, total: None)
    if isinstance(record, str):
        raise BackendError(record)
    return [Coded(**{**r, "cubin": b64decode(r["cubin"]), "resources": Resources(**r["resources"])}) for r in record]


def _records(tasks: Sequence[Task], progress: Callable[[str, int, int], None]) -> list[Any]:
    found = {task.key: _kept(task.file) for task in tasks}
    missing = list({task.key: task for task in tasks if found[task.key] is None}.values())
    for done, (key, record) in enumerate(_compiled(missing), 1):
        found[key] = record
        progress("compiling", done, len(missing))
    return [found[task.key] for task in tasks]


def _kept(path: Path | None) -> list[dict[str, int]] | None:
    try:
        return None if path is None else json.loads(path.read_text())
    except (OSError, ValueError):  # never compiled, or half a file of a disk that was full
        return None


def _compiled(tasks: list[Task]) -> Iterator[tuple[str, Any]]:
    """(key, record) of each task as it is done, by one worker a core."""
    if not tasks:
        return
    # Like layers share machine code: dealt out in runs, each is compiled once.
    tasks = sorted(
        tasks, key=lambda task: (task.backend, task.call.op, str(getattr(task.call.spec, "kind", "")), repr(task.call))
    )
    workers = min(os.cpu_count() or 1, len(tasks))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    running: list[subprocess.Popen] = []
    said: list[Any] = []
    with ExitStack() as files:
        for i in range(workers):
            given, errors = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            pickle.dump(tasks[i::workers], given)
            given.seek(0)
            command = [sys.executable, "-m", "convatlas.codegen.resources"]
            process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=errors, env=environment)
            files.callback(_ended, process)
            running.append(process)
            said.append(errors)
        for i, process in enumerate(running):
            answered = 0
            for line in process.stdout:
                yield tasks[i::workers][answered].key, json.loads(line)
                answered += 1
            if process.wait():
                said[i].seek(0)
                lines = said[i].read().decode(errors="replace").strip().splitlines()
                for task in tasks[i::workers][answered:]:
                    yield task.key, lines[-1] if lines else "the compiler's process died"


def _ended(process: subprocess.Popen) -> None:
    """Ends a worker that still runs, when whoever asked was interrupted."""
    if process.poll() is None:
        process.terminate()
    process.wait()
    process.stdout.close()


def _compile(task: Task) -> list[dict[str, Any]]:
    """The resources, or the code, of a task's launches, in this process."""
    of = _code if task.code else _launch
    return [asdict(of(launch, task.target.arch)) for launch in task.launches]


def _code(launch: Launch | CudaLaunch, arch: int) -> Coded:
    from convatlas.codegen import sass

    if isinstance(launch, CudaLaunch):
        from convatlas.codegen.nvrtc import assemble

        ptx, cubin, function = assemble(launch.source, launch.expression, arch)
        found = sass.read(cubin)[function]
        taken = Resources(found.registers, found.shared + launch.shared, found.stack)
        return Coded(launch.expression, taken, {"ptx": ptx}, b64encode(cubin).decode(), function)
    from convatlas.kernels.common.compiling import assemble

    made = assemble(launch, arch)
    stages = {name: made.asm[name] for name in ("ttir", "ttgir", "ptx")}
    (function, found), *_ = sass.read(made.asm["cubin"]).items()
    taken = Resources(found.registers, made.metadata.shared, found.stack)
    return Coded(launch.kernel.__name__, taken, stages, b64encode(made.asm["cubin"]).decode(), function)


def _launch(launch: Launch | CudaLaunch, arch: int) -> Resources:
    from convatlas.codegen.cross_compile import compile_launch
    from convatlas.kernels.common.compiling import key

    if isinstance(launch, CudaLaunch):
        from convatlas.codegen.nvrtc import compile_launches

        name = (launch.source, launch.expression, launch.shared), arch
        compile = lambda: compile_launches([launch], arch)[0]  # noqa: E731
    elif prod(launch.grid):
        name, compile = (key(launch), arch), lambda: compile_launch(launch, arch)
    else:
        return Resources(0, 0, 0)
    if name not in _taken:
        made = compile()
        _taken[name] = Resources(made.registers, made.shared, made.stack)
    return _taken[name]


_taken: dict[tuple, Resources] = {}


def main() -> None:
    """Compiles the pickled tasks on stdin; prints a line of JSON for each, a list of resources or the reason why not."""
    import torch

    torch.set_num_threads(1)
    for task in pickle.load(sys.stdin.buffer):
        try:
            record = _compile(task)
            if task.file is not None:
                write_text(task.file, json.dumps(record))
        except OSError:  # a cache that cannot be written costs time only
            pass
        except Exception as error:
            text = str(error) if isinstance(error, ConvAtlasError) else f"{type(error).__name__}: {error}"
            record = " ".join(text.split())[:300] or type(error).__name__
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
