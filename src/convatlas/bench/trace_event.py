"""A profile as a trace for Perfetto (ui.perfetto.dev) and chrome://tracing.

Source: Google, "Trace Event Format": complete events ("X") with times in microseconds, metadata events ("M") that name the tracks.
"""

from __future__ import annotations

from typing import Any

from convatlas.bench.profile import OURS, LayerProfile, Profile

TRACKS = ("ours", "cuDNN", "bound")


def events(profile: Profile) -> dict[str, Any]:
    """One track each for our layers, cuDNN's and the bounds, end to end in the order in which the table has them.

    They are the times of layers that ran alone, laid in a row: no recording of one run.
    """
    title = f"{profile.net} batch {profile.batch} {profile.dtype}, {profile.timer}: layers timed alone, laid end to end"
    found: list[dict[str, Any]] = [_name("process_name", title, 0)]
    found += [_name("thread_name", track, number) for number, track in enumerate(TRACKS)]
    for number, track in enumerate(TRACKS):
        clock = 0.0
        for layer in profile.layers:
            seconds = _seconds(layer, track)
            if seconds is None:
                continue
            for path in layer.paths:
                duration = seconds * 1e6
                found.append(
                    {"name": path, "cat": layer.op, "ph": "X", "ts": round(clock, 4), "dur": round(duration, 4),
                     "pid": 0, "tid": number, "args": _arguments(layer)}
                )  # fmt: skip
                clock += duration
    return {"traceEvents": found, "displayTimeUnit": "ns"}


def _seconds(layer: LayerProfile, track: str) -> float | None:
    return {"ours": layer.seconds[OURS], "cuDNN": layer.peer, "bound": layer.bound}[track]


def _name(kind: str, name: str, thread: int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}}


def _arguments(layer: LayerProfile) -> dict[str, Any]:
    return {
        "spec": layer.spec,
        "epilogue": layer.epilogue,
        "binds": layer.binds,
        "share_of_bound": round(layer.share, 4),
        "flops": layer.flops,
        "compulsory_bytes": layer.bytes,
    }
