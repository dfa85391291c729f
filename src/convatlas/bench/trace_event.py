"""A profile as a trace for Perfetto (ui.perfetto.dev) and chrome://tracing.

Source: Google, "Trace Event Format": complete events ("X") with times in microseconds, metadata events ("M") that name the tracks.
"""

from __future__ import annotations

from typing import Any

from convatlas.bench.profile import Profile, Row

TRACKS = {"ours": lambda row: row.ours, "cuDNN": lambda row: row.peer, "bound": lambda row: row.bound}


def events(profile: Profile) -> dict[str, Any]:
    """One track each for our layers, cuDNN's and the bounds, end to end in the order in which the table has them.

    They are the times of layers that ran alone, laid in a row: no recording of one run.
    """
    title = f"{profile.net} batch {profile.batch} {profile.dtype}, {profile.timer}: layers timed alone, laid end to end"
    found = [_name("process_name", title, 0), *(_name("thread_name", track, i) for i, track in enumerate(TRACKS))]
    for thread, seconds_of in enumerate(TRACKS.values()):
        clock = 0.0
        for row in profile.layers:
            if (seconds := seconds_of(row)) is not None:
                for path in row.paths:
                    found.append(_event(row, path, clock, seconds * 1e6, thread))
                    clock += seconds * 1e6
    return {"traceEvents": found, "displayTimeUnit": "ns"}


def _name(kind: str, name: str, thread: int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}}


def _event(row: Row, path: str, start: float, duration: float, thread: int) -> dict[str, Any]:
    said = row.as_dict()
    arguments = {name: said[name] for name in ("spec", "epilogue", "binds", "share_of_bound", "flops", "bytes")}
    return {
        "name": path, "cat": said["op"], "ph": "X", "ts": round(start, 4), "dur": round(duration, 4), "pid": 0, "tid": thread,
        "args": arguments,
    }  # fmt: skip
