"""Costly tests that rarely fail: `make test` runs a share of them that the commit's hash chooses, `make test-all` runs all.

Each has a cheap twin that always runs. CONVATLAS_TURN=number takes another share, such as the one that failed elsewhere.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
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


def share(things: Sequence[T], count: int = 1) -> list[T]:
    """`count` neighbours of `things`, from the turn's place on; all of them in a run of everything."""
    if EXHAUSTIVE:
        return list(things)
    start = turn() % len(things)
    return [*things[start:], *things[:start]][:count]
