"""The part of the fuzz that every test run has: fixed seeds, which also find each bug that was there once when it is put back."""

from __future__ import annotations

import pytest
from rotation import share

from fuzz import verdict
from fuzz.cases import Case
from fuzz.differences import DIFFERENCES, Difference
from fuzz.draw import BACKENDS, OPS
from fuzz.faults import FAULTS, Fault
from fuzz.process import verdicts
from fuzz.twist import draw
from fuzz.verdict import judge

pytestmark = [pytest.mark.interpreter, pytest.mark.filterwarnings("ignore")]

# Cases of an op, of which every run has a fifth, by turns: one costs some 4 ms on numpy, 30 in Triton's interpreter, and 10 in the
# host build once its kernels are compiled.
SEEDS = {"reference": 60, "numpy": 60, "triton": 50, "cuda": 25}


def cases(op: str, backend: str) -> list[Case]:
    """What is tried of an op on a backend; by turns, where no fault is planted."""
    return [draw(op, backend, seed) for seed in range(SEEDS[backend])]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", OPS)
def test_every_case_is_right(op: str, backend: str) -> None:
    tried = share(cases(op, backend), SEEDS[backend] // 5)
    failures = [f"{wrong}\n    from fuzz import *; replay({case!r})" for case, wrong in verdicts(tried) if wrong]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_finds_what_was_wrong_once(fault: Fault) -> None:
    tried = [*fault.cases, *(case for op in fault.ops.split() for case in cases(op, fault.backend))]
    assert any(wrong and wrong.startswith(fault.words) for _, wrong in verdicts(tried, fault.plant, fault.seconds))


@pytest.mark.parametrize("known", DIFFERENCES, ids=lambda d: d.why[:40])
def test_torch_does_differ_where_the_list_says_so(known: Difference, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge(known.example) is None
    monkeypatch.setattr(verdict, "difference", lambda *answers: None)
    reported = judge(known.example)
    assert reported is not None and reported.startswith(("refused, while torch", "accepted, while torch"))
