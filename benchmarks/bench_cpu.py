"""What a machine without a GPU can measure, and what is predicted for machines with one.

    pytest benchmarks/bench_cpu.py

Three tables: the ways in which this CPU computes a layer, the time that compiling for a GPU takes, and the roofline's bounds on
named GPUs (bench/cpu.py says what each number is).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from convatlas.bench.compile_times import in_a_process
from convatlas.bench.cpu import CHOSEN, LAYERS, WAYS, bounds, cpu_race
from convatlas.bench.environment import versions
from convatlas.bench.harness import CLOCK, feed
from convatlas.bench.racing import Result
from convatlas.bench.timing import medians
from convatlas.errors import BackendError
from convatlas.study.roofline import A100, B200

ARCH = 90
COMPILE_SECONDS = 150.0

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
result_of = cache(lambda name: cpu_race(LAYERS()[name]))


@cache
def compiled() -> list[dict[str, Any]] | BackendError:
    """The records, or why there are none."""
    try:
        return in_a_process(ARCH, COMPILE_SECONDS)
    except BackendError as error:
        return error


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHOSEN)
def test_layer(name: str, way: str, benchmark: Any, cpu_tables: dict[str, Any]) -> None:
    layer, result = LAYERS()[name], result_of(name)
    assert way not in result.wrong, result.wrong[way]
    if way in result.absent:
        pytest.skip(result.absent[way])
    cpu_tables["layers"][name] = str(layer.spec), medians(result.measured)
    _record(benchmark, name, way, result, str(layer.spec))


def _record(benchmark: Any, name: str, way: str, result: Result, spec: str) -> None:
    benchmark.group, benchmark.params = (
        f"{name}: {spec} | float32 batch1 on this CPU",
        {"case": name, "contestant": way},
    )
    benchmark.extra_info.update(
        suite="cpu", contestant=way, spec=spec, timer="host clock", threads=torch.get_num_threads(), versions=versions(),
        relative_error=result.accuracy[way].error, absent=result.absent,
    )  # fmt: skip
    feed(benchmark, result.measured[way].seconds)


@pytest.mark.benchmark(timer=CLOCK, group=f"seconds to compile for sm_{ARCH}")
@pytest.mark.parametrize("compiler", ["Triton", "NVRTC"])
@pytest.mark.parametrize("name", CHOSEN)
def test_cross_compile(name: str, compiler: str, benchmark: Any, cpu_tables: dict[str, Any]) -> None:
    records = compiled()
    assert not isinstance(records, BackendError), str(records)
    cpu_tables["compiled"] = records
    (record,) = [r for r in records if (r["layer"], r["compiler"]) == (name, compiler)]
    if "missing" in record:
        pytest.skip(record["missing"])
    benchmark.extra_info.update(suite="cpu", timer="host clock", codes=record["codes"], versions=versions())
    assert record["codes"] >= 1
    feed(benchmark, [record["seconds"]])


def test_predicted_bounds(cpu_tables: dict[str, Any]) -> None:
    cpu_tables["bounds"] = found = bounds()
    by = {(r["net"], r["batch"], r["gpu"]): r["seconds"] for r in found}
    assert len(by) == len(found) and all(by[net, batch, B200.name] < by[net, batch, A100.name] for net, batch, _ in by)
