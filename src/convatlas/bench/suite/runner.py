"""Runs the stages: what is finished is on disk at once and not run again, what takes too long is stopped."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from convatlas.bench.suite import process
from convatlas.bench.suite.stage import Settings, Stage, Step
from convatlas.bench.suite.stages import STAGES, limits
from convatlas.bench.suite.state import StageState, State, read_json, sweep, write_json

INTERPRETER = {"TRITON_INTERPRET": "1"}  # a rehearsal's kernels


class Runner:
    """One run over one output folder."""

    def __init__(self, settings: Settings, minutes: float, named: Sequence[str], say: Callable[[str], None]) -> None:
        """`named` stages run, and again if they are done; without any, all that are not done."""
        self.settings, self.say = settings, say
        self.named = tuple(named)
        self.budget = minutes * 60
        self.end = time.monotonic() + self.budget
        self.state = State(settings.out, settings.rehearsal)
        sweep(settings.out)

    def run(self) -> None:
        """Every stage that is to run. KeyboardInterrupt passes through, once the stage it met is recorded as partial."""
        todo = [s for s in STAGES if (s.name in self.named if self.named else self.state.status(s.name) != "done")]
        for stage in STAGES:
            if stage not in todo and not self.named:
                self.say(f"{stage.name}: done before, {self.state.stages[stage.name].seconds:.0f} s")
        for stage in todo:
            left = self.end - time.monotonic()
            if left < stage.least:
                self._skip(stage, f"{max(left, 0):.0f} s of the budget left, it needs {stage.least:.0f} s")
                continue
            self._stage(stage, limits(stage, self.budget, left, last=stage is todo[-1]))

    def _skip(self, stage: Stage, reason: str) -> None:
        """What an earlier run finished of it stays as it is."""
        entry = self.state.stages.setdefault(stage.name, StageState("skipped"))
        entry.reason = reason
        self.state.save()
        self.say(f"{stage.name}: {'left ' if entry.status != 'skipped' else ''}{entry.status}: {reason}")

    def _stage(self, stage: Stage, limit: float) -> None:
        start = time.monotonic()
        before = self.state.stages.get(stage.name)
        resumes = before is not None and stage.name not in self.named
        entry = StageState(
            "running",
            before.seconds if resumes else 0.0,
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "it was killed while it ran",
            list(before.steps) if resumes else [],
        )
        self.state.stages[stage.name] = entry
        self.state.save()
        self.say(f"{stage.name}: begins, {limit:.0f} s at most")
        spent = entry.seconds
        try:
            reasons = self._steps(stage, entry, start + limit, fresh=not resumes)
            entry.status, entry.reason = ("partial", "; ".join(reasons)) if reasons else ("done", "")
            if not (self.settings.out / stage.file).exists():
                entry.status, entry.reason = "failed", entry.reason or "it left no result"
        except KeyboardInterrupt:
            entry.status, entry.reason = "partial", "interrupted"
            raise
        finally:
            entry.seconds = round(spent + time.monotonic() - start, 1)
            self.state.save()
            self.say(f"{stage.name}: {entry.status}, {entry.seconds:.0f} s{': ' * bool(entry.reason)}{entry.reason}")

    def _steps(self, stage: Stage, entry: StageState, end: float, fresh: bool) -> list[str]:
        """Runs the steps that are not finished; the reasons why some still are not."""
        file = self.settings.out / stage.file
        document = None if fresh else read_json(file)
        steps, reasons = stage.steps(self.settings), []
        for step in steps:
            if step.name in entry.steps:
                continue
            left = min(end - time.monotonic(), step.most)
            if left < step.least:
                reasons.append(f"{step.name}: no time left")
                continue
            with tempfile.TemporaryDirectory(prefix="convatlas-") as folder:
                output = Path(folder) / "output"
                ended = self._command(step, output, left)
                document = stage.merge(document, step.name, output, ended)
                missing = step.unfinished(output)
            if document is not None:
                if isinstance(document, dict) and self.settings.rehearsal:
                    document = {"rehearsal": "invented times on a CPU, no measurement", **document}
                write_json(file, document, compact=True)
            if ended.cut or ended.code not in step.codes:
                reasons.append(f"{step.name}: {ended.reason}")
            elif missing:
                reasons.append(f"{step.name}: {missing}")
            else:
                entry.steps.append(step.name)
            self.state.save()
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
