"""Max, average and adaptive average pooling of all networks, against cuDNN through PyTorch.

pytest benchmarks/bench_pool.py --dtypes fp16 --batches 32 --nets resnet50 --benchmark-json out.json
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convatlas.bench.cases import Case, Choice, kind, layer_cases
from convatlas.bench.harness import CLOCK


def CASES(choice: Choice) -> list[Case]:
    return layer_cases(choice, lambda layer: kind(layer) == "pool")


@pytest.mark.benchmark(timer=CLOCK)
def test_pool(case: Case, contestant: str, raced: Callable[[Case, str], str]) -> None:
    assert raced(case, contestant) == ""
