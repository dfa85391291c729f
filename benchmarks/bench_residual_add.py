"""The residual sum as a kernel of its own, of all ResNets, against PyTorch's addition."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convatlas.bench.cases import Case, residual_cases
from convatlas.bench.harness import CLOCK

CASES = residual_cases


@pytest.mark.benchmark(timer=CLOCK)
def test_residual_add(case: Case, contestant: str, raced: Callable[[Case, str], str]) -> None:
    assert raced(case, contestant) == ""
