"""What all tests share: the interpreter where there is no GPU, what a run says of its progress, poisoned allocations."""

from __future__ import annotations

import os

import torch

# Before anything imports triton: its kernels are decorated for the interpreter or for a GPU once, at import.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests run every kernel, proven on the GPU that is here or not (kernels/common/proven.py).
os.environ.setdefault("CONVATLAS_KERNELS", "all")

import progress
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """What a test costs is noted where it runs; a worker of pytest-xdist leaves the printing to the process that reports."""
    config.pluginmanager.register(progress.Cost())
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(progress.Progress(config))


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
