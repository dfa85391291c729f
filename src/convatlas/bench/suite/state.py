"""What a run has finished: state.json, and files that are there whole or not at all."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from convatlas.errors import InputError
from convatlas.files import write_text

STATUSES = ("done", "partial", "failed", "skipped", "running")
STATE = "state.json"


def sweep(folder: Path) -> None:
    """Removes what a run that was killed while it wrote has left under a temporary name."""
    for path in folder.glob(".convatlas.*.partial"):
        path.unlink()


def write_json(path: Path, document: Any, compact: bool = False) -> None:
    """JSON by write_text; `compact` without the spaces, for files that count in megabytes."""
    text = json.dumps(document, separators=(",", ":")) if compact else json.dumps(document, indent=1)
    write_text(path, text + "\n")


def rounded(value: Any, digits: int) -> Any:
    """Floats at so many significant digits, in all of a document; infinity and NaN, which JSON lacks, as text."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {name: rounded(item, digits) for name, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list) else value


def read_json(path: Path) -> Any:
    """The document in `path`, None where there is no such file. Raises InputError for a file that is no JSON."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}, expected a JSON file of this suite; remove it to measure anew") from None


@dataclass
class StageState:
    """One stage's entry.

    Attributes:
        status: one of STATUSES; "running" in a file means that the run was killed there.
        seconds: it took, all runs together.
        started: when, ISO 8601 in UTC.
        reason: why it is not done; "" for one that is.
        steps: names of its steps that are finished.
    """

    status: str
    seconds: float = 0.0
    started: str = ""
    reason: str = ""
    steps: list[str] = field(default_factory=list)


class State:
    """state.json of one output folder: {"rehearsal": bool, "stages": {name: StageState}}."""

    def __init__(self, folder: Path, rehearsal: bool) -> None:
        """Reads what is there. Raises InputError where a rehearsal and a measurement would share a folder."""
        self.path, self.rehearsal = folder / STATE, rehearsal
        found = {"rehearsal": rehearsal, "stages": {}} if not self.path.exists() else read_json(self.path)
        try:
            held, self.stages = (
                found["rehearsal"],
                {name: StageState(**entry) for name, entry in found["stages"].items()},
            )
        except (AttributeError, KeyError, TypeError):
            raise InputError(
                f"{self.path}: expected the state of a run of this suite; remove it to measure anew"
            ) from None
        if held != rehearsal:
            kinds = {True: "a rehearsal", False: "a measurement"}
            raise InputError(
                f"{folder} holds {kinds[not rehearsal]}, asked for {kinds[rehearsal]}: expected another folder (OUT=...)"
            )

    def save(self) -> None:
        stages = {name: asdict(entry) for name, entry in self.stages.items()}
        write_json(self.path, {"rehearsal": self.rehearsal, "stages": stages})

    def status(self, name: str) -> str:
        """The status of a stage; "" for one that was never begun."""
        return self.stages[name].status if name in self.stages else ""
