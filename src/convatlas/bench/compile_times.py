"""Seconds that compiling takes for a GPU that is not here: `python -m convatlas.bench.compile_times --arch 90` prints JSON.

A record is {"layer", "compiler", "seconds", "codes"}: all kernels that a layer launches, compiled anew (no cache) and their
machine code read back, on one core. Triton by its own compiler, CUDA C++ by NVRTC through cuda-core. An interpreted process has no
compiler, so this runs in one of its own, without TRITON_INTERPRET.
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

from convatlas.bench.cpu import LAYERS
from convatlas.codegen.cross_compile import compile_launch
from convatlas.codegen.inventory import launches_of
from convatlas.codegen.nvrtc import compile_launches
from convatlas.errors import BackendError

MODE = "float16"


def measure(arch: int) -> list[dict[str, Any]]:
    """A record for each of LAYERS and compiler; the first compilation of each, which loads the compiler, is not counted."""
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"
    torch.set_num_threads(1)
    compilers: dict[str, tuple[str, Callable[[Any], object]]] = {
        "Triton": ("triton", lambda launch: compile_launch(launch, arch)),
        "NVRTC": ("cuda", lambda launch: compile_launches([launch], arch)),
    }
    records = []
    for compiler, (backend, compile) in compilers.items():
        loaded = False
        for name, layer in LAYERS().items():
            launches = launches_of(layer.call, MODE, arch, backend)
            record = {"layer": name, "compiler": compiler}
            try:
                if not loaded:
                    compile(launches[0])
                    loaded = True
                start = time.perf_counter()
                for launch in launches:
                    compile(launch)
                records.append({**record, "seconds": time.perf_counter() - start, "codes": len(launches)})
            except BackendError as error:
                records.append({**record, "missing": str(error)})
    return records


def in_a_process(arch: int, seconds: float) -> list[dict[str, Any]]:
    """measure(arch) in a process that does not interpret, with an empty cache. Raises BackendError with what went wrong."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        command = [sys.executable, "-m", "convatlas.bench.compile_times", "--arch", str(arch)]
        try:
            made = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, env={**environment, "TRITON_CACHE_DIR": cache}
            )
        except subprocess.TimeoutExpired:
            raise BackendError(f"compiling for sm_{arch} took more than {seconds:g} s") from None
    if made.returncode:
        raise BackendError(f"compiling for sm_{arch}: {(made.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(made.stdout)


def main(arguments: list[str]) -> None:
    """--arch 90."""
    parser = argparse.ArgumentParser(prog="python -m convatlas.bench.compile_times", description=__doc__)
    parser.add_argument("--arch", type=int, default=90, choices=[80, 90, 100])
    json.dump(measure(parser.parse_args(arguments).arch), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
