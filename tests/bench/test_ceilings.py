"""The ceilings of a GPU and the bound that follows from them, by hand-computed numbers."""

from __future__ import annotations

import pytest
import torch

from convatlas.bench import ceilings
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.timing import CudaTimer, FakeTimer
from convatlas.errors import InputError
from convatlas.specs import Conv2dSpec, Epilogue, LinearSpec, Pool2dSpec

CPU = torch.device("cpu")
KNOWN = Ceilings(2e12, {"float16": 5e14, "bfloat16": 5e14, "tf32": 2.5e14, "float32": 5e13}, 2e-6)


class Exact(FakeTimer):
    """A clock that takes the same time for everything."""

    def prepare(self, run, sets, form):
        run(sets[0])
        return lambda: self.seconds


def test_rates_are_work_over_time() -> None:
    found = ceilings.measure(Exact(1e-3), CPU, copy_bytes=1000, n=8)
    assert found.copy_bytes_per_s == pytest.approx(2 * 1000 / 1e-3)  # read and written
    assert found.matmul_flops_per_s == pytest.approx(dict.fromkeys(ceilings.MODES, 2 * 8**3 / 1e-3))
    assert found.launch_seconds == pytest.approx(1e-3)


def test_settings_of_tf32_are_as_before() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    ceilings.matmul_rate(Exact(1e-3), CPU, "tf32", 8)
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_one_that_cannot_be_measured_says_why() -> None:
    class Broken(FakeTimer):
        def prepare(self, run, sets, form):
            raise RuntimeError("no room")

    with pytest.raises(InputError, match="a ceiling could not be measured: RuntimeError: no room"):
        ceilings.launch_seconds(Broken(1.0), CPU)


def test_what_binds() -> None:
    dense = Conv2dSpec.of((32, 256, 56, 56), (256, 256, 3, 3), padding=1)
    seconds, binds = KNOWN.bound(dense, Epilogue(bias=True), "float16")
    assert binds == "tensor" and seconds == pytest.approx(2 * 32 * 56 * 56 * 256 * 256 * 9 / 5e14, rel=0.01)
    assert KNOWN.bound(dense, Epilogue(), "float32", tf32=True)[0] == pytest.approx(2 * seconds, rel=0.01)
    assert KNOWN.bound(dense, Epilogue(), "float32")[0] == pytest.approx(10 * seconds, rel=0.01)

    depthwise = Conv2dSpec.of((32, 256, 56, 56), (256, 1, 3, 3), padding=1, groups=256)
    bytes = 2 * (2 * 32 * 256 * 56 * 56 + 256 * 9)
    assert KNOWN.bound(depthwise, Epilogue(), "float16") == (pytest.approx(bytes / 2e12), "bandwidth")

    pool = Pool2dSpec.of("max", (1, 8, 8, 8), 2)
    assert KNOWN.bound(pool, None, "float16") == (2e-6, "launch")
    assert KNOWN.bound(LinearSpec.of((1, 16), (8, 16)), Epilogue(bias=True), "float16") == (2e-6, "launch")


def test_a_residual_is_read_too() -> None:
    spec = Conv2dSpec.of((32, 64, 56, 56), (64, 1, 3, 3), padding=1, groups=64)
    plain, added = (KNOWN.bound(spec, Epilogue(residual=r), "float16")[0] for r in (False, True))
    assert added == pytest.approx(1.5 * plain, rel=0.01)


def test_a_document_and_back() -> None:
    document = ceilings.document(KNOWN, FakeTimer(1.0))
    assert document["timer"] == "rehearsal" and {"gpu", "driver", "versions", "clocks"} <= set(document)
    assert Ceilings.of(document) == KNOWN
    del document["launch_seconds"]
    with pytest.raises(InputError, match="the ceilings lack 'launch_seconds', expected copy_bytes_per_s"):
        Ceilings.of(document)


@pytest.mark.gpu
def test_on_a_gpu_the_rates_are_possible() -> None:
    """Far looser than a GPU's data sheet, since other tests use the GPU at the same time: units and signs, not quality."""
    found = ceilings.measure(CudaTimer(), torch.device("cuda"), copy_bytes=2**26, n=1024)
    assert 1e9 < found.copy_bytes_per_s < 5e13
    assert all(1e9 < rate < 1e16 for rate in found.matmul_flops_per_s.values())
    assert 1e-7 < found.launch_seconds < 1e-2


@pytest.mark.parametrize("change", [{"launch_seconds": "x"}, {"copy_bytes_per_s": 0}, {"matmul_flops_per_s": {"float16": None}},
                                    {"matmul_flops_per_s": 3}, {"launch_seconds": float("nan")}])  # fmt: skip
def test_what_are_no_ceilings_is_refused(change: dict) -> None:
    good = {"copy_bytes_per_s": 2e12, "matmul_flops_per_s": {"float16": 5e14}, "launch_seconds": 2e-6}
    assert Ceilings.of(good).launch_seconds == 2e-6
    with pytest.raises(InputError, match="the ceilings "):
        Ceilings.of({**good, **change})
    with pytest.raises(InputError, match="the ceilings are no JSON object"):
        Ceilings.of([])
