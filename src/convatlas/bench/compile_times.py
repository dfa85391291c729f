"""Seconds that compiling takes for a GPU that is not here: all kernels that a layer launches, on one core, without a cache.

Triton by its own compiler, CUDA C++ by NVRTC through cuda-core, each with its machine code read back. An interpreted process has no
compiler, so `python -m convatlas.bench.compile_times --arch 90` runs in one of its own, without TRITON_INTERPRET, and prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from convatlas.bench.cpu import LAYERS, host_race
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


def measure(arch: int) -> dict[str, dict[str, float | str]]:
    """By layer of LAYERS and compiler the seconds, or why there are none. What loads a compiler is not counted."""
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"
    torch.set_num_threads(1)
    found: dict[str, dict[str, float | str]] = {name: {} for name in LAYERS()}
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
    """The compilers on each of LAYERS, in a process of their own. Raises BackendError with what went wrong."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        command = [sys.executable, "-m", "convatlas.bench.compile_times", "--arch", str(arch)]
        try:
            made = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, env={**environment, "TRITON_CACHE_DIR": cache}
            )
        except subprocess.TimeoutExpired:
            raise BackendError(f"compiling for sm_{arch} took more than {limit:g} s") from None
    if made.returncode:
        raise BackendError(f"compiling for sm_{arch}: {(made.stderr.strip().splitlines() or ['no output'])[-1]}")
    races = {}
    for name, by in json.loads(made.stdout).items():
        absent = {compiler: why for compiler, why in by.items() if isinstance(why, str)}
        seconds = {compiler: [taken] for compiler, taken in by.items() if compiler not in absent}
        races[name] = host_race("compile", f"{name} | compiled for sm_{arch}", seconds, absent)
    return races


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m convatlas.bench.compile_times", description=__doc__)
    parser.add_argument("--arch", type=int, default=90, choices=[80, 90, 100])
    json.dump(measure(parser.parse_args().arch), sys.stdout)
