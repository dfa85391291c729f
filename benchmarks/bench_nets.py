"""Whole networks against the same networks on torch.nn.functional: images a second (bench/networks.py).

pytest benchmarks/bench_nets.py --nets resnet50,vgg16 --batches 1,32 --compile
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convatlas.bench.cases import Case, net_cases
from convatlas.bench.harness import CLOCK

CASES = net_cases


@pytest.mark.benchmark(timer=CLOCK)
def test_nets(case: Case, contestant: str, raced: Callable[[Case, str], str]) -> None:
    assert raced(case, contestant) == ""
