"""Instruments that look at nets: trace lists a net's layers, wired says how they are connected, summarise counts them, map says
what they become on a GPU.

What walks a net (verify, summary, profile) walks that list.
"""

from importlib import import_module
from typing import Any

# No module here is called "trace" or "map": imported, it would hide the function of that name.
_LAZY = {
    "Layer": "layer",
    "Map": "mapping",
    "Node": "layer",
    "Summary": "summary",
    "UncountedWarning": "dataflow",
    "explain": "explaining",
    "inspect": "inspecting",
    "map": "mapping",
    "summarise": "summary",
    "summarise_net": "summary",
    "trace": "tracing",
    "wired": "dataflow",
}

__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    """Imports an instrument when it is first asked for, since the instruments need torch and the package does not."""
    if name in _LAZY:
        return getattr(import_module(f"convatlas.study.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'convatlas.study' has no attribute {name!r}")
