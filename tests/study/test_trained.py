"""What training decides of the lecture: the stored numbers are those that training gives, and verdicts follow from them."""

from __future__ import annotations

from typing import Any

import pytest
from rotation import EXHAUSTIVE, share

from convatlas.ops.backends import use_backend
from convatlas.study import lecture
from convatlas.study.lecture import resnet, trained
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import FAILS, HOLDS, Finding


def find(topic: str, says: str) -> Finding:
    (claim,) = (claim for claim in lecture.topic(topic).claims if says in claim.says)
    return claim.compute(Atlas())


@pytest.mark.parametrize("name", share(trained.STEPPED))
def test_steps_are_stored_as_they_are_counted(name: str) -> None:
    assert {k: list(v) if k == "first" else v for k, v in trained.step(name).items()} == trained.load()["steps"][name]


def test_gradients_are_stored_as_training_gives_them() -> None:
    """The first norms; what follows amplifies the last bits of a BLAS (train/steps.py)."""
    with use_backend("numpy"):
        found = trained.gradients("plain18", count=0)
    assert found["start"] == pytest.approx(trained.load()["gradients"]["plain18"]["start"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(not EXHAUSTIVE, reason="half a minute; `make test-all` runs it, its twin above always runs")
def test_auxiliary_gradients_are_stored_as_they_come() -> None:
    with use_backend("numpy"):
        found = trained.auxiliary(0)
    for name, norms in trained.load()["auxiliary"][0].items():
        assert found[name] == pytest.approx(norms, rel=1e-2)


def test_the_spread_by_hand() -> None:
    assert resnet.spread([1, 4, 9, 9, 16, 1]) == pytest.approx(2) == resnet.spread([16, 1, 9, 9, 4, 1])
    assert resnet.spread([3.0] * 7) == 1


def test_verdicts_follow_from_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, Any] = trained.load()
    monkeypatch.setattr(trained, "load", lambda: held)
    steep, flat = [4.0, 2.0, 1.0], [1.0, 1.0, 1.0]
    for plain, residual, verdict in ((steep, flat, HOLDS), (flat, steep, FAILS)):
        for name in trained.BY_DEPTH:
            norms = plain if name.startswith("plain") else residual
            held["gradients"][name] = {"start": norms, "later": norms}
        assert find("resnet", "lets the gradient through").verdict == verdict
    for factor, verdict in ((1.2, HOLDS), (0.5, FAILS)):
        held["auxiliary"] = [{"with": [factor] * 3, "without": [1.0] * 3}]
        assert find("googlenet", "bring gradient").verdict == verdict
    held["steps"] = {
        "resnet50": {**held["steps"]["resnet50"], "all": [1, 3], "first": [1, 2], "memory": 10, "inference": 1}
    }
    assert find("resnet", "three forward passes").verdict == HOLDS
    held["steps"]["resnet50"]["inference"] = 20
    assert find("resnet", "more memory").verdict == FAILS
