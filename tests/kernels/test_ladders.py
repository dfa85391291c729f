"""Every step of the ladders in docs/ladders computes what the last one does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "docs/ladders/run.py"
spec = importlib.util.spec_from_file_location("ladders", RUN)
ladders = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ladders)


@pytest.mark.parametrize("name", ladders.LADDERS)
def test_every_step_is_right(name: str) -> None:
    errors = {launch.kernel: ladders.check(launch, expected) for launch, expected in ladders.LADDERS[name]()}
    assert len(errors) >= 3
    assert all(error < 2**-10 for error in errors.values()), errors
