"""Steps of SGD through our ops, each held to PyTorch's from the same weights (train/steps.py): losses, gradients, bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rotation import EXHAUSTIVE, share
from torch import Tensor

from convatlas.ops import backward
from convatlas.train import steps

NETS = ("squeezenet1_1", "resnet18", "mobilenet_v2", "googlenet")
COUNT = 100 if EXHAUSTIVE else 3  # on numpy; a step of the interpreted kernels takes 3 to 30 s


@pytest.mark.parametrize("net", share(NETS))
def test_steps_are_pytorchs(net: str) -> None:
    found = steps.run(net, "numpy", COUNT)
    assert found.within and found.same and found.steps == COUNT
    assert found.first != found.last


@pytest.mark.slow
@pytest.mark.skipif(not EXHAUSTIVE, reason="a minute a net; `make test-all` runs it, its twin on numpy always runs")
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("net", NETS)
def test_kernels_steps_are_pytorchs(net: str, backend: str) -> None:
    found = steps.run(net, backend, 2, 32, 2)
    assert found.within and found.same


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = backward._filters

    def planted(*given: object) -> dict[str, Tensor]:
        return {name: g * 1.001 for name, g in right(*given).items()}

    monkeypatch.setattr(backward, "_filters", planted)
    found = steps.run("squeezenet1_1", "numpy", 1, again=False)
    assert not found.within and found.gradient == pytest.approx(0.001, rel=0.01)
    assert not found.same  # no second run showed it


def test_runs_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    for seconds in (1.0, 2.0):
        steps.store(steps.Run("resnet18", "numpy", 32, 4, 100, seconds, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, "", True), path)
    (row,) = json.loads(path.read_text())
    assert row["seconds"] == 2.0 and row["net"] == "resnet18"
