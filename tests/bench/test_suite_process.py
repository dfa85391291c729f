"""A stage's command under its limit: told to stop, killed with all its children, never orphaned."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convatlas.bench.suite import process

ROOT = Path(__file__).resolve().parents[2]


def silent(line: str) -> None:
    pass


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    """Whether a process of that number runs; a zombie, which nobody has waited for yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_command_that_ends_in_time() -> None:
    ended = process.run(python("print('one'); print('two')"), 30, {}, ROOT, silent)
    assert ended.ok and ended.tail == ("one", "two") and ended.reason == "exit code 0: two"


def test_a_command_is_told_to_stop_before_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes when it is interrupted is kept, which is how pytest leaves its reports."""
    monkeypatch.setattr(process, "GRACE", 10.0)
    code = "import time\ntry:\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('stopped')"
    ended = process.run(python(code), 12, {}, ROOT, silent)
    assert ended.cut and not ended.ok and ended.tail == ("stopped",) and ended.seconds < 11


def test_a_command_that_does_not_stop_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.5)
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    code = (
        "import signal, subprocess, sys, time, pathlib; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}]); pathlib.Path('pid').write_text(str(p.pid)); time.sleep(60)"
    )
    ended = process.run(python(code), 3, {}, tmp_path, silent)
    assert ended.code == -signal.SIGKILL and ended.cut and ended.seconds < 5
    pid = int((tmp_path / "pid").read_text())
    assert until(lambda: not alive(pid))


def test_an_interrupt_stops_it_in_the_same_way_and_is_reported(tmp_path: Path) -> None:
    inner = (
        "import time\nprint('begun', flush=True)\ntry:\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('stopped')"
    )
    outer = (
        "import signal, sys; from pathlib import Path; from convatlas.bench.suite import process\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler); process.HEARTBEAT = 0.2\n"
        f"print(process.run([sys.executable, '-c', {inner!r}], 60, {{}}, Path('.'), lambda line: print(line, flush=True)))"
    )
    suite = subprocess.Popen(python(outer), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in suite.stdout:
        if "begun" in line:
            suite.terminate()
            break
    rest, _ = suite.communicate(timeout=20)
    assert "tail=('begun', 'stopped'), interrupted=True" in rest


def test_nothing_outlives_a_suite_that_is_killed(tmp_path: Path) -> None:
    inner = "import os, time, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    outer = (
        "import sys; from pathlib import Path; from convatlas.bench.suite.process import run\n"
        f"run([sys.executable, '-c', {inner!r}], 60, {{}}, Path({str(tmp_path)!r}), print)"
    )
    parent = subprocess.Popen(python(outer), cwd=ROOT)
    try:
        assert until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not alive(pid))
