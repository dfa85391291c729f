"""The networks' launches, compiled for GPUs that are not here: no spills, tensor cores, 16-byte accesses.

Of random convolutions, which no network need have, CI compiles a few of either backend from a fixed seed.

CI compiles one launch of each kernel for Hopper in float16 at batch 32, where every kernel is used, and by turns (rotation.py) a
quarter of what three networks and the extra calls launch on an architecture, in a mode, at a batch. `make test-all` compiles all
networks' launches for each of these 24 cells, and 300 random configs of each backend; CONVATLAS_SEED=... draws others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from inventory_runs import name, runs
from rotation import EXHAUSTIVE

from convatlas import kernels
from convatlas.codegen import inventory as inv
from convatlas.kernels.common.launch import Launch
from convatlas.kernels.common.target import TARGETS

CELLS = [(arch, mode, batch) for arch in (80, 90, 100) for mode in inv.MODES for batch in inv.BATCHES]
HOPPER, OF_EACH = (90, "float16", 32), ("--nets", "", "--one-of-each")
RUNS = runs(CELLS, (HOPPER, OF_EACH))
RUN = pytest.mark.parametrize(("cell", "chosen"), RUNS, ids=name)
COPIED = ("conv2d_tma_kernel", "conv2d_rows_kernel")  # by the tensor memory accelerator
DENSE = ("gemm_kernel", "conv2d_gather_kernel", "conv2d_stem_kernel", "weight_grad_kernel", *COPIED)
TENSOR_CORE = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cross_compile")]


@cache
def compiled(cell: tuple[int, str, int], chosen: tuple[str, ...]) -> list[dict]:
    """The inventory's records; compiled in processes of their own, since this one may interpret its kernels."""
    arch, mode, batch = cell
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "convatlas.codegen.inventory", f"{arch}:{mode}", "--batches", str(batch), *chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def describe(records: list[dict]) -> str:
    return "\n".join(
        f"{r['kernel']} sm_{r['arch']} {r['mode']}: {r['stack']} B of stack, {r['constants']}" for r in records
    )


@RUN
def test_compiles_without_spills_and_uses_the_hardware(cell: tuple[int, str, int], chosen: tuple[str, ...]) -> None:
    (arch, mode, _), records, all_here = cell, compiled(cell, chosen), "--part" not in chosen
    assert len(records) > (20 if all_here else 5)
    assert not (bad := [r for r in records if r["stack"] or r["spills"]]), describe(bad)
    dense = [r for r in records if r["kernel"] in DENSE]
    expected = None if mode == "float32" else TENSOR_CORE[arch]  # IEEE float32 has no tensor-core instruction
    assert not (bad := [r for r in dense if r["tensor_core"] != expected]), describe(bad)
    # Whole channel blocks are read 16 bytes a thread, by asynchronous copies into shared memory.
    even = [r for r in dense if r["constants"].get("EVEN_C") == "True" and r["constants"].get("PACK", "1") == "1"]
    assert even or not all_here
    bad = [r for r in even if not any(n.startswith("LDGSTS") and n.endswith("128") for n in r["accesses"])]
    assert not bad, describe(bad)
    copied = [r for r in records if r["kernel"] in COPIED]
    if all_here or copied:
        assert bool(copied) == (arch >= 90 and mode != "float32")
    bad = [r for r in copied if not any(n.startswith("UTMALDG") for n in r["accesses"])]
    assert not bad, describe(bad)
    # A channel multiplier reads channel k // multiplier, which no vector covers.
    wide = [r for r in records if r["kernel"] in ("depthwise_kernel", "max_pool_kernel", "global_pool_kernel")]
    wide = [r for r in wide if r["constants"].get("MULTIPLIER", "1") == "1"]
    bad = [r for r in wide if int(r["constants"]["BC"]) >= 32 and "LDG.E.128" not in "".join(r["accesses"])]
    assert (wide or not all_here) and not bad, describe(bad)


def test_the_repair_of_packed_groups_is_compiled() -> None:
    """The comparison that finds a NaN among wgmma's accumulators: ptxas of Triton 3.6 has dropped another form of it."""
    packed = [r for r in compiled(HOPPER, OF_EACH) if int(r["constants"].get("PACK", "1")) > 1]
    assert packed and not (bad := [r for r in packed if "FSETP" not in r["opcodes"]]), describe(bad)


def test_the_inventory_reaches_every_kernel() -> None:
    entries = inv.inventory({90: ["float16"]}, names=["resnet18"], batches=[1])
    launched = {entry.launch.kernel.__name__ for entry in entries}
    sources = Path(kernels.__file__).parent.rglob("*.py")
    written = {name for path in sources for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)}
    assert written and written - {"weight_grad_tma_kernel"} <= launched, written - launched  # which is forced only


def test_the_forced_weight_gradient_compiles() -> None:
    """Both operands by TMA and from shared memory, transposed there, in half precision, on Hopper and Blackwell."""
    code = (
        "import json\n"
        "from convatlas.codegen import inventory as inv\n"
        "from convatlas.codegen.cross_compile import compile_launch\n"
        "from convatlas.kernels.common.override import override\n"
        "from convatlas.kernels.weight_grad.configs import CopyConfig\n"
        "call = next(call for call in inv.gradient_calls() if call.op == 'conv2d_weight_grad')\n"
        "with override(CopyConfig()):\n"
        "    made = [compile_launch(inv.launches_of(call, 'float16', arch)[0], arch) for arch in (90, 100)]\n"
        "print(json.dumps([[c.kernel, c.stack, c.spills, c.tensor_core, list(c.accesses)] for c in made]))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for (kernel, stack, spills, core, accesses), expected in zip(json.loads(done.stdout), ("HGMMA", "UTCHMMA")):
        assert (kernel, stack, spills, core) == ("weight_grad_tma_kernel", 0, 0, expected)
        assert any(access.startswith("UTMALDG") for access in accesses)


@RUN
def test_shared_memory_fits(cell: tuple[int, str, int], chosen: tuple[str, ...]) -> None:
    limit = {80: 163, 90: 227, 100: 227}[cell[0]] * 1024
    assert not (bad := [r for r in compiled(cell, chosen) if r["shared"] > limit]), describe(bad)


# Of the seed's configs so many that the two take about 15 seconds of a CPU: those that once spilled, and a few drawn ones.
RANDOM = {"triton": 300, "cuda": 300} if EXHAUSTIVE else {"triton": 9, "cuda": 8}
without_cuda_core = pytest.mark.skipif(
    find_spec("cuda") is None or find_spec("cuda.core") is None, reason="needs cuda-core"
)


@pytest.mark.parametrize("backend", ["triton", pytest.param("cuda", marks=without_cuda_core)])
def test_random_convolutions_compile_without_spills(backend: str) -> None:
    """Windows, strides, dilations, groups, channel counts, dtypes and GPUs at random: bounds are of shapes, not of nets."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    seed, count = os.environ.get("CONVATLAS_SEED", "0"), str(RANDOM[backend])
    command = [sys.executable, "-m", "convatlas.codegen.random_calls", "--backend", backend, "--seed", seed]
    done = subprocess.run([*command, "--count", count], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    records = json.loads(done.stdout)
    assert len(records) == RANDOM[backend]
    bad = [
        r
        for r in records
        if r["stack"] or r["spills"] or r["registers"] > 255 or r["shared"] > TARGETS[f"sm_{r['arch']}"].shared
    ]
    assert not bad, "\n".join(f"{r['spec']}: {describe([r])}" for r in bad)


def test_an_interpreting_process_refuses_to_compile() -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("this process compiles")
    from convatlas.codegen.cross_compile import compile_launch
    from convatlas.errors import BackendError

    launch: Launch = inv.launches_of(next(call for call in inv.extra_calls() if call.op == "relu6"), "float16", 90)[0]
    with pytest.raises(BackendError, match="TRITON_INTERPRET"):
        compile_launch(launch, 90)


def test_a_planted_spill_is_found() -> None:
    """A tile of 256 accumulators a thread must spill: what the test above looks at does show it."""
    code = (
        "import dataclasses, json, sys\n"
        "from convatlas.codegen import inventory as inv\n"
        "from convatlas.codegen.cross_compile import compile_launch\n"
        "launches = (entry.launch for entry in inv.inventory({80: ['float16']}, ['resnet18'], [32]))\n"
        "gemm = next(launch for launch in launches if launch.kernel.__name__ == 'gemm_kernel')\n"
        "tile = gemm.constants['tile']._replace(BM=256, BN=128, BK=64)\n"
        "big = dataclasses.replace(gemm, constants={**gemm.constants, 'tile': tile}, num_warps=4)\n"
        "c = compile_launch(big, 80)\n"
        "print(json.dumps([c.stack, c.spills]))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    stack, spills = json.loads(done.stdout)
    assert stack > 0 and spills > 0


def test_settings_are_restored() -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    inv.launches_of(inv.extra_calls()[0], "tf32", 90)
    assert torch.backends.cudnn.conv.fp32_precision == before
