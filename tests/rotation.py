"""Costly tests that rarely fail: `make test` runs a share of them that the commit's hash chooses, `make test-all` runs all.

Each has a cheap twin that always runs. CONVATLAS_TURN=number takes another share, such as the one that failed elsewhere. The
shares of as many turns in a row as there are things are all of them: tests/packaging/test_rotation.py holds `share` to it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
from torch import cuda

T, W = TypeVar("T"), TypeVar("W")
EXHAUSTIVE = os.environ.get("CONVATLAS_EXHAUSTIVE") == "1"


@cache
def turn() -> int:
    """CONVATLAS_TURN, else the first 8 hexadecimal digits of the commit that is checked out as a number, else 0."""
    if given := os.environ.get("CONVATLAS_TURN"):
        return int(given)
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # not a clone, or no git
        return 0
    return int(found.stdout[:8], 16)


def with_ways(cases: Iterable[T], ways: Sequence[W], count: int = 1, *, on_gpu_all: bool = False) -> list[tuple[T, W]]:
    """Each case with `count` of the ways: the share of the turn, which begins one way further with each case."""
    found = []
    for i, case in enumerate(cases):
        at = i % len(ways)
        found += [(case, way) for way in share([*ways[at:], *ways[:at]], count, on_gpu_all=on_gpu_all)]
    return found


def by_turns(of: int) -> pytest.MarkDecorator:
    """Marks a test that one commit in `of` runs."""
    return pytest.mark.skipif(share(range(of)) != [0] and not EXHAUSTIVE, reason=f"one commit in {of} runs it")


def share(things: Sequence[T], count: int = 1, *, on_gpu_all: bool = False) -> list[T]:
    """`count` of `things`, evenly spaced from the turn's place on; all of them in a run of everything.

    on_gpu_all: all of them where there is a GPU, too; of cases that run on it, which takes them little time.
    """
    if EXHAUSTIVE or count >= len(things) or (on_gpu_all and cuda.is_available()):
        return list(things)
    start, length = turn(), len(things)
    return [things[(start + i * length // count) % length] for i in range(count)]
