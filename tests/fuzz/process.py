"""Runs cases in a child process with limits, so that one that hangs, crashes or takes all memory is a finding and not the end."""

from __future__ import annotations

import os
import pickle
import resource
import select
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from fuzz.cases import Case
from fuzz.verdict import judge

CPU_SECONDS = 20  # of one case: a kernel may have to be compiled first, in a process of its own
WALL_SECONDS = 240  # of one case, against a deadlock; long, for a busy machine
MEMORY = 3 << 30  # bytes beyond what the process has mapped


def verdicts(
    cases: Sequence[Case], before: Callable[[], None] | None = None, seconds: int = CPU_SECONDS
) -> Iterator[tuple[Case, str | None]]:
    """(case, what is wrong with it or None), in order, as they are found.

    before: called in each child before its first case; fuzz.faults plants a fault by it.
    seconds: of CPU time that a case may take.
    """
    start = 0
    while start < len(cases):
        for verdict in _child(cases[start:], before, seconds):
            yield cases[start], verdict
            start += 1


def _child(cases: Sequence[Case], before: Callable[[], None] | None, seconds: int) -> Iterator[str | None]:
    """The verdicts of a child, the last one its death where it died."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _work(cases, before, seconds, writing)
        finally:
            os._exit(0)
    os.close(writing)
    done, ended = 0, False
    try:
        with os.fdopen(reading, "rb") as pipe:
            while done < len(cases) and not ended:
                if not select.select([pipe], [], [], WALL_SECONDS)[0]:
                    break
                try:
                    verdict = pickle.load(pipe)
                except EOFError:
                    break
                done += 1
                yield verdict
    finally:
        os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
    if done < len(cases):
        signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        names = {9: f"took over {WALL_SECONDS} s", 24: f"took over {seconds} s of CPU time"}
        yield names.get(signal, f"the process died of signal {signal}")


def _work(cases: Sequence[Case], before: Callable[[], None] | None, seconds: int, pipe: int) -> None:
    torch.set_num_threads(1)  # the parent's threads are not in a forked child
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if before is not None:
        try:
            before()
        except Exception as error:
            os.write(
                pipe, pickle.dumps(f"the fuzz itself: what comes before the cases: {type(error).__name__}: {error}")
            )
            return
    for case in cases:
        used = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))
        try:
            verdict = judge(case)
        except BaseException as error:  # the fuzz's own mistake is a finding, too
            verdict = f"the fuzz itself: {type(error).__name__}: {error}"
        os.write(pipe, pickle.dumps(verdict))
