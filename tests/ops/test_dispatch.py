"""Which backend runs, and what each one refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import convatlas
from convatlas.call import Call
from convatlas.ops.observe import observe

cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")


def backend_of(**options) -> str:
    seen: list[Call] = []
    with observe(lambda call, tensors, output: seen.append(call)):
        convatlas.relu(torch.zeros(2), **options)
    return seen[0].backend


def test_cpu_tensors_default_to_numpy() -> None:
    assert backend_of() == "numpy"


@pytest.mark.interpreter
def test_argument_before_context_before_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_BACKEND", "triton")
    assert backend_of() == "triton"
    with convatlas.use_backend("numpy"):
        assert backend_of() == "numpy"
        assert backend_of(backend="triton") == "triton"
        with convatlas.use_backend("triton"):
            assert backend_of() == "triton"
        assert backend_of() == "numpy"
    assert backend_of() == "triton"


def test_unknown_names_say_which_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for run in (
        lambda: convatlas.relu(torch.zeros(2), backend="cuda9"),
        lambda: convatlas.use_backend("cuda9").__enter__(),
    ):
        with pytest.raises(convatlas.BackendError, match=r"'cuda9' .*expected one of triton, .*numpy"):
            run()
    monkeypatch.setenv("CONVATLAS_BACKEND", "nonsense")
    with pytest.raises(convatlas.BackendError, match="environment variable CONVATLAS_BACKEND"):
        convatlas.relu(torch.zeros(2))


def test_cudnn_needs_a_cuda_tensor() -> None:
    with pytest.raises(convatlas.BackendError, match="needs CUDA tensors, given one on cpu"):
        convatlas.relu(torch.zeros(2), backend="cudnn")


@cpu_only
def test_triton_on_the_cpu_needs_the_interpreter() -> None:
    code = "import torch, convatlas; convatlas.relu(torch.zeros(2), backend='triton')"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "BackendError" in done.stderr and "TRITON_INTERPRET=1" in done.stderr


@pytest.mark.interpreter
def test_dtypes_a_backend_lacks() -> None:
    x = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    assert convatlas.max_pool2d(x, 2, backend="numpy").dtype == torch.float64
    with pytest.raises(convatlas.DtypeError, match=r'float64 on backend "triton", expected one of float32'):
        convatlas.max_pool2d(x, 2, backend="triton")
    for dtype in (torch.int32, torch.complex64, torch.bool):
        with pytest.raises(convatlas.DtypeError, match="max_pool2d"):
            convatlas.max_pool2d(x.to(dtype), 2)


def test_out_must_fit() -> None:
    x = torch.zeros(1, 2, 4, 4)
    with torch.no_grad():
        with pytest.raises(convatlas.ShapeError, match=r"out is \(1, 2, 3, 2\).*expected \(1, 2, 2, 2\)"):
            convatlas.max_pool2d(x, 2, out=torch.zeros(1, 2, 3, 2))
        with pytest.raises(convatlas.ShapeError, match=r"float64 on cpu, expected .* float32 on cpu"):
            convatlas.max_pool2d(x, 2, out=torch.zeros(1, 2, 2, 2, dtype=torch.float64))
        with pytest.raises(convatlas.ShapeError, match="expected one of them"):
            convatlas.max_pool2d(x, 2, return_indices=True, out=torch.zeros(1, 2, 2, 2))


def test_out_must_not_share_memory_with_an_input() -> None:
    with torch.no_grad():
        wide = torch.randn(1, 8, 5, 5).contiguous(memory_format=torch.channels_last)
        w = torch.randn(4, 4, 3, 3)
        with pytest.raises(convatlas.ShapeError, match="out shares memory with input"):
            convatlas.conv2d(wide[:, :4], w, padding=1, out=wide[:, :4])
        with pytest.raises(convatlas.ShapeError, match="out shares memory with input"):
            convatlas.conv2d(wide[:, :4], w, padding=1, out=wide[:, 2:6])
        expected = convatlas.conv2d(wide[:, :4], w, padding=1)
        # Two slices of one channels_last buffer interleave in memory without sharing an element: a dense block's concat.
        convatlas.conv2d(wide[:, :4], w, padding=1, out=wide[:, 4:])
        assert torch.equal(wide[:, 4:], expected)
        with pytest.raises(convatlas.ShapeError, match="out shares memory with x"):
            convatlas.residual_add(wide[:, :4], wide[:, 4:], out=wide[:, 1:5])


def test_out_refuses_to_lose_a_gradient() -> None:
    x = torch.zeros(1, 2, 4, 4, requires_grad=True)
    with pytest.raises(convatlas.ShapeError, match="does not support automatic differentiation"):
        convatlas.max_pool2d(x, 2, out=torch.zeros(1, 2, 2, 2))


def test_mixed_dtypes_and_devices_are_refused() -> None:
    x, w = torch.zeros(1, 2, 4, 4), torch.zeros(3, 2, 1, 1)
    with pytest.raises(convatlas.DtypeError, match=r"input is torch.float32 and weight is torch.float16"):
        convatlas.conv2d(x, w.half())
    with pytest.raises((convatlas.ShapeError, RuntimeError), match="device"):
        convatlas.conv2d(x, w.to("meta"))
    with pytest.raises(convatlas.DtypeError, match="weight is list, expected a torch"):
        convatlas.conv2d(x, [[1.0]])


def test_observers_see_an_input_that_out_overwrites() -> None:
    x = torch.tensor([-1.0, 2.0])
    seen = {}
    with observe(lambda call, tensors, output: seen.update(tensors)):
        convatlas.relu(x, out=x)
    assert x.tolist() == [0.0, 2.0] and seen["input"].tolist() == [-1.0, 2.0]
