"""Runs code in a process in which the CUDA kernels' CPU build is checked by address sanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def sanitized(code: str, cache: Path | None = None) -> subprocess.CompletedProcess:
    """Runs Python code in a process with the sanitizer's library loaded first, kernels built with it."""
    libraries = [
        subprocess.run(["g++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    if not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("g++ has no sanitizer libraries here")
    environment = dict(
        os.environ, LD_PRELOAD=":".join(libraries), CONVATLAS_SANITIZE="1", OMP_NUM_THREADS="1",
        ASAN_OPTIONS="detect_leaks=0:quarantine_size_mb=8", PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
    )  # fmt: skip
    if cache is not None:
        environment["CONVATLAS_CACHE"] = str(cache)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=400)
