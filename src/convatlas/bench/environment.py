"""What a result depends on beside the code that is timed: GPU, driver, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import convatlas

PACKAGES = ("triton", "numpy", "pytest-benchmark")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


@cache
def versions() -> dict[str, str]:
    """Versions by name; what is not installed is left out."""
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    found = {
        "convatlas": convatlas.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
        "cupy": _version(*CUPY),
        **{name: _version(name) for name in PACKAGES},
    }
    return {name: value for name, value in found.items() if value}


@cache
def gpu_name() -> str | None:
    """The name of torch's current GPU; None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


@cache
def cpu_name() -> str:
    """The processor, as Linux names it; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _said(*command: str) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        here = Path(__file__).resolve().parent
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, cwd=here).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def driver() -> str | None:
    """The driver's version; None without nvidia-smi."""
    answer = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.split()[0] if answer else None


@cache
def commit() -> str:
    """The commit that the code stands at, "-dirty" behind it where tracked files differ; else $CONVATLAS_COMMIT, else "unknown"."""
    head = _said("git", "rev-parse", "--short=12", "HEAD")
    if head is None:
        return os.environ.get("CONVATLAS_COMMIT") or "unknown"
    return head + ("-dirty" if _said("git", "status", "--porcelain", "--untracked-files=no") else "")


def environment() -> dict[str, object]:
    """{"gpu", "driver", "versions", "commit"}."""
    return {"gpu": gpu_name(), "driver": driver(), "versions": versions(), "commit": commit()}
