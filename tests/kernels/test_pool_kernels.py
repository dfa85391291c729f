"""Every pooling kernel against the reference, PyTorch's indices, and NaN and infinity."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import DTYPES, POOLS, Case, guarded, hold, pool_op, run_pool
from rotation import with_ways

import convatlas

BACKENDS = ["triton", "cuda"]
# Each case as networks have it, and in one of the five other ways, which goes round over the cases, and by turns.
USUAL = ("nhwc", "float16")
WAYS = [(form, dtype) for dtype in DTYPES for form in ("nhwc", "nchw") if (form, dtype) != USUAL]
CELLS = [*((case, USUAL) for case in POOLS), *with_ways(POOLS, WAYS, on_gpu_all=True)]
MAX = [case for case in POOLS if "max" in pool_op(case)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, way", CELLS, ids=str)
def test_within_the_error_bound(case: Case, way: tuple[str, str], backend: str, device: str, poisoned: None) -> None:
    form, dtype = way
    hold(lambda: run_pool(case, dtype, device, form, "normal", backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["nhwc", "nchw"])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_out_slices_and_strided_inputs(case: Case, kind: str, backend: str, device: str) -> None:
    shape = run_pool(case, "float16", "meta", "nchw", "normal", None).shape
    out, unchanged = guarded(tuple(shape), torch.float16, device, kind)
    hold(lambda: run_pool(case, "float16", device, "sliced", "normal", backend, out))
    unchanged()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("data", ["normal", "ties", "nan", "infinite"])
@pytest.mark.parametrize("case", MAX, ids=str)
def test_indices_are_torchs(case: Case, data: str, backend: str, device: str, poisoned: None) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(case.input, generator=generator)
    if data == "ties":
        x = x.round()
    elif data == "nan":
        x[torch.rand(x.shape, generator=generator) < 0.2] = float("nan")
    elif data == "infinite":
        x[torch.rand(x.shape, generator=generator) < 0.7] = float("-inf")
    expected, where = getattr(F, pool_op(case))(x, **case.arguments, return_indices=True)
    op = getattr(convatlas, pool_op(case))
    got, at = op(x.to(device), **case.arguments, return_indices=True, backend=backend)
    assert torch.equal(at.cpu(), where)
    assert torch.equal(got.cpu().nan_to_num(nan=99.0), expected.nan_to_num(nan=99.0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("case", [c for c in POOLS if c.input[0]], ids=str)
def test_nan_and_infinity_go_where_torch_sends_them(case: Case, value: float, backend: str, device: str) -> None:
    x = torch.randn(case.input, generator=torch.Generator().manual_seed(5))
    x[0, 0, case.input[2] // 2, case.input[3] // 2] = value
    expected = getattr(F, pool_op(case))(x, **case.arguments)
    got = getattr(convatlas, pool_op(case))(x.to(device), **case.arguments, backend=backend).cpu()
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
