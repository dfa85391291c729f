"""Synthetic results for tests: pytest-benchmark's JSON and `make gpu`'s other files, from medians that a test plants."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from convatlas.results.kinds import sizes_of
from convatlas.specs import AdaptivePool2dSpec, Conv2dSpec, LinearSpec, Pool2dSpec, ResidualAddSpec, Spec

GPU = "NVIDIA Test 9000"
VERSIONS = {
    "convatlas": "0.0", "python": "3.12.1", "torch": "2.11.0", "triton": "3.6.0", "cuda": "13.0", "cudnn": "91300",
    "cupy": "14.2.0",
}  # fmt: skip
CLOCKS = {"sm_mhz": 1980, "mem_mhz": 2619, "temperature_c": 41, "power_w": 310.5, "throttle": ["power cap"]}
CEILINGS = {
    "gpu": GPU, "driver": "999.1", "versions": VERSIONS, "commit": "0123456789ab", "timer": "CUDA events", "clocks": CLOCKS,
    "copy_bytes_per_s": 2e12,
    "matmul_flops_per_s": {"float16": 8e14, "bfloat16": 7.5e14, "tf32": 4e14, "float32": 5e13},
    "launch_seconds": 2e-6,
}  # fmt: skip


def spec(op: str, text: str) -> Spec | None:
    """The spec that a test names by its text, with windows padded by half; None for an op whose sizes are not stored."""
    if op in ("net", "softmax"):
        return None
    N, *shape = tuple(int(n) for n in re.match(r"[\dx]+", text)[0].split("x"))

    def said(pattern: str, otherwise: int) -> int:
        found = re.search(pattern + r"(\d+)", text)
        return int(found[1]) if found else otherwise

    window, stride, groups = said(", (?:max )?", 0), said("stride", 1), said("groups", 1)
    if op == "conv2d":
        filters = (said("-> ", 0), shape[0] // groups, window, window)
        return Conv2dSpec.of((N, *shape), filters, stride, window // 2, 1, groups)
    if op == "linear":
        return LinearSpec.of((N, *shape), (int(text.rsplit("x", 1)[1]), shape[0]))
    if op == "adaptive_avg_pool2d":
        return AdaptivePool2dSpec.of((N, *shape), (1, 1))
    if op == "max_pool2d":
        return Pool2dSpec.of("max", (N, *shape), window, stride, window // 2)
    return ResidualAddSpec.of((N, *shape), (N, *shape))


def entries(
    what: str, medians: dict[str, float], seed: int = 0, noise: float = 0.002, samples: int = 15, dtype: str = "float16",
    batch: int = 32, places: dict[str, int] | None = None, epilogue: str = "bias+relu", **extra: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """A case's entries, one a contestant; `what` is "op spec", `medians` are seconds."""
    op, _, text = what.partition(" ")
    found = spec(op, text)
    sizes = {"kind": "network" if op == "net" else found.layer_kind if found else "other"} | (
        {"sizes": sizes_of(found)} if found else {}
    )
    generator = np.random.default_rng(seed)
    case = f"{' '.join(filter(None, (what, epilogue)))} | {dtype} batch{batch} cold graph"
    shared = {
        "suite": "layers", "op": op, "spec": text, **sizes, "epilogue": epilogue, "dtype": dtype, "batch": batch, "cache": "cold",
        "form": "graph", "timer": "CUDA events", "flops": 4_000_000_000, "bytes": 20_000_000, "places": places or {"resnet50": 1},
        "bound": "bandwidth", "gpu": GPU, "versions": VERSIONS, "clocks": CLOCKS,
    } | extra  # fmt: skip
    made = []
    for contestant, seconds in medians.items():
        data = seconds * np.exp(generator.normal(0, noise, samples))
        middle = float(np.median(data))
        extra_info = {
            **shared, "contestant": contestant, "tflops": shared["flops"] / middle / 1e12,
            "gbps": shared["bytes"] / middle / 1e9, "roofline_share": 1e-5 / middle, "relative_error": 3e-4,
        }  # fmt: skip
        made.append(
            {
                "group": case, "name": f"test[{case}-{contestant}]", "fullname": f"bench.py::test[{case}-{contestant}]",
                "params": {"case": case, "contestant": contestant},
                "stats": {"data": [float(x) for x in data], "median": middle}, "extra_info": extra_info,
            }
        )  # fmt: skip
    return made


def suite(benchmarks: list[dict[str, Any]]) -> dict[str, Any]:
    """pytest-benchmark's document."""
    return {
        "machine_info": {"node": "box", "cpu": {"brand_raw": "A CPU"}},
        "commit_info": {"id": "unversioned"},
        "benchmarks": benchmarks,
        "datetime": "2026-01-02T03:04:05+00:00",
        "version": "5.2.0",
    }


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def folder(path: Path, layers: list[dict], networks: list[dict] | None = None, **files: Any) -> Path:
    """What `make gpu OUT=path` leaves."""
    path.mkdir(parents=True, exist_ok=True)
    stages = {
        "layers": {
            "status": "done",
            "seconds": 100.0,
            "started": "2026-01-02T03:00:00+00:00",
            "reason": "",
            "steps": [],
        }
    }
    write(path / "state.json", {"rehearsal": False, "stages": stages})
    write(path / "ceilings.json", CEILINGS)
    write(
        path / "tests.json",
        {"passed": 2659, "failed": 0, "skipped": 3, "failures": [], "seconds": 120.0, "complete": True},
    )
    write(path / "layers.json", suite(layers))
    if networks is not None:
        write(path / "networks.json", suite(networks))
    for name, document in files.items():
        write(path / f"{name}.json", document)
    return path
