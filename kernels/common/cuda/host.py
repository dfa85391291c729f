"""Runs a CudaLaunch on the CPU: the same .cu file, compiled by g++ through host.hpp at first use, cached, and called."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from convatlas.errors import BackendError
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.cuda.source import ROOT, expand, parameters

# -O2 without the vectoriser's patience for cost models: a warp's product is loops of constant bounds. Kernels read shared memory as
# floats that were written as vectors, hence no strict aliasing; longjmp between fibers is what _FORTIFY_SOURCE forbids.
FLAGS = (
    "-std=c++20", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-march=native", "-shared", "-fPIC", "-pthread",
    "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w",
)  # fmt: skip
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1")

WRAPPER = """
#include "{source}"
extern "C" __attribute__((visibility("default"))) int convatlas_run(const void *params, const unsigned *grid, unsigned block,
        size_t shared, int barriers, int reversed, int workers, char *message, size_t room) {{
    host::Launch launch{{}};
    launch.body = [](const void *p) {{ {expression}(*static_cast<const {params} *>(p)); }};
    launch.params = params, launch.grid = dim3{{grid[0], grid[1], grid[2]}}, launch.block = block, launch.shared = shared;
    launch.fibers = barriers, launch.reversed = reversed, launch.message = message, launch.room = room;
    static_assert(sizeof({params}) == {size}, "a parameter struct of 8-byte fields");
    return host::run(launch, workers);
}}
"""


@cache
def compiler() -> str:
    """The C++ compiler: $CXX, else g++. Raises BackendError where there is none."""
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(shlex.split(name)[0])
    if found is None:
        raise BackendError(
            f'backend "cuda" on a CPU compiles its kernels with {name}, which is not here: apt-get install g++ '
            '(or set CXX), or use "triton" or "numpy"'
        )
    return name


@cache
def _machine() -> str:
    """The compiler's version and the CPU's features: what -march=native depends on."""
    version = subprocess.run([*shlex.split(compiler()), "--version"], capture_output=True, text=True).stdout
    try:
        features = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))
        ]
    except OSError:
        features = []
    return "\n".join([version, platform.machine(), *features[:1]])


def sanitized() -> bool:
    """Whether kernels are built with address sanitizer: CONVATLAS_SANITIZE=1, and the sanitizer's library was loaded first."""
    return os.environ.get("CONVATLAS_SANITIZE") == "1"


def folder() -> Path:
    """Where built kernels are kept: $CONVATLAS_CACHE, else the user's cache folder."""
    given = os.environ.get("CONVATLAS_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convatlas"
    return base / "cuda-host"


def build(launch: CudaLaunch, sanitize: bool = False) -> Path:
    """The library of one instantiation, built if it is not cached yet. Raises BackendError with the compiler's message."""
    params, fields = parameters(launch.source, launch.kernel)
    text = WRAPPER.format(source=launch.source, expression=launch.expression, params=params, size=8 * len(fields))
    flags = (*FLAGS, *(SANITIZE if sanitize else ()))
    if platform.machine() == "x86_64":
        flags += ("-mtls-dialect=gnu2",)  # thread-locals of a loaded library without a call for each access
    key = "\0".join([expand(launch.source, host=True), text, *flags, _machine()])
    path = folder() / f"{launch.kernel}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Built under a name of its own and then renamed: processes that build the same kernel at once do not see half a file.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        code, made = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
        code.write_text(text)
        command = [*shlex.split(compiler()), *flags, f"-I{ROOT}", str(code), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BackendError(f"{launch.expression} does not compile for the CPU:\n{done.stderr[-4000:]}")
        os.replace(made, path)
    return path


@cache
def _function(source: str, kernel: str, template: tuple[str, ...], sanitize: bool) -> ctypes._CFuncPtr:
    path = build(CudaLaunch(source, kernel, template, (), 0, {}), sanitize)
    return ctypes.CDLL(str(path)).convatlas_run


def run(launch: CudaLaunch, device: torch.device | None = None, reverse: bool | None = None) -> None:
    """Runs the launch on the CPU, blocks on torch's number of threads.

    reverse: the threads of a block in descending order, so that a race between them gives another result; None asks
    CONVATLAS_REVERSE. Raises BackendError for what a GPU would do silently wrong (see host.hpp).
    """
    function = _function(launch.source, launch.kernel, launch.template, sanitized())
    if reverse is None:
        reverse = os.environ.get("CONVATLAS_REVERSE") == "1"
    grid = (ctypes.c_uint * 3)(*launch.grid, *(1,) * (3 - len(launch.grid)))
    message = ctypes.create_string_buffer(400)
    packed = launch.packed
    failed = function(
        ctypes.c_char_p(packed), grid, ctypes.c_uint(launch.block), ctypes.c_size_t(launch.shared), int(launch.barriers),
        int(reverse), torch.get_num_threads(), message, ctypes.c_size_t(len(message)),
    )  # fmt: skip
    if failed:
        raise BackendError(f"{launch.expression}: {message.value.decode()}")
