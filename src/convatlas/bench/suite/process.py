"""A command under a hard limit: its own process group, told to stop at the limit, killed soon after."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE = 8.0  # seconds between "stop" and "killed": pytest writes its reports when it is interrupted
HEARTBEAT = 15.0
TAIL = 25  # lines of output that are kept for a report
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: of its exit; negative for a signal.
        cut: it was stopped, at its limit or because the suite was.
        seconds: it ran.
        tail: its last lines.
    """

    code: int
    cut: bool
    seconds: float
    tail: tuple[str, ...]
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.cut

    @property
    def reason(self) -> str:
        """Why it is not ok, in one line."""
        if self.interrupted:
            return "interrupted"
        if self.cut:
            return f"stopped at its limit after {self.seconds:.0f} s"
        last = next((line for line in reversed(self.tail) if line.strip()), "no output")
        return f"exit code {self.code}: {last.strip()[:160]}"


def _prepare() -> None:
    """Runs in the child: the kernel kills it when its parent dies, however that happens, so that no GPU work is orphaned.

    It listens to SIGINT even if the suite does not, as a shell has it for what it runs in the background.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def outside_xdist() -> dict[str, str]:
    """The environment, less what makes a pytest below this one its worker: as such pytest-benchmark stores nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}


def run(
    command: Sequence[str], limit: float, environment: dict[str, str], folder: Path, say: Callable[[str], None]
) -> Ended:
    """Runs `command` in `folder` for `limit` seconds at most; `say` gets a line now and then.

    GRACE of the limit is for its end: it is interrupted at limit - GRACE, and its whole process group is killed at the limit.
    A KeyboardInterrupt meanwhile stops it in the same way, and is reported instead of raised; a second one is raised.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=folder,
        env={**outside_xdist(), **environment}, start_new_session=True, preexec_fn=_prepare,
    )  # fmt: skip
    tail: deque[str] = deque(maxlen=TAIL)
    reader = threading.Thread(target=lambda: tail.extend(line.rstrip() for line in process.stdout), daemon=True)
    reader.start()
    cut = interrupted = False
    soft, hard = start + max(limit - GRACE, limit / 2), start + limit
    try:
        try:
            cut = _watch(process, start, soft, limit, tail, say)
        except KeyboardInterrupt:
            cut = interrupted = True
            hard = min(hard, time.monotonic() + GRACE)
        if cut:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(hard - time.monotonic(), 0.0))
    finally:
        _kill_group(process)
    reader.join(timeout=5)
    return Ended(process.returncode, cut, time.monotonic() - start, tuple(tail), interrupted)


def _watch(
    process: subprocess.Popen, start: float, end: float, limit: float, tail: deque[str], say: Callable[[str], None]
) -> bool:
    """Waits for the process until `end`, with a line now and then; whether it still runs."""
    beat = start + HEARTBEAT
    while process.poll() is None:
        now = time.monotonic()
        if now >= end:
            return True
        if now >= beat:
            beat += HEARTBEAT
            last = tail[-1].strip()[-100:] if tail else ""
            say(f"  {now - start:4.0f} s of {limit:.0f} s  {last}")
        time.sleep(0.1)
    return False


def _kill_group(process: subprocess.Popen) -> None:
    """Kills what is left of the group: the command if it runs on, and workers that it left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
