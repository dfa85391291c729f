"""Which kernels are taken unasked: those whose tests a GPU of that architecture has passed, or that passed this GPU's self-test.

Of a kernel and a plainer one that computes the same, a GPU whose architecture nobody has tested gets the plainer one. proven.json
says, by compute capability, which kernels have been tested where; `make results` adds to it what a `make gpu` whose tests passed
has run. `convatlas selftest` runs the kernels' cases on the GPU that is here and keeps what passed, until the GPU, its driver, a
version or a kernel changes. CONVATLAS_KERNELS names kernels that are taken all the same; it is read when a GPU is first used.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from convatlas.errors import BackendError
from convatlas.files import cache_folder, write_text

HERE = Path(__file__).parent
DATA = HERE / "proven.json"
DRIVER = Path("/proc/driver/nvidia/version")
# A kernel that has a plainer form, and what stands in for it.
KERNELS = {
    "triton/tma": "Triton's gather and GEMM kernels",
    "triton/rows": "Triton's stem kernel",
    "cuda/conv2d": "Triton's stem kernels",
    "cuda/depthwise": "Triton's depthwise kernel",
    "cuda/gemm": "Triton's GEMM and gather kernels",
    "cuda/pool": "Triton's pooling kernels",
    **{
        f"cuda/{pattern}": "the block's layers one after another"
        for pattern in (
            "basic_block",
            "bottleneck",
            "depthwise_separable",
            "inverted_residual",
            "persistent",
            "pool_pointwise",
            "stem_pool",
        )
    },
}
# Not a kernel, but noted as one: that plans launch those in CUDA C++ by programmatic dependent launch (plan/program.py).
DEPENDENT = "cuda/dependent"


@cache
def shipped() -> dict[int, dict[str, Any]]:
    """By compute capability as an int: the GPU that ran the kernels' tests, the last date, and by kernel the commit that it ran."""
    return {int(arch): entry for arch, entry in json.loads(DATA.read_text()).items()}


def held(arch: int, device: int | None) -> frozenset[str]:
    """The kernels that GPU number `device`, of compute capability `arch`, does not take unasked; None is a GPU that is not here.

    Raises BackendError for a name in CONVATLAS_KERNELS that no kernel has.
    """
    asked = {name for name in os.environ.get("CONVATLAS_KERNELS", "").replace(",", " ").split() if name}
    if unknown := asked - {"all", *KERNELS}:
        names = ", ".join(("all", *KERNELS))
        raise BackendError(f"CONVATLAS_KERNELS has {', '.join(sorted(unknown))}, expected {names}, separated by commas")
    if "all" in asked:
        return frozenset()
    left = frozenset(KERNELS) - asked - set(shipped().get(arch, {}).get("kernels", ()))
    return left - set((outcome(device) or {}).get("passed", ())) if left and device is not None else left


def depends(arch: int) -> bool:
    """Whether plans whose kernels in CUDA C++ are launched by dependent launch have passed their tests on that architecture."""
    return DEPENDENT in shipped().get(arch, {}).get("kernels", ())


def outcome(device: int) -> dict[str, Any] | None:
    """What the self-test of this GPU, with this driver and these versions, found; None where it has not run."""
    try:
        found = json.loads(_file(identity(device)).read_text())
    except (OSError, ValueError, AttributeError):  # none was kept, it is damaged, or there is no home for a cache
        return None
    return found if isinstance(found, dict) else None


def keep(device: int, found: dict[str, Any]) -> Path | None:
    """Keeps a self-test's outcome, under a temporary name first; returns the file, None where there is no cache folder."""
    path = _file(identity(device))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found, indent=1) + "\n")
    return path


def record(arch: int, gpu: str, date: str, commit: str, data: Path = DATA) -> None:
    """Notes in proven.json that all kernels that there are have passed their tests on a GPU of that architecture, and from
    Hopper on dependent launch with them.
    """
    names = sorted([*KERNELS, DEPENDENT] if arch >= 90 else KERNELS)
    entries = json.loads(data.read_text())
    entries[str(arch)] = {"gpu": gpu, "date": date[:10], "kernels": dict.fromkeys(names, commit)}
    lines = [
        f'  "{arch}": {json.dumps(entry)}' for arch, entry in sorted(entries.items(), key=lambda item: int(item[0]))
    ]
    write_text(data, "{\n" + ",\n".join(lines) + "\n}\n")


def identity(device: int) -> dict[str, str]:
    """All that an outcome holds for: GPU, driver, versions, and the kernels' sources."""
    packages = {"triton": ("triton",), "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy")}
    found = {name: next(filter(None, map(_version, names)), "none") for name, names in packages.items()}
    try:
        driver = DRIVER.read_text().splitlines()[0]
    except (OSError, IndexError):
        driver = str(torch._C._cuda_getDriverVersion())
    return {
        "gpu": torch.cuda.get_device_name(device),
        "driver": driver,
        "torch": torch.__version__,
        **found,
        "kernels": sources(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def sources() -> str:
    """A hash of the text of all kernels and launchers."""
    digest = hashlib.sha256()
    for path in sorted(path for path in HERE.parent.rglob("*") if path.suffix in (".py", ".cu", ".cuh")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _file(identity: dict[str, str]) -> Path | None:
    folder = cache_folder("selftest")
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return None if folder is None else folder / f"{key}.json"
