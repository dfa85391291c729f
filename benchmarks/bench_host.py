"""The host's time of an op, of a network's forward and of a call of its plan, with a driver that launches nothing (bench/host.py).

    pytest benchmarks/bench_host.py

Target: at most 15 us an op at the median over ResNet-50's and MobileNetV2's ops, on two quiet cores.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from convatlas.bench.harness import CLOCK
from convatlas.bench.host import NETS, WAYS, forward_race, layers, op_races, plan_race
from convatlas.results.standings import Race

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
NAMES = [timed.name for timed in layers()]


def check(race: Race, way: str, stored: Callable[[Race, str], str]) -> None:
    assert stored(race, way) == ""
    assert race.entries["prepared"].median < race.entries["ordinary"].median


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_op(at: int, way: str, stored: Callable[[Race, str], str]) -> None:
    check(op_races()[at], way, stored)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("net", NETS)
def test_forward(net: str, way: str, stored: Callable[[Race, str], str]) -> None:
    check(forward_race(net), way, stored)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", ["launched", "call"])
@pytest.mark.parametrize("net", NETS)
def test_plan(net: str, way: str, stored: Callable[[Race, str], str]) -> None:
    assert stored(plan_race(net), way) == ""
