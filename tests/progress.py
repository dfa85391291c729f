"""What a run prints of itself: the folder of tests that it is in, its time when it is done, and at the end the costliest files.

CPU seconds are a test's own and those of the processes that it waited for, so a busy machine changes them little.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import rotation

SLOWEST = 12  # files named at the end


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def part(nodeid: str) -> str:
    """tests/kernels for tests/kernels/test_tma.py::test_x."""
    return nodeid.split("::")[0].rpartition("/")[0]


class Cost:
    """In each process that runs tests: notes on a test's last report what it cost."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.before = cpu_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        try:
            return (yield)
        finally:
            item.user_properties.append(("cpu_seconds", cpu_seconds() - self.before))


class Progress:
    """In the process that reports: counts what is left of each part."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.start = time.monotonic()
        self.left: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()  # by file

    def write(self, line: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.verbosity >= 0:
            reporter.ensure_newline()
            reporter.write_line(line)

    def pytest_report_header(self) -> str:
        if rotation.EXHAUSTIVE:
            return "costly tests: all (CONVATLAS_EXHAUSTIVE=1)"
        return f"costly tests: the share of turn {rotation.turn()}, of the commit's hash; `make test-all` runs all"

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not self.left:
            self.left.update(part(item.nodeid) for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        if not self.left:
            self.left.update(map(part, ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = part(report.nodeid)
        if not self.done[name]:
            self.done[name] = -1  # begun
            self.write(f"{name}: {self.left[name]} tests")
        if report.when != "teardown":
            return
        self.done[name] = max(self.done[name], 0) + 1
        self.left[name] -= 1
        self.seconds[report.nodeid.split("::")[0]] += dict(report.user_properties).get("cpu_seconds", 0.0)
        if self.left[name] == 0:
            cost = sum(seconds for file, seconds in self.seconds.items() if part(file + "::") == name)
            self.write(f"{name}: done, {cost:.0f} s of CPU time; {time.monotonic() - self.start:.0f} s since the start")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        total = sum(self.seconds.values())
        if total < 60:  # a few tests, whose costs nobody asks for
            return
        terminalreporter.section(f"CPU seconds by file, of {total:.0f}")
        for file, seconds in self.seconds.most_common(SLOWEST):
            terminalreporter.write_line(f"{seconds:7.1f}  {file}")
