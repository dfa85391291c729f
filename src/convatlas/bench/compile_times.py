"""Seconds that compiling takes for a GPU that is not here: all kernels that a layer launches, on one core, without a cache.

Triton by its own compiler, CUDA C++ by NVRTC through cuda-core, each with its machine code read back. An interpreted process has no
compiler, so it runs in one of its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from convatlas.bench.cpu import LAYERS, host_race
from convatlas.bench.precompile import in_time
from convatlas.bench.timing import reason
from convatlas.codegen.cross_compile import compile_launch
from convatlas.codegen.inventory import launches_of
from convatlas.codegen.nvrtc import compile_launches
from convatlas.errors import BackendError
from convatlas.results.standings import Race

MODE = "float16"
COMPILERS: dict[str, tuple[str, Callable[[Any, int], object]]] = {
    "Triton": ("triton", compile_launch),
    "NVRTC": ("cuda", lambda launch, arch: compile_launches([launch], arch)),
}
Found = dict[str, dict[str, float | str]]


def measure(arch: int) -> Found:
    """By layer of LAYERS and compiler the seconds, or why there are none. What loads a compiler is not counted."""
    torch.set_num_threads(1)
    found: Found = {name: {} for name in LAYERS()}
    for compiler, (backend, compile) in COMPILERS.items():
        loaded = False
        for name, layer in LAYERS().items():
            launches = launches_of(layer.call, MODE, arch, backend)
            try:
                if not loaded:
                    compile(launches[0], arch)
                    loaded = True
                start = time.perf_counter()
                for launch in launches:
                    compile(launch, arch)
                found[name][compiler] = time.perf_counter() - start
            except BackendError as error:
                found[name][compiler] = str(error)
    return found


def compile_races(arch: int, limit: float) -> dict[str, Race]:
    """The compilers on each of LAYERS. Raises BackendError where they fail, or take more than `limit` seconds."""
    before = dict(os.environ)
    try:
        with tempfile.TemporaryDirectory() as cache:
            os.environ.pop("TRITON_INTERPRET", None)
            os.environ |= {"TRITON_ALWAYS_COMPILE": "1", "TRITON_CACHE_DIR": cache}
            made = in_time(measure, [arch], 1, limit)
    except Exception as error:  # whatever a compiler raises in its process
        raise BackendError(f"compiling for sm_{arch}: {reason(error)}") from error
    finally:
        os.environ.clear()
        os.environ.update(before)
    if not made:
        raise BackendError(f"compiling for sm_{arch} took more than {limit:g} s")
    races = {}
    for name, by in made[0].items():
        absent = {compiler: why for compiler, why in by.items() if isinstance(why, str)}
        seconds = {compiler: [taken] for compiler, taken in by.items() if compiler not in absent}
        races[name] = host_race("compile", f"{name} | compiled for sm_{arch}", seconds, absent)
    return races
