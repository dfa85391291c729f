"""Compiled kernels that travel with a plan: the machine code of its launches, found by what a launch is, launched by no compiler.

A launch's key is a hash of all that the compiler is told of it: the kernel, the types and divisibilities of its arguments, its
constants and options. A file holds a record a key (what a launch needs besides its arguments) and each cubin once, by its SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import Any

import torch

from convatlas.errors import InputError
from convatlas.kernels.common import proven
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.driver import Unprepared
from convatlas.kernels.common.launch import Launch
from convatlas.kernels.common.parameters import Loaded, launched_as
from convatlas.ops import hot

Record = dict[str, Any]


def key_of(launch: Launch | CudaLaunch) -> str:
    """Equal for two launches of one machine code, in any process."""
    if isinstance(launch, CudaLaunch):
        parts: Any = ("cuda", launch.source, launch.expression, launch.early)
    else:
        from convatlas.kernels.common.compiling import key

        parts = ("triton", key(launch))
    return sha256(repr(parts).encode()).hexdigest()[:32]


def made_by() -> dict[str, str]:
    """What a file's kernels must agree with here: Triton, which chose how a kernel takes its arguments, and the kernels' text."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return {"triton": triton, "sources": proven.sources()}


def compiled(launches: Iterable[Launch | CudaLaunch], arch: int) -> tuple[dict[str, Record], dict[str, bytes]]:
    """(records by key, cubins by hash) of launches, compiled for compute capability `arch` (80, 90, ...); no GPU is needed.

    A kernel that needs more than a plain launch (scratch memory, clusters) is left out. Raises BackendError where Triton interprets
    kernels in this process, and where no NVRTC is found.
    """
    wanted = {key_of(launch): launch for launch in launches if prod(launch.grid)}
    records: dict[str, Record] = {}
    code: dict[str, bytes] = {}

    def add(key: str, cubin: bytes, function: str, **more: Any) -> None:
        name = sha256(cubin).hexdigest()
        code[name] = cubin
        records[key] = {"code": name, "function": function, **more}

    sources: dict[tuple[str, bool], dict[str, str]] = {}
    for key, launch in wanted.items():
        if isinstance(launch, CudaLaunch):
            sources.setdefault((launch.source, launch.early), {})[key] = launch.expression
            continue
        from convatlas.kernels.common.compiling import assemble

        kernel = assemble(launch, arch)
        try:
            block, shared, signature, maps, dependent = launched_as(kernel)
        except Unprepared:
            continue
        taken = {"block": block, "shared": shared, "signature": signature, "maps": maps, "dependent": dependent}
        add(key, kernel.asm["cubin"], kernel.metadata.name, **taken)
    for (source, early), expressions in sources.items():
        for key, (cubin, function) in zip(expressions, _nvrtc(source, list(expressions.values()), arch, early)):
            add(key, cubin, function)
    return records, code


def _nvrtc(source: str, expressions: list[str], arch: int, early: bool) -> list[tuple[bytes, str]]:
    """(cubin, mangled name) of each instantiation: by CuPy on a machine with a GPU, whose cache has them, else by cuda-core."""
    if torch.cuda.is_available():
        from convatlas.kernels.common.cuda.gpu import kept

        found = [kept(source, expression, str(arch), early) for expression in expressions]
        return [(path.read_bytes(), function) for path, function in found]
    from convatlas.kernels.common.cuda.nvrtc import compiled as by_core

    _, made, mangled = by_core(source, expressions, arch, early)
    return [(made.code, mangled[expression]) for expression in expressions]


class Carried:
    """The kernels that came with a plan.

    Attributes:
        used, missed: keys of launches that were found here, and that were not, so that they are compiled.
        fault: why none is used, in one line; "" where they are.
    """

    def __init__(self, records: dict[str, Record], code: dict[str, bytes], made: dict[str, str]) -> None:
        """Raises InputError for machine code that is not what its name says, and for a record that names none."""
        for name, cubin in code.items():
            if sha256(cubin).hexdigest() != name:
                raise InputError(f"kernel {name:.12} is damaged")
        for key, record in records.items():
            if record["code"] not in code:
                raise InputError(f"kernel {key:.12} has no machine code")
        self.records, self.code, self.made = records, code, made
        self.used: set[str] = set()
        self.missed: set[str] = set()
        here = made_by()
        self.fault = ""
        if made["triton"] != here["triton"]:
            self.fault = f"made by Triton {made['triton']}, and here is {here['triton']}"
        elif made["sources"] != here["sources"]:
            self.fault = "made from other kernels than this convatlas has"

    def find(self, launches: list[Launch | CudaLaunch], driver: Any, device: int) -> list[Loaded] | None:
        """The kernels of a step's launches in the memory of GPU number `device`; None where one is not among them."""
        if self.fault:
            return None
        if driver is None:
            self.fault = f"launches are not prepared: {hot.state().fault or 'no driver'}"
            return None
        keys = list(map(key_of, launches))
        if missing := {key for key in keys if key not in self.records}:
            self.missed |= missing
            return None
        try:
            found = [self._loaded(self.records[key], launch, driver, device) for key, launch in zip(keys, launches)]
        except Unprepared as reason:
            self.fault = str(reason)
            return None
        self.used |= set(keys)
        return found

    def _loaded(self, record: Record, launch: Launch | CudaLaunch, driver: Any, device: int) -> Loaded:
        cuda = isinstance(launch, CudaLaunch)
        block, shared = (launch.block, launch.shared) if cuda else (record["block"], record["shared"])
        function = driver.load(self.code[record["code"]], record["function"], shared, device)
        if cuda:
            return Loaded(function, block, shared, dependent=launch.early)
        maps = tuple(record["maps"])
        return Loaded(function, block, shared, record["signature"], maps, None, record["dependent"])

    def __str__(self) -> str:
        """What became of them, in one line."""
        if self.fault:
            return f"kernels of the file: not used, {self.fault}; they are compiled here"
        compiled = f"; {len(self.missed)} that it has not are compiled here" if self.missed else ""
        return f"kernels of the file: {len(self.used)} launched without a compiler{compiled}"
