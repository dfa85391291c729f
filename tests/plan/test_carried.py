"""Plans that travel with compiled kernels: made without a GPU, launched without a compiler, refused or left aside in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from counting_driver import Counting
from torch import nn

import convatlas
from convatlas.codegen.stub import stubbed
from convatlas.errors import ArgumentError, BackendError, ConvAtlasWarning, InputError
from convatlas.kernels.common.driver import LaunchConfig, Unprepared
from convatlas.plan import carried, saved
from convatlas.plan.plan import LoadedPlan, load_plan

pytest.importorskip("cuda.core", reason="NVRTC comes by cuda-core")

# Of both languages; on an H100 Triton's are launched by programmatic dependent launch.
MAKE = """
import sys, torch, convatlas
from torch import nn
torch.manual_seed(0)
layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(),
          nn.Conv2d(64, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 16)]
plan = convatlas.compile(nn.Sequential(*layers).eval().half(), torch.randn(2, 3, 16, 16).half())
plan.save(sys.argv[1], kernels=True, gpu="h100-sxm")
"""
STEPS = ["conv2d", "max_pool2d", "conv2d", "conv2d", "adaptive_avg_pool2d", "linear"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by a process that interprets no kernels."""
    path = tmp_path_factory.mktemp("carried") / "x.plan"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", MAKE, str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return path


class Server(Counting):
    """A driver that loads cubins, and has nothing else to launch."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[tuple[bytes, str, int]] = []
        self.launched: list[tuple[int, int, bool]] = []  # function, shared memory, dependent

    def load(self, code: bytes, function: str, shared: int, device: int) -> int:
        self.functions.append((code, function, shared))
        return len(self.functions)

    def loaded(self, launch: Any, compiled: Any) -> Any:
        raise AssertionError("a kernel that did not come with the plan")

    def launch(self, config: int, function: int, parameters: int, device: int) -> None:
        super().launch(config, function, parameters, device)
        found = LaunchConfig.from_address(config)
        self.launched.append((function, found.shared, found.count == 1))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """As if an H100 were here, and no compiler."""

    def never(*args: Any, **keywords: Any) -> None:
        raise AssertionError("a compiler was called")

    for name in ("triton.compile", "triton.compiler.compile", "triton.runtime.jit.JITFunction.run"):
        monkeypatch.setattr(name, never)
    for name in ("gpu.kept", "gpu.kernel", "nvrtc.compiled"):
        monkeypatch.setattr(f"convatlas.kernels.common.cuda.{name}", never)
    monkeypatch.setattr("convatlas.plan.plan.architecture", lambda device: "sm_90")
    monkeypatch.setattr("convatlas.plan.program.arch_of", lambda device: 90)
    with stubbed(Server()) as state:
        yield state.driver


def kernels_of(plan: LoadedPlan) -> list[Any]:
    return [launch for ready in plan.program().steps for launch in ready.launches]


def test_every_launch_has_its_machine_code_and_is_launched_without_a_compiler(file: Path, server: Server) -> None:
    plan = load_plan(file)
    assert [row.op for row in plan.layers] == STEPS and {row.backend for row in plan.layers} == {"triton", "cuda"}
    launches = kernels_of(plan)
    assert plan.carried.used == set(map(carried.key_of, launches)) and not plan.carried.missed
    for code, function, _ in server.functions:
        assert code.startswith(b"\x7fELF") and function.encode() in code
    assert plan(torch.zeros(2, 3, 16, 16).half()).shape == (2, 16)
    assert server.count == len(launches) == len(server.functions)
    dependent = [launch.constants["mode"].DEPENDENT for launch in launches if hasattr(launch, "constants")]
    assert [one for *_, one in server.launched] == [
        getattr(launch, "options", {}).get("launch_pdl", False) for launch in launches
    ]
    assert any(dependent)
    plan(torch.zeros(2, 3, 16, 16).half())
    assert server.count == 2 * len(launches)
    assert plan.report().endswith(f"kernels of the file: {len(plan.carried.used)} launched without a compiler")


def test_the_parameters_are_those_that_this_process_would_pack(file: Path, server: Server) -> None:
    """The signatures of the file are those that Triton's launcher would find here."""
    from convatlas.kernels.common.compiling import specialize

    plan = load_plan(file)
    found = [
        (plan.carried.records[carried.key_of(launch)], specialize(launch)[0])
        for launch in kernels_of(plan)
        if hasattr(launch, "constants")
    ]
    assert len(found) >= 3 and all(_listed(record["signature"]) == _listed(own) for record, own in found)


def _listed(signature: Any) -> Any:
    if isinstance(signature, dict):
        return {name: _listed(kind) for name, kind in signature.items()}
    return list(map(_listed, signature)) if isinstance(signature, (list, tuple)) else signature


def test_kernels_that_do_not_fit_are_left_aside_with_the_reason(
    file: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> int:
        raise Unprepared("the driver refuses a cubin: no kernel image is available")

    with stubbed():  # on a server with a compiler
        for patch, reason in (
            (("convatlas.plan.carried.version", lambda name: "3.0.0"), "made by Triton .*, and here is 3.0.0"),
            (("convatlas.kernels.common.proven.sources", lambda: "x"), "made from other kernels"),
            (("convatlas.codegen.stub.Stub.load", refuse), "no kernel image is available"),
            (("convatlas.plan.program.arch_of", lambda device: 80), "4 that it has not are compiled here"),
        ):
            with monkeypatch.context() as patched:
                patched.setattr("convatlas.codegen.stub.Stub.load", lambda *given: 1, raising=False)
                patched.setattr(*patch, raising=False)
                with pytest.warns(ConvAtlasWarning, match=reason) as said:
                    plan = load_plan(file)
                assert len(said) == 1 and "\n" not in str(said[0].message) and "compiled here" in plan.report()
                assert [row.op for row in plan.layers] == STEPS
        plan = load_plan(file, kernels=False)
        assert plan.carried is None and "kernels of the file" not in plan.report()


def test_a_file_whose_kernels_are_not_what_they_are_called_is_refused(file: Path, server: Server, monkeypatch) -> None:
    right = saved.read

    def changed(path: Any) -> Any:
        document, tensors = right(path)
        name = next(name for name in tensors if name.startswith(saved.CODE))
        tensors[name] = tensors[name] ^ 1
        return document, tensors

    def without(path: Any) -> Any:
        document, tensors = right(path)
        return document, {name: x for name, x in tensors.items() if not name.startswith(saved.CODE)}

    for read, reason in ((changed, "kernel .* is damaged"), (without, "kernel .* has no machine code")):
        monkeypatch.setattr("convatlas.plan.plan.read", read)
        with pytest.raises(InputError, match=reason):
            load_plan(file)


def test_machine_code_is_stored_once_by_its_hash(file: Path) -> None:
    document, tensors = saved.read(file)
    code = {name.removeprefix(saved.CODE): x for name, x in tensors.items() if name.startswith(saved.CODE)}
    assert all(sha256(x.numpy().tobytes()).hexdigest() == name for name, x in code.items())
    assert {record["code"] for record in document["kernels"]["records"].values()} == set(code)
    assert document["architecture"] == "sm_90" and document["kernels"]["made"] == carried.made_by()


def test_wrong_uses_are_one_line(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = convatlas.compile(nn.Conv2d(3, 4, 3).eval(), torch.zeros(2, 3, 8, 8), backend="numpy")
    path = tmp_path / "x.plan"
    for error, expected, keywords in (
        (ArgumentError, "kernels of a plan on a CPU, expected gpu=NAME", {"kernels": True}),
        (InputError, "h100-sxm", {"gpu": "h100-sxn"}),
        (ArgumentError, 'backend "numpy"', {"gpu": "h100-sxm"}),
    ):
        with pytest.raises(error, match=expected) as said:
            plan.save(path, **keywords)
        assert "\n" not in str(said.value) and not path.exists()
    automatic = convatlas.compile(nn.Conv2d(3, 4, 3).eval(), torch.zeros(2, 3, 8, 8))
    with pytest.raises(BackendError, match="TRITON_INTERPRET"):
        automatic.save(path, kernels=True, gpu="a100-80")
    automatic.save(path, gpu="a100-80")  # without kernels nothing is compiled
    with pytest.raises(InputError, match="made for sm_80, and here is cpu"):
        load_plan(path)
    monkeypatch.setattr("convatlas.plan.plan.architecture", lambda device: "sm_90")
    with stubbed(), pytest.raises(ArgumentError, match="no module"):
        load_plan(file, kernels=False).save(path, gpu="h100-sxm")
