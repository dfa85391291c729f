"""Transposed convolution against the reference, by the error bound, with poisoned and guarded outputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import DTYPES, TRANSPOSED, Case, guarded, hold, run_transposed
from rotation import with_ways

import convatlas
from convatlas.call import Call
from convatlas.codegen.inventory import launches_of
from convatlas.specs import ConvTranspose2dSpec, Epilogue

BACKENDS = ["triton", "cuda"]
# Of which each case has one, by turns; the probes below are float16 in channels_last.
WAYS = [("float32", "nhwc"), ("float16", "nchw"), ("bfloat16", "nhwc")]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case, way", with_ways(TRANSPOSED, WAYS, on_gpu_all=True), ids=str)
def test_within_the_error_bound(case: Case, way: tuple[str, str], backend: str, device: str, poisoned: None) -> None:
    dtype, form = way
    call = hold(lambda: run_transposed(case, dtype, device, form, "normal", backend))
    assert (call.op, call.backend, call.dtype) == ("conv_transpose2d", backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_float16_is_exact_on_probes(case: Case, backend: str, device: str, poisoned: None) -> None:
    hold(lambda: run_transposed(case, "float16", device, "nhwc", "probes", backend), exact=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["nhwc", "nchw"])
@pytest.mark.parametrize("case", TRANSPOSED[::3], ids=str)
def test_out_slices_and_strided_inputs(case: Case, kind: str, backend: str, device: str) -> None:
    shape = run_transposed(case, "float16", "meta", "nchw", "normal", None).shape
    out, unchanged = guarded(tuple(shape), torch.float16, device, kind)
    hold(lambda: run_transposed(case, "float16", device, "sliced", "normal", backend, out))
    unchanged()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("case", [c for c in TRANSPOSED if c.input[0] and c.input[2] > 3][::2], ids=str)
def test_nan_and_infinity_go_where_torch_sends_them(case: Case, value: float, backend: str, device: str) -> None:
    """One bad input element reaches the outputs that one of its products is added to, and no other."""
    x = torch.randn(case.input)
    x[0, case.input[1] // 2, case.input[2] // 2, case.input[3] // 2] = value
    w, arguments = torch.rand(case.weight) + 0.1, dict(case.arguments)
    activation = arguments.pop("activation", None)
    expected = F.conv_transpose2d(x, w, **arguments)
    expected = getattr(F, activation)(expected) if activation else expected
    got = convatlas.conv_transpose2d(x.to(device), w.to(device), **case.arguments, backend=backend).cpu()
    for where in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(where(got), where(expected))
    finite = expected.isfinite()
    tolerance = 5e-2 if device == "cuda" else 1e-3  # TF32 on a GPU
    assert torch.allclose(got[finite], expected[finite], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_agrees(dtype: str, device: str) -> None:
    """The same arguments by the same names, a batch of none included."""
    kind, geometry = DTYPES[dtype], dict(stride=2, padding=1, output_padding=1, groups=2, dilation=(1, 2))
    x, w, b = torch.randn(8, 5, 6), torch.randn(8, 3, 3, 2) * 0.2, torch.randn(6)
    x, w, b = (t.to(device, kind) for t in (x, w, b))
    expected = F.conv_transpose2d(x.double(), w.double(), b.double(), **geometry)
    for backend in ("numpy", *BACKENDS):
        got = convatlas.conv_transpose2d(x, w, b, **geometry, backend=backend)
        assert (got.shape, got.dtype) == (expected.shape, kind)
        assert torch.allclose(got.double(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_phase_is_a_launch_and_nothing_is_multiplied_in_vain(backend: str) -> None:
    """Stride 2 and 4x4 taps: four convolutions of 2x2 taps, whose products are those that the spec counts, and no first fill."""
    spec = ConvTranspose2dSpec.of((32, 64, 28, 28), (64, 32, 4, 4), 2, 1)
    parts = [spec.part(rows, columns) for rows in spec.phases(0) for columns in spec.phases(1)]
    assert [(part.R, part.S, part.P, part.Q) for part in parts] == [(2, 2, 28, 28)] * 4
    assert sum(part.macs for part in parts) == spec.macs
    call = Call("conv_transpose2d", spec, Epilogue(True, "relu"))
    assert len(launches_of(call, "float16", 90, backend)) == 4
    empty = ConvTranspose2dSpec.of((32, 64, 28, 28), (64, 32, 1, 1), 2, 0, 1)
    assert (empty.whole, spec.whole) == (False, True)
    assert len(launches_of(Call("conv_transpose2d", empty, Epilogue(True)), "float16", 90, backend)) == 2
