"""Programmatic dependent launch: no kernel has the launch's attribute without the wait in front of all that it reads and writes."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rotation import share

from convatlas import kernels
from convatlas.codegen.stub import Stub
from convatlas.kernels.common.arguments import Mode
from convatlas.kernels.common.cuda import gpu
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.cuda.source import ROOT, waits
from convatlas.kernels.common.driver import LaunchAttribute, LaunchConfig
from convatlas.kernels.common.launch import Launch
from convatlas.kernels.common.parameters import loaded
from convatlas.plan.carried import key_of
from convatlas.plan.program import arch_of, early

# One launch of each kernel that is named, or is the turn's, compiled for sm_90 with the attribute and without.
SCRIPT = """
import json, re, sys
from convatlas.codegen.inventory import backward_calls, extra_calls, launches_of
from convatlas.kernels.common.compiling import assemble

MEMORY = re.compile(r"\\b(ld\\.global|st\\.global|cp\\.async|atom\\.|red\\.|ldu)")
launches = {}
for call in [*extra_calls(), *backward_calls()]:
    for launch in launches_of(call, "float16", 90):
        launches.setdefault(launch.kernel.__name__, launch)
found = {}
for name in sys.argv[1:]:
    launch = launches[name]
    dependent, kernel = launch.dependent, assemble(launch.dependent, 90)
    body = kernel.asm["ptx"].split(".entry")[1]
    places = [body.find("griddepcontrol." + word) for word in ("wait", "launch_dependents")]
    plain = assemble(launch, 90)
    found[name] = [kernel.metadata.launch_pdl, *places, MEMORY.search(body).start(),
                   plain.metadata.launch_pdl or "griddepcontrol" in plain.asm["ptx"]]
print(json.dumps(found))
"""
CANNOT = {"join_stats_kernel", "join_sums_kernel"}  # no Mode: launched plainly
# The same of CUDA C++, compiled by NVRTC, whose machine code calls the wait ACQBULK.
CUDA_SCRIPT = """
import json, re, sys
from convatlas.codegen import sass
from convatlas.codegen.inventory import backward_calls, extra_calls, launches_of, network_calls
from convatlas.codegen.block_calls import small_block_calls
from convatlas.codegen.nvrtc import assemble

MEMORY = re.compile(r"\\b(ld\\.global|st\\.global|cp\\.async|atom\\.|red\\.|ldu|ld\\.[vfbsu]|st\\.[vfbsu])")
launches = {}
for call in [*network_calls(["resnet50", "mobilenet_v2"], (32,)), *extra_calls(), *backward_calls(), *small_block_calls("float16")]:
    for launch in launches_of(call, "float16", 90, "cuda"):
        launches.setdefault(launch.kernel, launch)
found = {}
for name in json.loads(sys.argv[1]) or launches:
    launch = launches[name].dependent
    ptx, cubin, mangled = assemble(launch.source, launch.expression, 90, launch.early)
    body = ptx.split(".entry")[1]
    code = [one.opcode for one in sass.listing(cubin)[mangled]]
    touched = next(i for i, one in enumerate(code) if one.startswith(("LDG", "STG", "LD.", "ST.", "RED", "ATOM", "UTMA")))
    found[name] = [*(body.find("griddepcontrol." + word) for word in ("wait", "launch_dependents")), MEMORY.search(body).start(),
                   code.index("ACQBULK"), code.index("PREEXIT"), touched]
print(json.dumps(found))
"""


def _kernels() -> dict[str, ast.FunctionDef]:
    """Every Triton kernel that a launcher launches."""
    folder = Path(kernels.__file__).parent
    files = [*folder.glob("*/triton*.py"), folder / "common" / "splitk.py"]
    nodes = (node for file in files for node in ast.parse(file.read_text()).body)
    return {f.name: f for f in nodes if isinstance(f, ast.FunctionDef) and f.name.endswith("_kernel")}


def test_every_kernel_with_a_mode_begins_with_the_wait() -> None:
    """What a launch takes for a sign that a kernel can wait is that it has a Mode: so its first line must be the wait."""
    found = _kernels()
    assert len(found) > 15
    for name, function in found.items():
        has_mode = "mode" in [argument.arg for argument in function.args.args]
        assert has_mode is (name not in CANNOT), name
        body = function.body
        first = body[1] if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else body[0]
        assert not has_mode or ast.unparse(first) == "begin(mode)", name


def test_the_attribute_and_the_wait_are_one_constant() -> None:
    plain = Launch(None, (1,), {}, {"mode": Mode(None, "ieee", False, False)})
    assert plain.dependent.options["launch_pdl"] and plain.dependent.constants["mode"].DEPENDENT
    assert "launch_pdl" not in plain.options and plain.dependent.dependent == plain.dependent
    without = Launch(None, (1,), {}, {"BLOCK": 4})
    assert without.dependent is without and "launch_pdl" not in without.options


@pytest.mark.slow
@pytest.mark.xdist_group("cross_compile")
def test_nothing_is_touched_before_the_wait() -> None:
    """In the machine's order, of a share of the kernels by turns; that each begins with the wait is seen above."""
    names = sorted(_kernels().keys() - {"weight_grad_tma_kernel"})  # which is forced only
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT, *share(names, 6)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) >= 6
    for name, (attribute, wait, trigger, memory, plain) in found.items():
        assert not plain, name
        assert attribute is (name not in CANNOT), name
        assert not attribute or 0 < wait < trigger < memory, name


def _cuda_kernels() -> dict[str, str]:
    """Every CUDA C++ kernel, and the file that it is in."""
    folder = Path(kernels.__file__).parent
    texts = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.cu")}
    return {name: source for source, text in texts.items() for name in re.findall(r"__global__.*\b(\w+)\(const", text)}


def test_every_kernel_in_cuda_cpp_begins_with_the_wait(tmp_path: Path) -> None:
    """A kernel without it is launched plainly: what this holds is that a plan's chain has no gaps."""
    found = _cuda_kernels()
    assert len(found) > 25
    for name, source in found.items():
        assert waits(source, name), f"{name} ({source}): begin() does not stand in front of all"
        wider = source.replace(".cu", "_activations.cu")
        assert not (ROOT / wider).exists() or waits(wider, name), name
    path = tmp_path / "late.cu"
    path.write_text("template <typename T> __global__ void late(const P p) {\n    int i = p.x[0];\n    begin();\n}\n")
    late = CudaLaunch(str(path), "late", ("float",), (1,), 32, {})
    assert late.dependent is late  # no attribute without the wait in front of all
    path = tmp_path / "two.cu"
    path.write_text(
        "__global__ void none(const P p) {\n    g(p);\n}\n__global__ void other(const P p) {\n    begin();\n}\n"
    )
    assert not waits(str(path), "none") and waits(str(path), "other")
    plain = CudaLaunch("softmax/softmax.cu", "softmax", ("float",), (1,), 32, {})
    assert plain.dependent.early and plain.dependent == replace(plain, early=True) and not plain.early


def test_a_cpu_runs_a_dependent_launch_as_any_other() -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    found = []
    for dependent in (False, True):
        y = torch.full_like(x, float("nan"))
        arguments = dict(x=x, y=y, length=40, inner=1)
        CudaLaunch("softmax/softmax.cu", "softmax", ("float",), (3,), 128, arguments, 32, True, dependent).run()
        found.append(y)
    assert torch.equal(*found)


class _Driver(Stub):
    """Notes what it is asked to launch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []
        self.loaded = loaded  # a handle's own

    def launch(self, config: int, function: int, given: int, device: int) -> None:
        found = LaunchConfig.from_address(config)
        attributes = [(a.id, a.value) for a in (LaunchAttribute * found.count).from_address(found.attributes)]
        sizes = found.gridX, found.gridY, found.gridZ, found.blockX, found.blockY, found.shared
        params = ctypes.string_at(ctypes.c_void_p.from_address(given).value, 8)
        self.seen.append((*sizes, attributes, function, params, device))


def test_the_driver_is_told_of_a_dependent_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy knows no attributes: the launch goes by cuLaunchKernelEx, with the compiled-in wait and the attribute together."""
    driver, asked = _Driver(), []
    handle = SimpleNamespace(kernel=SimpleNamespace(ptr=5))
    monkeypatch.setattr(gpu, "kernel", lambda *given: asked.append(given) or gpu.Kernel(handle))
    monkeypatch.setattr(gpu, "cuda_driver", lambda: driver)
    x = torch.zeros(2, 40)
    arguments = dict(x=x, y=x, length=40, inner=1)
    launch = CudaLaunch("softmax/softmax.cu", "softmax", ("float",), (2,), 128, arguments, 32, True)
    gpu.run(launch.dependent, torch.device("cuda", 1))
    assert asked == [(launch.source, launch.expression, 1, True)]
    assert driver.seen == [(2, 1, 1, 128, 1, 32, [(6, b"\1")], 5, x.data_ptr().to_bytes(8, "little"), 1)]
    assert ctypes.sizeof(LaunchAttribute) == 72 and LaunchConfig.attributes.offset == 40  # as cuda.h has them
    assert key_of(launch) != key_of(launch.dependent)  # a file that carries the one has not the other


# Two kernels of one file a turn: NVRTC takes seconds a file.
CHOSEN = share(sorted(_cuda_kernels()), 2)


@pytest.mark.slow
@pytest.mark.xdist_group("cross_compile")
@pytest.mark.skipif(find_spec("cuda") is None or find_spec("cuda.core") is None, reason="needs cuda-core")
def test_nothing_is_touched_before_the_wait_in_cuda_cpp() -> None:
    done = subprocess.run([sys.executable, "-c", CUDA_SCRIPT, json.dumps(CHOSEN)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found.keys() == set(CHOSEN)
    for name, (wait, trigger, memory, acquired, released, touched) in found.items():
        assert 0 < wait < trigger < memory, name
        assert acquired < released < touched, name


@pytest.mark.parametrize(
    "capability, asked, expected",
    [
        ((9, 0), None, True), ((9, 0), "1", True), ((9, 0), "0", False),
        ((10, 0), None, False), ((10, 0), "1", True), ((8, 9), "1", False),
    ],
)  # fmt: skip
def test_it_is_on_where_it_was_measured_or_asked_for(
    capability: tuple[int, int], asked: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.delenv("CONVATLAS_DEPENDENT", raising=False)
    if asked is not None:
        monkeypatch.setenv("CONVATLAS_DEPENDENT", asked)
    arch = arch_of(torch.device("cuda"))
    assert (Launch in early(arch)) is expected
    assert (CudaLaunch in early(arch)) is (expected and asked == "1")  # no GPU has run these yet
    monkeypatch.setattr("convatlas.plan.program.depends", lambda of: of == arch)
    assert early(arch) == ((Launch, CudaLaunch) if expected else ())
