"""Every CUDA C++ instantiation that the networks need, compiled for GPUs that are not here: no spills, tensor cores, vectors.

CI compiles float16 for Hopper and one more mode and architecture, by turns (rotation.py); `make test-all` every mode for each.
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
from rotation import share

from convatlas import kernels
from convatlas.codegen.inventory import MODES
from convatlas.kernels.common.target import TARGETS

CELLS = [(arch, mode) for arch in (80, 90, 100) for mode in MODES]
CHOSEN = {(90, "float16"), *share(CELLS)}
ARCHITECTURES = sorted({arch for arch, _ in CHOSEN})
SUMS = ("pool_image", "norm_s", "depthwise_grad")  # kernels that store one number for many that they read
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("cross_compile"),
    pytest.mark.skipif(find_spec("cuda") is None or find_spec("cuda.core") is None, reason="needs cuda-core"),
]


@cache
def _compiled() -> list[dict]:
    """The inventory's records; compiled in processes of their own, since NVRTC failed in one that had imported CuPy."""
    targets = [f"{arch}:{','.join(m for a, m in sorted(CHOSEN) if a == arch)}" for arch in ARCHITECTURES]
    command = [sys.executable, "-m", "convatlas.codegen.inventory", *targets, "--backend", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def compiled(arch: int) -> list[dict]:
    """The records of one architecture."""
    return [record for record in _compiled() if record["arch"] == arch]


def template(record: dict) -> list[str]:
    return re.search(r"<(.*)>", record["kernel"])[1].split(", ")


def describe(records: list[dict]) -> str:
    return "\n".join(f"{r['kernel']} sm_{r['arch']}: {r['stack']} B of stack, {r['accesses']}" for r in records)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_spills_and_no_local_memory(arch: int) -> None:
    records = compiled(arch)
    assert len(records) > 25
    bad = [r for r in records if r["stack"] or r["opcodes"].get("LDL") or r["opcodes"].get("STL")]
    assert not bad, describe(bad)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_tensor_cores_where_they_should_be(arch: int) -> None:
    """mma.sync is HMMA on every architecture here, TF32's too; IEEE float32 has no tensor-core instruction."""
    dense = [r for r in compiled(arch) if r["kernel"].startswith(("implicit_gemm", "weight_grad"))]
    assert len(dense) > 4
    bad = [r for r in dense if ("HMMA" in r["opcodes"]) != (template(r)[1] == "true")]
    stems = [r for r in compiled(arch) if r["kernel"].startswith("conv2d_stem")]
    blocks = [r for r in compiled(arch) if r["kernel"].startswith(("bottleneck", "basic_block", "persistent<"))]
    bad += [r for r in (*stems, *blocks) if "HMMA" not in r["opcodes"]]
    assert bool(stems) == any(a == arch and mode in ("float16", "bfloat16") for a, mode in CHOSEN)  # no stem in float32
    assert not bad, describe(bad)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_vector_paths_move_16_bytes(arch: int) -> None:
    def access(record: dict, name: str) -> bool:
        return any(a.startswith(name) and a.endswith("128") for a in record["accesses"])

    records = compiled(arch)
    dense = [r for r in records if r["kernel"].startswith("implicit_gemm")]
    asynchronous = [r for r in dense if template(r)[7] in ("VECTORS", "PACKED", "ELEMENTS_B")]
    bad = [r for r in asynchronous if not access(r, "LDGSTS")] + [r for r in dense if not access(r, "STG")]
    assert asynchronous and not bad, describe(bad)
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
    # A tile comes by cp.async; sums are stored one by one.
    bad = [
        r for r in vectors
        if not (access(r, "LDGSTS" if "_tile" in r["kernel"] else "LDG"))
        or not (access(r, "STG") or r["kernel"].startswith(SUMS))
    ]  # fmt: skip
    assert len(vectors) > 8 and not bad, describe(bad)
    streams = [r for r in records if r["kernel"].startswith("gemv") and template(r)[1] in ("4", "8")]
    bad = [r for r in streams if not access(r, "LDG")]
    assert streams and not bad, describe(bad)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shared_memory_fits(arch: int) -> None:
    records = compiled(arch)
    bad = [r for r in records if r["shared"] > TARGETS[f"sm_{arch}"].shared]
    assert any(r["shared"] for r in records) and not bad, describe(bad)


def test_the_inventory_reaches_every_kernel() -> None:
    text = "\n".join(path.read_text() for path in Path(kernels.__file__).parent.rglob("*.cu"))
    written = set(re.findall(r"__global__ void __launch_bounds__\(.*\) (\w+)\(", text))
    launched = {r["kernel"].split("<")[0] for r in compiled(90)}
    assert len(written) > 10 and written == launched
