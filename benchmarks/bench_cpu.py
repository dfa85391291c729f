"""What a machine without a GPU can measure, and what is predicted for machines with one.

    pytest benchmarks/bench_cpu.py

The ways in which this CPU computes a layer, the time that compiling for a GPU takes, NumPy's reference against torch on every
distinct convolution of ResNet-50, and the roofline's bounds on named GPUs (bench/cpu.py says what each number is).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from convatlas.bench.compile_times import COMPILERS, compile_races
from convatlas.bench.cpu import CHOSEN, WAYS, bounds, convolutions, cpu_race, reference_race
from convatlas.bench.harness import CLOCK
from convatlas.errors import BackendError
from convatlas.model.gpu import gpu
from convatlas.results.standings import Race
from convatlas.specs import Conv2dSpec

ARCH = 90
COMPILE_SECONDS = 150.0

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
Stored = Callable[[Race, str], str]


@cache
def compiled() -> dict[str, Race] | str:
    """The races of compilers, or why there are none, which is asked once."""
    try:
        return compile_races(ARCH, COMPILE_SECONDS)
    except BackendError as error:
        return str(error)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHOSEN)
def test_layer(name: str, way: str, stored: Stored) -> None:
    assert stored(cpu_race(name), way) == ""


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", CHOSEN)
def test_cross_compile(name: str, compiler: str, stored: Stored) -> None:
    races = compiled()
    assert not isinstance(races, str), races
    assert stored(races[name], compiler) == ""


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", ["torch", "reference"])
@pytest.mark.parametrize("spec", convolutions(), ids=str)
def test_reference(spec: Conv2dSpec, way: str, stored: Stored) -> None:
    assert stored(reference_race(spec), way) == ""


def test_predicted_bounds(shown: Callable[[Race], None]) -> None:
    for race in bounds():
        shown(race)
        assert race.entries[gpu("b200").title].median < race.entries[gpu("a100-80").title].median
