"""Programmatic dependent launch: no kernel has the launch's attribute without the wait in front of all that it reads and writes."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convatlas import kernels
from convatlas.kernels.common.arguments import Mode
from convatlas.kernels.common.launch import Launch
from convatlas.plan.program import arch_of, may_depend

# One launch of every kernel that the inventory knows, compiled for sm_90 with the attribute and without.
SCRIPT = """
import json, re
from convatlas.codegen.inventory import extra_calls, launches_of, network_calls
from convatlas.kernels.common.compiling import assemble

MEMORY = re.compile(r"\\b(ld\\.global|st\\.global|cp\\.async|atom\\.|red\\.|ldu)")
launches = {}
for call in [*network_calls(["resnet50", "mobilenet_v2"], (32,)), *extra_calls()]:
    for launch in launches_of(call, "float16", 90):
        launches.setdefault(launch.kernel.__name__, launch)
found = {}
for name, launch in launches.items():
    dependent, kernel = launch.dependent, assemble(launch.dependent, 90)
    body = kernel.asm["ptx"].split(".entry")[1]
    places = [body.find("griddepcontrol." + word) for word in ("wait", "launch_dependents")]
    plain = assemble(launch, 90)
    found[name] = [kernel.metadata.launch_pdl, *places, MEMORY.search(body).start(),
                   plain.metadata.launch_pdl or "griddepcontrol" in plain.asm["ptx"]]
print(json.dumps(found))
"""
CANNOT = {
    "stem_pack_kernel",
    "softmax_kernel",
    "softmax_grad_kernel",
    "join_stats_kernel",
    "join_sums_kernel",
}  # no Mode: launched plainly


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
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) > 15
    for name, (attribute, wait, trigger, memory, plain) in found.items():
        assert not plain, name
        assert attribute is (name not in CANNOT), name
        assert not attribute or 0 < wait < trigger < memory, name


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
    assert may_depend(arch_of(torch.device("cuda"))) is expected
