"""Every convolution kernel against the reference, by the error bound, with poisoned and guarded outputs."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import CONVOLUTIONS, DTYPES, Case, guarded, hold, run_convolution
from rotation import with_ways

import convatlas

BACKENDS = ["triton", "cuda"]
MEMORY = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}
# Each case as networks have it, and in one of the five other ways, which goes round over the cases, and by turns.
USUAL = ("nhwc", "float16")
WAYS = [(form, dtype) for dtype in DTYPES for form in MEMORY if (form, dtype) != USUAL]
CELLS = [*((case, USUAL) for case in CONVOLUTIONS), *with_ways(CONVOLUTIONS, WAYS, on_gpu_all=True)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, way", CELLS, ids=str)
def test_within_the_error_bound(case: Case, way: tuple[str, str], backend: str, device: str, poisoned: None) -> None:
    """And in the input's memory format; without batch, or with one channel, a tensor is in both formats at once."""
    form, dtype = way
    found: list[torch.Tensor] = []
    call = hold(lambda: found.append(run_convolution(case, dtype, device, form, "normal", backend)))
    assert call.backend == backend and call.dtype == dtype
    assert found[0].is_contiguous(memory_format=MEMORY[form]) or not case.input[0] or case.input[1] == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_float16_is_exact_on_probes(case: Case, backend: str, device: str, poisoned: None) -> None:
    hold(lambda: run_convolution(case, "float16", device, "nhwc", "probes", backend), exact=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, kind", with_ways(CONVOLUTIONS, list(MEMORY), on_gpu_all=True), ids=str)
def test_out_slices_and_strided_inputs(case: Case, kind: str, backend: str, device: str) -> None:
    shape = run_convolution(case, "float16", "meta", "nchw", "normal", None).shape
    out, unchanged = guarded(tuple(shape), torch.float16, device, kind)
    hold(lambda: run_convolution(case, "float16", device, "sliced", "normal", backend, out))
    unchanged()


# Sums of up to 500 products: of TF32 (on a GPU) or float16 numbers to 5e-2, of float32 ones to 1e-3.
TOLERANCE = {("float32", "cpu"): 1e-3, ("float32", "cuda"): 5e-2, ("float16", "cpu"): 5e-2, ("float16", "cuda"): 5e-2}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "case",
    [c for c in CONVOLUTIONS if c.id in {"3x3", "stem-7x7", "1x1", "depthwise-3x3", "grouped-32x4d", "grouped-2"}],
    ids=str,
)
def test_nan_and_infinity_go_where_torch_sends_them(
    case: Case, value: float, dtype: str, backend: str, device: str
) -> None:
    """One bad input element reaches the outputs whose window holds it in its own group, and no other."""
    x = torch.randn(case.input)
    x[0, case.input[1] // 2, case.input[2] // 2, case.input[3] // 2] = value
    w, b = torch.rand(case.weight) + 0.1, torch.randn(case.weight[0])
    expected = torch.nn.functional.conv2d(x, w, b, **{k: v for k, v in case.arguments.items() if k != "activation"})
    if "activation" in case.arguments:
        expected = {"relu": torch.nn.functional.relu, "relu6": torch.nn.functional.relu6}[case.arguments["activation"]](
            expected
        )
    kind = getattr(torch, dtype)
    x = x.to(device, kind).contiguous(memory_format=torch.channels_last)
    got = convatlas.conv2d(x, w.to(device, kind), b.to(device, kind), **case.arguments, backend=backend).cpu().float()
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isposinf(), expected.isposinf()) and torch.equal(got.isneginf(), expected.isneginf())
    finite = expected.isfinite()
    tolerance = TOLERANCE[dtype, device]
    assert torch.allclose(got[finite], expected[finite], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unbatched_input(backend: str, device: str) -> None:
    x, w = torch.randn(17, 9, 9, device=device), torch.randn(8, 17, 3, 3, device=device)
    r = torch.randn(8, 9, 9, device=device)
    y = convatlas.conv2d(x, w, padding=1, residual=r, backend=backend)
    assert torch.equal(y, convatlas.conv2d(x[None], w, padding=1, residual=r[None], backend=backend)[0])
    out = torch.empty_like(y)
    with torch.no_grad():
        assert convatlas.conv2d(x, w, padding=1, residual=r, backend=backend, out=out) is out
    assert torch.equal(out, y)
