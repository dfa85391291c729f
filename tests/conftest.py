"""What all tests share: the interpreter where there is no GPU, poisoned allocations, guarded outputs."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

# Before anything imports triton: its kernels are decorated for the interpreter or for a GPU once, at import.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest

# A GPU machine that nothing can be installed on may lack hypothesis: what needs it is left out, and said to be.
collect_ignore = (
    ["kernels/test_kernel_fuzz.py", "ops/test_like_torch.py", "reference/test_reference_fuzz.py"]
    if find_spec("hypothesis") is None
    else []
)


def pytest_report_header() -> list[str]:
    """Names the modules that are left out."""
    return [f"left out, hypothesis is not installed: {', '.join(collect_ignore)}"] if collect_ignore else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, visibly, what this machine cannot run: gpu tests without a GPU, interpreter tests in a process that compiles."""
    gpu = torch.cuda.is_available()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for item in items:
        if "gpu" in item.keywords and (not gpu or interpreted):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU and a process without TRITON_INTERPRET"))
        if "interpreter" in item.keywords and not interpreted:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1"))


@pytest.fixture(
    params=[pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest) -> str:
    """Where Triton kernels run: "cpu" is the interpreter, "cuda" a GPU; every test that takes it is its own twin."""
    return request.param


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty gives NaN, so that an element a kernel forgets to write cannot pass for a result."""
    empty = torch.empty

    def nan(*args: object, **kwargs: object) -> torch.Tensor:
        x = empty(*args, **kwargs)
        return x.fill_(float("nan")) if x.is_floating_point() else x.fill_(-(2**40) if x.dtype == torch.int64 else -1)

    monkeypatch.setattr(torch, "empty", nan)
