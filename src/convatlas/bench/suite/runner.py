"""Runs the stages: what is finished is on disk at once and not run again, what takes too long is stopped."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from convatlas.bench.suite import process
from convatlas.bench.suite.outputs import read_json
from convatlas.bench.suite.stages import STAGES, Settings, Stage, Step, limits
from convatlas.errors import InputError
from convatlas.files import write_json

STATE = "state.json"
INTERPRETER = {"TRITON_INTERPRET": "1"}  # a rehearsal's kernels


@dataclass
class StageState:
    """One stage's entry in state.json.

    Attributes:
        status: "done", "partial", "failed", "skipped"; "running" in a file means that the run was killed there.
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


def states(folder: Path, rehearsal: bool) -> dict[str, StageState]:
    """What state.json of an output folder says of each stage that was begun.

    Raises InputError where a rehearsal and a measurement would share a folder.
    """
    path = folder / STATE
    found = {"rehearsal": rehearsal, "stages": {}} if not path.exists() else read_json(path)
    try:
        held, stages = found["rehearsal"], {name: StageState(**entry) for name, entry in found["stages"].items()}
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{path}: expected the state of a run of this suite; remove it to measure anew") from None
    if held != rehearsal:
        kinds = {True: "a rehearsal", False: "a measurement"}
        raise InputError(
            f"{folder} holds {kinds[not rehearsal]}, asked for {kinds[rehearsal]}: expected another folder (OUT=...)"
        )
    return stages


class Runner:
    """One run over one output folder."""

    def __init__(self, settings: Settings, minutes: float, named: Sequence[str], say: Callable[[str], None]) -> None:
        """`named` stages run, and again if they are done; without any, all that are not done."""
        self.settings, self.say, self.named = settings, say, tuple(named)
        self.budget = minutes * 60
        self.end = time.monotonic() + self.budget
        self.stages = states(settings.out, settings.rehearsal)
        for path in settings.out.glob(".convatlas.*.partial"):  # a run that was killed while it wrote has left it
            path.unlink()

    def save(self) -> None:
        stages = {name: asdict(entry) for name, entry in self.stages.items()}
        write_json(self.settings.out / STATE, {"rehearsal": self.settings.rehearsal, "stages": stages})

    def _done(self, stage: Stage) -> bool:
        return stage.name in self.stages and self.stages[stage.name].status == "done"

    def run(self) -> None:
        """Every stage that is to run. KeyboardInterrupt passes through, once the stage it met is recorded as partial."""
        todo = [stage for stage in STAGES if (stage.name in self.named if self.named else not self._done(stage))]
        for stage in STAGES:
            if stage not in todo and not self.named:
                self.say(f"{stage.name}: done before, {self.stages[stage.name].seconds:.0f} s")
        for stage in todo:
            left = self.end - time.monotonic()
            if left < stage.least:
                self._skip(stage, f"{max(left, 0):.0f} s of the budget left, it needs {stage.least:.0f} s")
            else:
                self._stage(stage, limits(stage, self.budget, left, last=stage is todo[-1]))

    def _skip(self, stage: Stage, reason: str) -> None:
        """What an earlier run finished of it stays as it is."""
        entry = self.stages.setdefault(stage.name, StageState("skipped"))
        entry.reason = reason
        self.save()
        self.say(f"{stage.name}: {'left ' if entry.status != 'skipped' else ''}{entry.status}: {reason}")

    def _stage(self, stage: Stage, limit: float) -> None:
        start, now = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
        before = self.stages.get(stage.name, StageState("")) if stage.name not in self.named else StageState("")
        resumes = bool(before.status)
        entry = StageState("running", before.seconds, now, "it was killed while it ran", list(before.steps))
        self.stages[stage.name] = entry
        self.save()
        self.say(f"{stage.name}: begins, {limit:.0f} s at most")
        try:
            reasons = self._steps(stage, entry, start + limit, fresh=not resumes)
            entry.status, entry.reason = ("partial", "; ".join(reasons)) if reasons else ("done", "")
            if not (self.settings.out / stage.file).exists():
                entry.status, entry.reason = "failed", entry.reason or "it left no result"
        except KeyboardInterrupt:
            entry.status, entry.reason = "partial", "interrupted"
            raise
        finally:
            entry.seconds = round(before.seconds + time.monotonic() - start, 1)
            self.save()
            self.say(f"{stage.name}: {entry.status}, {entry.seconds:.0f} s{': ' * bool(entry.reason)}{entry.reason}")

    def _steps(self, stage: Stage, entry: StageState, end: float, fresh: bool) -> list[str]:
        """Runs the steps that are not finished; the reasons why some still are not."""
        file = self.settings.out / stage.file
        document, reasons = None if fresh else read_json(file), []
        for step in stage.steps(self.settings):
            if step.name in entry.steps:
                continue
            left = min(end - time.monotonic(), step.most)
            if left < step.least:
                reasons.append(f"{step.name}: no time left")
                continue
            with tempfile.TemporaryDirectory(prefix="convatlas-") as folder:
                output = Path(folder) / "output"
                ended = self._command(step, output, left)
                document, missing = stage.merge(document, step.name, output, ended)
            if document is not None:
                if self.settings.rehearsal:
                    document = {"rehearsal": "invented times on a CPU, no measurement", **document}
                write_json(file, document, compact=True)
            if ended.cut or ended.code not in step.codes:
                missing = ended.reason
            if missing:
                reasons.append(f"{step.name}: {missing}")
            else:
                entry.steps.append(step.name)
            self.save()
            if ended.interrupted:
                raise KeyboardInterrupt
        return reasons

    def _command(self, step: Step, output: Path, limit: float) -> process.Ended:
        environment = {**step.environment, **(INTERPRETER if self.settings.rehearsal else {})}
        self.say(f"  {step.name}: {limit:.0f} s at most")
        command = step.command(output, limit - process.GRACE)
        ended = process.run(command, limit, environment, self.settings.root, self.say)
        if ended.cut or ended.code not in step.codes:
            for line in ended.tail:
                self.say(f"    | {line[:200]}")
        self.say(f"  {step.name}: {ended.seconds:.0f} s{'' if ended.ok else ', ' + ended.reason}")
        return ended
