"""Published convolutions: DeepBench's and convnet-benchmarks' layers (bench/published.py), against cuDNN through PyTorch.

They have batch sizes of their own: --batches and --nets do not apply.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convatlas.bench.cases import Case, published_cases
from convatlas.bench.harness import CLOCK

CASES = published_cases


@pytest.mark.benchmark(timer=CLOCK)
def test_published(case: Case, contestant: str, raced: Callable[[Case, str], str]) -> None:
    assert raced(case, contestant) == ""
