"""What a stage is: its commands, how long they may take, and what becomes of their output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convatlas.bench.suite.process import Ended

# Merge(document so far or None, step, path of the step's output, how it ended) -> the document, None for nothing to write.
Merge = Callable[[Any, str, Path, Ended], Any]


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        out: the output folder.
        root: of the repository; commands run there.
        benchmarks: the folder of bench_*.py.
        rehearsal: a CPU and an invented clock.
        workers: processes that may work at once.
    """

    out: Path
    root: Path
    benchmarks: Path
    rehearsal: bool
    workers: int

    @property
    def rehearse(self) -> list[str]:
        return ["--rehearse"] * self.rehearsal


@dataclass(frozen=True)
class Step:
    """One command of a stage.

    Attributes:
        name: unique in its stage.
        command: (output file, seconds) -> the command, which may end by itself before the seconds are over.
        codes: exit codes that count as finished: pytest's 1 means that tests failed, which is a result.
        environment: added to the process's.
        most: seconds, whatever its stage has left.
        least: seconds below which it is not begun.
        unfinished: (output file) -> what is missing although the command ended by itself, "" for nothing.
    """

    name: str
    command: Callable[[Path, float], list[str]]
    codes: tuple[int, ...] = (0,)
    environment: dict[str, str] = field(default_factory=dict)
    most: float = float("inf")
    least: float = 5.0
    unfinished: Callable[[Path], str] = lambda output: ""


@dataclass(frozen=True)
class Stage:
    """One file of results.

    Attributes:
        name: for STAGE=...
        file: in the output folder.
        seconds, share: what it may take, as said above.
        least: seconds below which it is not begun.
        steps: in order of priority.
        merge: takes a step's output into the file.
    """

    name: str
    file: str
    seconds: float
    share: float
    least: float
    steps: Callable[[Settings], list[Step]]
    merge: Merge
