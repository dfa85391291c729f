"""Runs a CudaLaunch on the CPU: the same .cu file, compiled by g++ through host.hpp at first use, cached, and called."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from convatlas.errors import BackendError, ConvAtlasWarning
from convatlas.files import cache_folder, own_folder, whole
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.cuda.source import ROOT, expand, parameters

# -O2 without the vectoriser's patience for cost models: a warp's product is loops of constant bounds. Kernels read shared memory as
# floats that were written as vectors, hence no strict aliasing; longjmp between fibers is what _FORTIFY_SOURCE forbids.
FLAGS = (
    "-std=c++20", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-march=native", "-shared", "-fPIC", "-pthread",
    "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w",
)  # fmt: skip
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1")
WATCH = ("-fsanitize=thread", "-DWATCHED", "-fno-omit-frame-pointer", "-g1")
DIGEST = 32  # bytes of a SHA-256
TOGETHER = 6  # blocks that wait for one another: a CPU needs no more of them, and each has a stack a thread
ORDERS = {"first": 0, "last": -1, "turns": -2, "starved": -3}  # host.hpp's Order

WRAPPER = """
#include "{source}"
extern "C" __attribute__((visibility("default"))) int convatlas_run(const void *params, const unsigned *grid, unsigned block,
        size_t shared, int barriers, int reversed, int together, int order, int workers, const size_t *ranges, int count,
        char *message, size_t room) {{
    host::Launch launch{{}};
    launch.body = [](const void *p) {{ {expression}(*static_cast<const {params} *>(p)); }};
    launch.params = params, launch.grid = dim3{{grid[0], grid[1], grid[2]}}, launch.block = block, launch.shared = shared;
    launch.fibers = barriers, launch.reversed = reversed, launch.together = together, launch.order = order;
    launch.message = message, launch.room = room;
    static_assert(sizeof({params}) == {size}, "a parameter struct of 8-byte fields");
    return host::run(launch, workers, ranges, count);
}}
"""


@cache
def compiler() -> tuple[str, ...]:
    """The C++ compiler and its first arguments: $CXX, else g++. Raises BackendError where there is none."""
    given = os.environ.get("CXX", "")
    try:
        words = tuple(shlex.split(given)) or ("g++",)
    except ValueError as error:
        raise BackendError(f"CXX={given!r}: {error}, expected a C++ compiler") from None
    if shutil.which(words[0]) is None:
        raise BackendError(
            f'backend "cuda" on a CPU compiles its kernels with {words[0]}, which is not here: apt-get install g++ '
            '(or set CXX), or use "triton" or "numpy"'
        )
    return words


@cache
def _version() -> str:
    """The compiler's version. Raises BackendError where there is no compiler."""
    return _run([*compiler(), "--version"]).stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BackendError(f"{command[0]} cannot be run: {error.strerror}, expected a C++ compiler (CXX)") from None


@cache
def _machine() -> str:
    """The CPU's features: what -march=native depends on."""
    try:
        features = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))
        ]
    except OSError:
        features = []
    return "\n".join([platform.machine(), *features[:1]])


def sanitized() -> bool:
    """Whether kernels are built with address sanitizer: CONVATLAS_SANITIZE=1, and the sanitizer's library was loaded first."""
    return os.environ.get("CONVATLAS_SANITIZE") == "1"


def _checks() -> tuple[str, ...]:
    """Flags of a build that looks for faults: address sanitizer's, or with CONVATLAS_RACES=1 those that find races (race.hpp)."""
    return SANITIZE if sanitized() else WATCH if os.environ.get("CONVATLAS_RACES") == "1" else ()


def folder() -> Path:
    """Where built kernels are kept: $CONVATLAS_CACHE, else the user's cache folder, else, without a home, one of this process."""
    return cache_folder("cuda-host") or own_folder()


def build(launch: CudaLaunch, checks: tuple[str, ...] = (), anew: bool = False) -> Path:
    """The library of one instantiation, built if none is kept that is whole, or where `anew` asks for it.

    checks: flags of a build that looks for faults, SANITIZE or WATCH.

    A library is kept with its SHA-256 behind it, since a loader would map a damaged one, and the process would die of it. Where
    there is no compiler any more, a library that any compiler built of this source for this CPU is taken. A folder that cannot
    be written to is no error: the library is then deleted with the process, and a ConvAtlasWarning says so.

    Raises BackendError with the compiler's message, or where there is none.
    """
    params, fields = parameters(launch.source, launch.kernel)
    text = WRAPPER.format(source=launch.source, expression=launch.expression, params=params, size=8 * len(fields))
    flags = (*FLAGS, *checks)
    if platform.machine() == "x86_64":
        flags += ("-mtls-dialect=gnu2",)  # thread-locals of a loaded library without a call for each access
    name = f"{launch.kernel}-{_key(expand(launch.source, host=True), text, *flags, _machine())}"
    try:
        path = folder() / f"{name}-{_key(_version())}.so"
    except BackendError:
        kept = [path for path in sorted(folder().glob(f"{name}-*.so")) if _is_whole(path)]
        if anew or not kept:
            raise
        return kept[0]
    return path if not anew and _is_whole(path) else _keep(path, _compiled(launch, text, flags))


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _is_whole(library: Path) -> bool:
    """Whether the file ends in the SHA-256 of what is before it."""
    try:
        data = library.read_bytes()
    except OSError:
        return False
    return data[-DIGEST:] == hashlib.sha256(data[:-DIGEST]).digest()


def _compiled(launch: CudaLaunch, text: str, flags: tuple[str, ...]) -> bytes:
    try:
        with tempfile.TemporaryDirectory(prefix="convatlas-") as scratch:
            code, made = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
            code.write_text(text)
            commands = [[*flags, f"-I{ROOT}", str(code), "-o", str(made)]]
            if "-DWATCHED" in flags:  # linked without the sanitizer, whose functions race.hpp has in their place
                commands = [
                    [*flags, f"-I{ROOT}", "-c", str(code), "-o", f"{made}.o"],
                    ["-shared", f"{made}.o", "-o", str(made)],
                ]
            for command in commands:
                done = _run([*compiler(), *command])
                if done.returncode:
                    raise BackendError(f"{launch.expression} does not compile for the CPU:\n{done.stderr[-4000:]}")
            return made.read_bytes()
    except OSError as error:
        raise BackendError(f"{launch.expression} cannot be built for the CPU: {error}") from None


def _keep(path: Path, library: bytes) -> Path:
    """Writes it with its SHA-256, whole or not at all: processes that build the same kernel at once do not see half a file."""
    library += hashlib.sha256(library).digest()
    try:
        with whole(path) as temporary:
            temporary.write_bytes(library)
        return path
    except OSError as error:
        warnings.warn(
            f"kernels built for the CPU cannot be kept in {path.parent} ({(error.strerror or str(error)).lower()}) and are built "
            "anew by every process; set CONVATLAS_CACHE to a folder for them",
            ConvAtlasWarning,
            stacklevel=2,
        )
    with whole(own_folder() / path.name) as temporary:
        temporary.write_bytes(library)
    return own_folder() / path.name


@cache
def _function(
    source: str, kernel: str, template: tuple[str, ...], checks: tuple[str, ...]
) -> tuple[ctypes._CFuncPtr, Path]:
    launch = CudaLaunch(source, kernel, template, (), 0, {})
    for anew in (False, True):
        path = build(launch, checks, anew)
        try:
            return ctypes.CDLL(str(path)).convatlas_run, path
        except (OSError, AttributeError) as error:
            reason = error
    raise BackendError(
        f"{launch.expression}, built for the CPU, cannot be loaded: {reason}; CONVATLAS_CACHE sets another folder"
    )


def run(launch: CudaLaunch, device: torch.device | None = None, reverse: bool | None = None) -> None:
    """Runs the launch on the CPU, blocks on torch's number of threads; blocks that wait for one another by turns on one.

    reverse: run the threads of a block in descending order, so that a race between them gives another result; None asks
    CONVATLAS_REVERSE. CONVATLAS_ORDER says whose turn it is among blocks that wait for one another: one of ORDERS, or a positive
    number, the seed of a random order; CONVATLAS_BLOCKS how many there are at most.

    Raises BackendError for what a GPU would do silently wrong (see host.hpp).
    """
    function, path = _function(launch.source, launch.kernel, launch.template, _checks())
    if reverse is None:
        reverse = os.environ.get("CONVATLAS_REVERSE") == "1"
    order = os.environ.get("CONVATLAS_ORDER", "turns")
    blocks = launch.grid
    if launch.together:
        blocks = (min(launch.grid[0], int(os.environ.get("CONVATLAS_BLOCKS", TOGETHER))),)
    grid = (ctypes.c_uint * 3)(*blocks, *(1,) * (3 - len(blocks)))
    tensors = {x.data_ptr(): _reach(x) for x in launch.arguments.values() if isinstance(x, Tensor) and x.numel()}
    ranges = (ctypes.c_size_t * (2 * len(tensors)))(*(n for pair in tensors.items() for n in pair))
    message = ctypes.create_string_buffer(400)
    packed = launch.packed
    failed = function(
        ctypes.c_char_p(packed), grid, ctypes.c_uint(launch.block), ctypes.c_size_t(launch.shared), int(launch.barriers),
        int(reverse), int(launch.together), ORDERS[order] if order in ORDERS else int(order), torch.get_num_threads(),
        ranges, len(tensors), message, ctypes.c_size_t(len(message)),
    )  # fmt: skip
    if failed:
        raise BackendError(f"{launch.expression}: {_located(message.value.decode(), path)}")


def _reach(x: Tensor) -> int:
    """Bytes from a tensor's first element to its last."""
    return (1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride()))) * x.element_size()


def _located(message: str, library: Path) -> str:
    """The message with the lines of the source in the place of an address in the library, where binutils are here."""
    found = re.search(r", code (0x[0-9a-f]+)", message)
    if not found or not shutil.which("addr2line"):
        return message
    lines = _run(["addr2line", "-i", "-e", str(library), found[1]]).stdout.split("\n")
    places = [Path(line.split(" ")[0]).name for line in lines if line and not line.startswith("?")]
    return message.replace(found[0], f", at {' < '.join(places)}") if places else message
