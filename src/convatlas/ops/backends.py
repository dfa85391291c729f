"""Chooses the backend of an op (by argument, context manager, environment or device) and says what each backend needs to run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from convatlas.call import Call
from convatlas.errors import BackendError, DtypeError
from convatlas.kernels.common.interpreter import interpreting
from convatlas.ops.automatic import choose

if TYPE_CHECKING:
    from torch import Tensor

HALVES = ("float16", "bfloat16")
DTYPES = {
    "triton": ("float32", *HALVES),
    "cuda": ("float32", *HALVES),
    "cudnn": ("float64", "float32", *HALVES),
    "numpy": ("float64", "float32", *HALVES),
}
BACKENDS = tuple(DTYPES)

Run = Callable[[Call, "dict[str, Tensor]", "Tensor | None"], "Tensor"]

_current: ContextVar[str | None] = ContextVar("convatlas_backend", default=None)


current_backend = _current.get


def _known(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} ({source}), expected one of {', '.join(BACKENDS)}")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Ops inside the `with` block run on backend `name`, one of BACKENDS, unless their own argument says otherwise.

    It holds where a context variable holds: in this thread, in the asyncio tasks that it starts inside the block and in
    asyncio.to_thread. A new thread starts without it, unless contextvars.copy_context().run(f) runs the thread's work. The
    environment variable CONVATLAS_BACKEND holds in every thread and process. Raises BackendError for an unknown name.
    """
    token = _current.set(_known(name, "use_backend"))
    try:
        yield
    finally:
        _current.reset(token)


def resolve(requested: str | None, x: Tensor, call: Call | None = None) -> str:
    """The backend for an op on `x`: the argument, else use_backend, else CONVATLAS_BACKEND, else by device.

    By device: CUDA tensors get "triton" or "cuda" by ops/automatic.py, CPU tensors get "numpy". Raises BackendError for an unknown
    name, for "cudnn" without a CUDA tensor, and for "triton" on CPU tensors when Triton is missing or was not imported in
    interpreter mode.
    """
    if requested is not None:
        name = _known(requested, "argument")
    elif _current.get() is not None:
        name = _current.get()
    elif os.environ.get("CONVATLAS_BACKEND"):
        name = _known(os.environ["CONVATLAS_BACKEND"], "environment variable CONVATLAS_BACKEND")
    else:
        name = "numpy" if not x.is_cuda else "triton" if call is None else choose(call, x.device.index)
    if name == "cudnn" and not x.is_cuda:
        raise BackendError(
            f'backend "cudnn" needs CUDA tensors, given one on {x.device}; use "triton", "cuda" or "numpy" here'
        )
    if name == "triton":
        _require_triton(x)
    return name


def _require_triton(x: Tensor) -> None:
    if find_spec("triton") is None:
        raise BackendError('backend "triton" needs the package triton: pip install triton')
    if not x.is_cuda and not interpreting():
        raise BackendError(
            f'backend "triton" on a tensor on {x.device} runs in Triton\'s interpreter: set the environment variable '
            "TRITON_INTERPRET=1 before Python starts, or before triton is first imported"
        )


def check_dtype(backend: str, call: Call) -> None:
    """Raises DtypeError when `backend` lacks the call's dtype, and BackendError for a block on "triton", which has none."""
    if call.op == "block" and backend == "triton":
        raise BackendError(f'{call.spec.pattern}: no kernel on backend "triton", expected "cuda", "cudnn" or "numpy"')
    if call.dtype not in DTYPES[backend]:
        raise DtypeError(
            f'{call.op}: dtype {call.dtype} on backend "{backend}", expected one of {", ".join(DTYPES[backend])}'
        )


@cache
def runner(name: str) -> Run:
    """The function that computes a Call on backend `name`; imported when first used."""
    module = {
        "triton": "convatlas.kernels.backend",
        "cuda": "convatlas.kernels.backend",
        "cudnn": "convatlas.ops.backend_cudnn",
        "numpy": "convatlas.ops.backend_numpy",
    }[name]
    return import_module(module).run
