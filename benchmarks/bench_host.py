"""The host's time of an op and of a network's forward, with a driver that launches nothing (bench/host.py).

    pytest benchmarks/bench_host.py

Target: at most 15 us an op at the median over ResNet-50's and MobileNetV2's ops, on two quiet cores.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from convatlas.bench.environment import versions
from convatlas.bench.harness import CLOCK, feed
from convatlas.bench.host import NETS, WAYS, HostTime, forward_times, host_times, layers

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
times = cache(host_times)
forwards = cache(forward_times)


def _layers() -> list[str]:
    return [timed.name for timed in layers()]


def _feed(benchmark: Any, group: str, way: str, time: HostTime) -> None:
    benchmark.group, benchmark.params = group, {"case": group, "contestant": way}
    benchmark.extra_info.update(
        suite="host", contestant=way, places=time.places, timer="host clock", driver="stub", versions=versions()
    )
    assert len(time.seconds[way]) > 1
    feed(benchmark, time.seconds[way])


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", range(len(_layers())), ids=_layers())
def test_op(at: int, way: str, benchmark: Any, cpu_tables: dict[str, Any]) -> None:
    cpu_tables["host"] = times()
    time = times()[at]
    assert time.median("prepared") < time.median("ordinary")
    _feed(benchmark, f"{time.name}, host's time of a launch with {time.backend}", way, time)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("net", NETS)
def test_forward(net: str, way: str, benchmark: Any, cpu_tables: dict[str, Any]) -> None:
    cpu_tables["forwards"] = forwards()
    assert forwards()[net].median("prepared") < forwards()[net].median("ordinary")
    _feed(benchmark, f"{net}, host's time of a forward", way, forwards()[net])
