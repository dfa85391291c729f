"""The distinct layers of all networks, by our backends, PyTorch's operators and cuDNN's fused forms.

pytest benchmarks/bench_layers.py --kind pooling,stem --dtypes fp16 --batches 32 --nets resnet50 --benchmark-json out.json
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convatlas.bench.cases import Case, layer_cases
from convatlas.bench.harness import CLOCK

CASES = layer_cases


@pytest.mark.benchmark(timer=CLOCK)
def test_layers(case: Case, contestant: str, raced: Callable[[Case, str], str]) -> None:
    assert raced(case, contestant) == ""
