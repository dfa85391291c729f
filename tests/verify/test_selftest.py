"""The self-test, and the choice that waits for it: a GPU of an untested architecture takes the plainer kernels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import convatlas
from convatlas import doctor
from convatlas.bench.collect import prove
from convatlas.call import Call
from convatlas.cli import main
from convatlas.codegen.block_calls import small_block_calls
from convatlas.codegen.inventory import MODES, launches_of
from convatlas.kernels.common import proven
from convatlas.kernels.common.target import TARGETS, Target, of_device
from convatlas.ops import automatic
from convatlas.specs import Conv2dSpec, Epilogue, LinearSpec, Pool2dSpec
from convatlas.verify import selftest as module
from convatlas.verify.selftest import Case, calls, cases, kernel_of, kernels_of, tried, verdict

DENSE = Call("conv2d", Conv2dSpec.of((10, 64, 28, 28), (64, 64, 3, 3), 1, 1), Epilogue(True, "relu"), dtype="float16")
STEM = Call("conv2d", Conv2dSpec.of((4, 3, 64, 64), (64, 3, 7, 7), 2, 3), Epilogue(True), dtype="float16")
POOL = Call("max_pool2d", Pool2dSpec.of("max", (8, 64, 28, 28), 2), dtype="float16")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """here(arch, driver): from then on this machine has a GPU of that architecture, and a cache folder of its own."""

    def place(arch: int, driver: str = "580.1") -> Target:
        properties = SimpleNamespace(
            name="NVIDIA X", major=arch // 10, minor=arch % 10, multi_processor_count=64,
            shared_memory_per_block_optin=227 * 1024, total_memory=2**34,
        )  # fmt: skip
        (tmp_path / "driver").write_text(f"NVRM version: {driver}\n")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=None: "NVIDIA X")
        of_device.cache_clear()
        return of_device(0)

    monkeypatch.setattr(proven, "DRIVER", tmp_path / "driver")
    monkeypatch.setattr(automatic, "cuda_is_here", lambda: True)
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CONVATLAS_KERNELS")
    yield place
    of_device.cache_clear()


def taken(target: Target) -> set[str]:
    """The kernels that a dense convolution, a stem and a pooling take on the GPU, by themselves."""
    found = {kernel_of(launch) for call in (DENSE, STEM) for launch in launches_of(call, "float16", target)}
    return found | {f"{automatic.choose(POOL, 0)}/pool"}


PLAIN, QUICK = {"triton/conv2d", "triton/pool"}, {"triton/tma", "triton/rows", "cuda/pool"}


def test_an_untested_architecture_takes_the_plainer_kernels_until_the_selftest_has_passed(here) -> None:
    assert here(89).held == set(proven.KERNELS)
    assert here(120).held == set(proven.KERNELS) and taken(of_device(0)) == PLAIN
    proven.keep(0, {"passed": ["triton/tma", "triton/elementwise", "cuda/pool"], "failed": {"triton/rows": ["wrong"]}})
    assert here(120).held == set(proven.KERNELS) - {"triton/tma", "cuda/pool"}
    assert taken(of_device(0)) == {"triton/tma", "triton/conv2d", "cuda/pool"}
    assert here(120, driver="999").held == set(proven.KERNELS)  # what passed with another driver says nothing


def test_a_tested_architecture_takes_what_was_tested_there(here) -> None:
    entry = proven.shipped()[90]
    assert here(90).held == set(proven.KERNELS) - entry["kernels"].keys() and taken(of_device(0)) >= QUICK
    assert not any(target.held for target in TARGETS.values())
    assert set(entry["kernels"]) <= {*proven.KERNELS, proven.DEPENDENT} and "H100" in entry["gpu"]


def test_a_user_may_force_a_kernel_by_name(here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_KERNELS", "triton/tma, cuda/pool")
    assert here(120).held == set(proven.KERNELS) - {"triton/tma", "cuda/pool"}
    monkeypatch.setenv("CONVATLAS_KERNELS", "all")
    assert not here(120).held and taken(of_device(0)) == QUICK
    monkeypatch.setenv("CONVATLAS_KERNELS", "tma")
    with pytest.raises(convatlas.BackendError, match="CONVATLAS_KERNELS has tma, expected all, triton/tma"):
        here(120)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_outcome_counts_for_nothing(here, text: str) -> None:
    here(120)
    proven.keep(0, {"passed": list(proven.KERNELS)}).write_text(text)
    assert here(120).held == set(proven.KERNELS)


def test_doctor_says_what_is_held_back(here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(proven, "shipped", lambda: {90: {"kernels": proven.KERNELS}})
    here(90)
    assert doctor._proven() == "all on sm_90"
    here(120)
    with pytest.raises(doctor.Missing, match=r"not cuda/.*, cuda/bottleneck, .*, triton/tma on sm_120"):
        doctor._proven()
    assert "convatlas selftest" in next(probe.remedy for probe in doctor.PROBES if probe.name == "proven kernels")


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_the_cases_run_every_kernel(arch: int) -> None:
    target = TARGETS[f"sm_{arch}"]
    ran = {kernel for case in cases(target) for kernel in kernels_of(case, target)}
    assert set(proven.KERNELS) - ran == ({"triton/tma", "triton/rows"} if arch < 90 else set())
    folders = {
        f"{b}/{f}" for b in ("triton", "cuda") for f in ("elementwise", "norm", "softmax", "pool", "depthwise", "gemm")
    }
    assert folders <= ran
    every = [
        Case(b, mode, call)
        for b in ("triton", "cuda")
        for mode in MODES
        if mode != "tf32"
        for call in [*calls(), *(small_block_calls(mode) if b == "cuda" else [])]
    ]
    for kept in ("float16", "bfloat16", "float32"):  # each kernel in each dtype that it takes
        taken = {k for case in every if case.mode == kept for k in kernels_of(case, target)}
        assert taken == {k for case in cases(target) if case.mode == kept for k in kernels_of(case, target)}


POOLED = Case("triton", "float16", Call("max_pool2d", Pool2dSpec.of("max", (2, 16, 9, 9), 3, 2, 1)))
ROWS = Case("cuda", "tf32", Call("linear", LinearSpec.of((4, 64), (10, 64)), Epilogue(True)))
CHOSEN = [POOLED, ROWS]


@pytest.mark.interpreter
def test_a_case_is_held_to_the_reference(plant) -> None:
    """On a CPU, where Triton's kernels are interpreted and the others built by g++."""
    cpu, target = torch.device("cpu"), TARGETS["sm_90"]
    results = [tried(case, cpu, target) for case in CHOSEN]
    assert [result.detail for result in results] == [""] * len(CHOSEN)
    passed, failed = verdict(results)
    assert not failed and {"triton/pool", "cuda/gemm"} <= set(passed)
    plant(0, 1.0, "max_pool2d")
    broken = tried(CHOSEN[0], cpu, target)
    assert "max_pool2d: y[" in broken.detail
    passed, failed = verdict([*results[1:], broken])
    assert list(failed) == ["triton/pool"] and "triton/pool" not in passed and "cuda/gemm" in passed


def test_a_case_that_raises_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments, **keywords):
        raise RuntimeError("an illegal memory access\nand a page of text")

    monkeypatch.setattr(module, "check_alone", broken)
    assert tried(CHOSEN[0], torch.device("cpu"), TARGETS["sm_90"]).detail == "RuntimeError: an illegal memory access"


def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["selftest"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "selftest needs a CUDA GPU" in err


def test_the_whole_run_keeps_its_outcome(here, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that is not there and cases that do not run: what passed is printed, kept, and taken."""
    here(120)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(module, "cuda_is_here", lambda: True)
    seen = []

    def check(layer, tensors, backend, probing=False):
        seen.append(of_device(0).held)
        wrong = backend == "cuda" and layer.call.op == "softmax"
        return SimpleNamespace(report=SimpleNamespace(ok=not wrong, detail="off by one" * wrong))

    monkeypatch.setattr(module, "operands", lambda *arguments: {})
    monkeypatch.setattr(module, "probes", lambda *arguments: {})
    monkeypatch.setattr(module, "check_alone", check)
    assert main(["selftest", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert set(proven.KERNELS) <= set(found["passed"]) and list(found["failed"]) == ["cuda/softmax"]
    assert not any(seen) and json.loads(Path(found["kept"]).read_text())["passed"] == found["passed"]
    assert not of_device(0).held and not here(120).held
    assert main(["selftest"]) == 1
    assert "WRONG   cuda/softmax: 3 cases, such as cuda float16 softmax" in capsys.readouterr().out.replace("\n", " ")


def test_results_of_a_gpu_whose_tests_passed_prove_its_kernels(tmp_path: Path) -> None:
    data = tmp_path / "proven.json"
    data.write_text(proven.DATA.read_text())
    tests = {"complete": True, "passed": 10, "failed": 0}
    document = {"gpu": "NVIDIA A100-SXM4-80GB", "date": "2026-12-01T10:00:00", "commit": "abcdef123456", "tests": tests}
    for change in (
        {"tests": {**tests, "failed": 1}},
        {"tests": None},
        {"commit": "abcdef1-dirty"},
        {"gpu": "Voodoo 2"},
    ):
        assert not prove(document | change, data) and data.read_text() == proven.DATA.read_text()
    assert prove(document, data)
    found = json.loads(data.read_text())
    assert found.keys() == {"80", "90"}
    assert found["80"]["kernels"] == dict.fromkeys(proven.KERNELS, "abcdef123456")
    assert (found["80"]["gpu"], found["80"]["date"]) == ("NVIDIA A100-SXM4-80GB", "2026-12-01")
    assert found["90"] == json.loads(proven.DATA.read_text())["90"]


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_pass() -> None:
    target = of_device(torch.cuda.current_device())
    tries = (tried(case, torch.device("cuda"), target) for case in cases(target) if case.mode == "float16")
    wrong = [f"{result.case}: {result.detail}" for result in tries if result.detail]
    assert not wrong
