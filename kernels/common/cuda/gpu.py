"""Runs a CudaLaunch on a GPU: NVRTC through CuPy, on torch's current stream and the tensors' device, without synchronisation."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convatlas.errors import BackendError
from convatlas.files import cache_folder, own_folder, whole
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.cuda.source import expand
from convatlas.kernels.common.driver import TILE, UNASKED, cuda_driver
from convatlas.kernels.common.prepared import Fixed

OPTIONS = ("--std=c++17",)
EARLY = "DEPENDENT"  # the macro with which begin() of device.cuh waits


@cache
def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            f'backend "cuda" needs CuPy ({error}): pip install "convatlas[cuda]", or pip install cupy-cuda13x'
        ) from None
    return cupy


class Kernel:
    """A compiled kernel of one device, and the shared memory that its blocks have been allowed.

    One object a kernel: the limit is an attribute of the driver's function, so a second object that asked for less would take away
    what the first was given.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.allowed = UNASKED
        self.carved = False

    def ready(self, shared: int) -> Any:
        """The function, ready to take `shared` bytes a block."""
        if shared > self.allowed:
            self.function.max_dynamic_shared_size_bytes = self.allowed = shared
        if shared > TILE and not self.carved:
            self.function.preferred_shared_memory_carveout = 100
            self.carved = True
        return self.function


@cache
def kernel(source: str, expression: str, device: int, early: bool = False) -> Kernel:
    """The compiled kernel, with the wait of a dependent launch where `early`, from the cache on disk where it is kept."""
    cupy = _cupy()
    try:
        with cupy.cuda.Device(device) as on:
            path, mangled = kept(source, expression, str(on.compute_capability), early)
            return Kernel(cupy.RawModule(path=str(path)).get_function(mangled))
    except Exception as error:  # NVRTC missing, or another CUDA's, raises anything from RuntimeError to OSError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(
            f'backend "cuda" could not compile {expression}: {reason}; NVRTC comes with '
            'pip install "cupy-cuda13x[ctk]", see `convatlas doctor`'
        ) from error


def kept(source: str, expression: str, arch: str, early: bool = False) -> tuple[Path, str]:
    """(cubin, mangled name) of one instantiation for the current device, compiled if none is kept that is whole.

    CuPy's RawModule has a cache of its own, and has NVRTC flush subnormal numbers to zero (cupy#9576), which float32 and bfloat16
    results may be: its compiler is called by itself.
    """
    cuda = _cupy().cuda
    text = expand(source)
    options = (*OPTIONS, *([f"--define-macro={EARLY}"] if early else []))
    parts = (text, expression, *options, arch, str(cuda.nvrtc.getVersion()))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = cache_folder("cuda-nvrtc")
    if folder is not None and (found := _whole(folder / f"{key}.cubin")):
        return found
    code, names = cuda.compiler.compile_using_nvrtc(text, options, None, f"{Path(source).name}", (expression,))
    about = json.dumps({"name": names[expression], "sha256": hashlib.sha256(code).hexdigest()})
    for place in (folder, own_folder()):
        if place is None:
            continue
        path = place / f"{key}.cubin"
        with suppress(OSError):  # a folder that cannot be written to; this process's own can
            with whole(path) as partial:
                partial.write_bytes(code)
            with whole(path.with_suffix(".json")) as partial:
                partial.write_text(about)
            return path, names[expression]
    raise BackendError(f"{expression} can be written neither to {folder} nor to a temporary folder")


def _whole(path: Path) -> tuple[Path, str] | None:
    """(path, mangled name) of a kept cubin, None where it is missing or damaged."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        return (path, about["name"]) if hashlib.sha256(path.read_bytes()).hexdigest() == about["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Handle:
    """A stream by its address, as CuPy's from_external takes one."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


@cache
def _stream(pointer: int, device: int) -> Any:
    """CuPy's view of a stream of torch's."""
    cuda = _cupy().cuda
    if hasattr(cuda.Stream, "from_external"):  # CuPy 14
        return cuda.Stream.from_external(_Handle(pointer))
    return cuda.ExternalStream(pointer, device)


def run(launch: CudaLaunch, device: torch.device) -> Kernel:
    """Launches on the current stream of `device`. A kernel's first launch compiles it, and must not be in a graph's capture."""
    index = torch.cuda.current_device() if device.index is None else device.index
    found = kernel(launch.source, launch.expression, index, launch.early)
    if launch.early:  # CuPy has no launch attributes
        driver = cuda_driver()
        with driver.on(index):
            Fixed([launch], [found], driver, index).run()
        return found
    # CuPy passes a NumPy array of one element by value: the parameter struct.
    params = np.frombuffer(launch.packed, dtype=f"V{len(launch.packed)}")
    stream = torch.cuda.current_stream(device).cuda_stream
    grid = (*launch.grid, *(1,) * (3 - len(launch.grid)))
    with _cupy().cuda.Device(index), _stream(stream, index):
        found.ready(launch.shared)(grid, (launch.block, 1, 1), (params,), shared_mem=launch.shared)
    return found
