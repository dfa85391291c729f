"""Rotation leaves nothing out: what `make test` runs a share of is whole after as many commits as there are things."""

from __future__ import annotations

import pytest
import rotation
from inventory_runs import turns
from torch import cuda

from convatlas import nets


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 2, 7, 24])
def test_every_thing_has_its_turn(length: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "EXHAUSTIVE", False)
    things, seen = [f"thing {i}" for i in range(length)], []
    for turn in range(1000, 1000 + length):
        monkeypatch.setattr(rotation, "turn", lambda turn=turn: turn)
        chosen = rotation.share(things, count)
        assert len(chosen) == len(set(chosen)) == min(count, length)
        seen += chosen
    assert {seen.count(thing) for thing in things} == {min(count, length)}


def test_a_run_of_everything_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "EXHAUSTIVE", True)
    assert rotation.share(range(9), 2) == list(range(9))


def test_on_a_gpu_what_it_runs_quickly_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "EXHAUSTIVE", False)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    assert rotation.share(range(9), 2, on_gpu_all=True) == list(range(9)) and len(rotation.share(range(9), 2)) == 2


def test_the_turn_is_the_commits_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVATLAS_TURN", raising=False)
    rotation.turn.cache_clear()
    by_hash = rotation.turn()
    assert 0 <= by_hash < 2**32
    monkeypatch.setenv("CONVATLAS_TURN", "17")
    rotation.turn.cache_clear()
    assert rotation.turn() == 17
    rotation.turn.cache_clear()


def test_every_network_part_and_cell_is_compiled_in_some_turn() -> None:
    cells = [(80, "float16"), (90, "tf32")]
    found = turns(cells, 4)
    assert len(set(found)) == len(found) and {cell for cell, _ in found} == set(cells)
    for cell in cells:
        by_part = [options[1].split(",") for at, options in found if at == cell and options[3] == "3/4"]
        assert [name for group in by_part for name in group] == nets.names()


def test_a_rare_test_is_run_by_one_commit_in_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "EXHAUSTIVE", False)
    skipped = []
    for turn in range(6):
        monkeypatch.setattr(rotation, "turn", lambda turn=turn: turn)
        skipped.append(rotation.by_turns(3).args[0])
    assert skipped == [False, True, True] * 2
