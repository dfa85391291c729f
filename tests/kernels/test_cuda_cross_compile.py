"""Every CUDA C++ instantiation that the networks need, compiled for GPUs that are not here: no spills, tensor cores, vectors.

CI compiles for Hopper in float16 one instantiation of each kernel and of each of its ways to read memory, and by turns
(rotation.py) a quarter of what three networks and the extra calls launch on an architecture in a mode; `make test-all` compiles
all networks' instantiations in every mode for each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from inventory_runs import name, runs

from convatlas import kernels
from convatlas.codegen.inventory import MODES
from convatlas.kernels.common.target import TARGETS

CELLS = [(arch, mode) for arch in (80, 90, 100) for mode in MODES]
HOPPER, OF_EACH = (90, "float16"), ("--nets", "resnet18", "--one-of-each")
RUNS = runs(CELLS, (HOPPER, OF_EACH))
RUN = pytest.mark.parametrize(("cell", "chosen"), RUNS, ids=name)
SUMS = ("pool_image", "norm_s", "depthwise_grad")  # kernels that store one number for many that they read
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("cross_compile"),
    pytest.mark.skipif(find_spec("cuda") is None or find_spec("cuda.core") is None, reason="needs cuda-core"),
]


@cache
def compiled(cell: tuple[int, str], chosen: tuple[str, ...]) -> list[dict]:
    """The inventory's records; compiled in processes of their own, since NVRTC failed in one that had imported CuPy."""
    arch, mode = cell
    command = [sys.executable, "-m", "convatlas.codegen.inventory", f"{arch}:{mode}", *chosen, "--backend", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def template(record: dict) -> list[str]:
    return re.search(r"<(.*)>", record["kernel"])[1].split(", ")


def describe(records: list[dict]) -> str:
    return "\n".join(f"{r['kernel']} sm_{r['arch']}: {r['stack']} B of stack, {r['accesses']}" for r in records)


@RUN
def test_no_spills_and_no_local_memory(cell: tuple[int, str], chosen: tuple[str, ...]) -> None:
    records = compiled(cell, chosen)
    assert len(records) > (5 if "--part" in chosen else 20)
    bad = [r for r in records if r["stack"] or r["opcodes"].get("LDL") or r["opcodes"].get("STL")]
    assert not bad, describe(bad)


@RUN
def test_tensor_cores_where_they_should_be(cell: tuple[int, str], chosen: tuple[str, ...]) -> None:
    """mma.sync is HMMA on every architecture here, TF32's too; IEEE float32 has no tensor-core instruction."""
    records, all_here = compiled(cell, chosen), "--part" not in chosen
    dense = [r for r in records if r["kernel"].startswith(("implicit_gemm", "weight_grad"))]
    assert len(dense) > 3 or not all_here
    bad = [r for r in dense if ("HMMA" in r["opcodes"]) != (template(r)[1] == "true")]
    stems = [r for r in records if r["kernel"].startswith("conv2d_stem")]
    blocks = [r for r in records if r["kernel"].startswith(("bottleneck", "basic_block", "persistent<"))]
    bad += [r for r in (*stems, *blocks) if "HMMA" not in r["opcodes"]]
    if all_here or stems:
        assert bool(stems) == (cell[1] in ("float16", "bfloat16"))  # no stem in float32
    assert not bad, describe(bad)


@RUN
def test_vector_paths_move_16_bytes(cell: tuple[int, str], chosen: tuple[str, ...]) -> None:
    def access(record: dict, name: str) -> bool:
        return any(a.startswith(name) and a.endswith("128") for a in record["accesses"])

    records, all_here = compiled(cell, chosen), "--part" not in chosen
    dense = [r for r in records if r["kernel"].startswith("implicit_gemm")]
    asynchronous = [r for r in dense if template(r)[7] in ("VECTORS", "PACKED", "ELEMENTS_B")]
    bad = [r for r in asynchronous if not access(r, "LDGSTS")] + [r for r in dense if not access(r, "STG")]
    assert (asynchronous or not all_here) and not bad, describe(bad)
    names = (
        "depthwise",
        "pool",
        "elementwise",
        "activation_grad",
        "channel_scale",
        "batch_norm",
        "norm_s",
        "norm_input",
    )
    vectors = [r for r in records if r["kernel"].startswith(names) and template(r)[1] in ("4", "8")]
    vectors = [r for r in vectors if not r["kernel"].startswith("pool_pointwise")]  # whose number is of stages
    # A tile comes by cp.async; sums are stored one by one.
    bad = [
        r for r in vectors
        if not (access(r, "LDGSTS" if "_tile" in r["kernel"] else "LDG"))
        or not (access(r, "STG") or r["kernel"].startswith(SUMS))
    ]  # fmt: skip
    assert (len(vectors) > 8 or not all_here) and not bad, describe(bad)
    streams = [r for r in records if r["kernel"].startswith("gemv") and template(r)[1] in ("4", "8")]
    bad = [r for r in streams if not access(r, "LDG")]
    assert (streams or not all_here) and not bad, describe(bad)


@RUN
def test_shared_memory_fits(cell: tuple[int, str], chosen: tuple[str, ...]) -> None:
    records = compiled(cell, chosen)
    bad = [r for r in records if r["shared"] > TARGETS[f"sm_{cell[0]}"].shared]
    assert any(r["shared"] for r in records) and not bad, describe(bad)


def test_the_inventory_reaches_every_kernel() -> None:
    text = "\n".join(path.read_text() for path in Path(kernels.__file__).parent.rglob("*.cu"))
    written = set(re.findall(r"__global__ void __launch_bounds__\(.*\) (\w+)\(", text))
    launched = {r["kernel"].split("<")[0] for r in compiled(HOPPER, OF_EACH)}
    assert len(written) > 10 and written == launched
