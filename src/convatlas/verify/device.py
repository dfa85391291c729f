"""Finds the device that a backend runs on and checks the dtype before the work starts, so that an error is one line."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from convatlas.errors import BackendError, DtypeError
from convatlas.kernels.common.interpreter import interpreting
from convatlas.ops import backends


def device_for(backend: str, dtype: str = "float32") -> torch.device:
    """The device that nets run on by `backend`: the GPU, or the CPU for "numpy" and for Triton's interpreter.

    Raises BackendError for an unknown backend or one that cannot run here, DtypeError for a dtype it lacks.
    """
    if backend not in backends.BACKENDS:
        raise BackendError(f"backend {backend!r}, expected one of {', '.join(backends.BACKENDS)}")
    if dtype not in backends.DTYPES[backend]:
        raise DtypeError(
            f'dtype {dtype!r} on backend "{backend}", expected one of {", ".join(backends.DTYPES[backend])}'
        )
    gpu = torch.cuda.is_available()
    if backend == "cudnn" and not gpu:
        raise BackendError(
            'backend "cudnn" needs an NVIDIA GPU, and torch sees none here: take "triton" (which runs in its interpreter '
            'without a GPU) or "numpy", or see `convatlas doctor`'
        )
    if backend == "triton" and find_spec("triton") is not None and interpreting():
        gpu = False  # TRITON_INTERPRET=1 on a machine with a GPU
    device = torch.device("cuda" if gpu and backend != "numpy" else "cpu")
    backends.resolve(backend, torch.empty(0, device=device))  # raises for a Triton that is missing or may not interpret
    return device


def interpreted(backend: str, device: torch.device) -> bool:
    """Whether `backend` runs its kernels in Triton's interpreter on `device`."""
    return backend == "triton" and device.type == "cpu"
