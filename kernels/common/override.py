"""A config instead of the model's choice, for whoever measures what the model should have chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Config = TypeVar("Config")

_forced: ContextVar[Any] = ContextVar("convatlas_forced_config", default=None)
forced_config = _forced.get  # the innermost override's, or None


@contextmanager
def override(config: Any) -> Iterator[None]:
    """Kernels whose configs are of `config`'s type take it inside the block, whatever their model says; nothing checks it.

    TileConfig: Triton's gather, stem and GEMM kernels; TmaConfig: its TMA kernel; WarpTile (gemm/launch_cuda.py): CUDA C++'s GEMM.
    """
    token = _forced.set(config)
    try:
        yield
    finally:
        _forced.reset(token)


_noted: ContextVar[list[tuple[float, Any]] | None] = ContextVar("convatlas_noted_configs", default=None)


@contextmanager
def noting() -> Iterator[list[tuple[float, Any]]]:
    """Collects what launchers inside the block consider: (cost by the chooser's own model, config), in its units."""
    found: list[tuple[float, Any]] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def note(candidates: Callable[[], Iterable[tuple[float, Any]]]) -> None:
    """Tells a `noting` block what is considered; outside of one nothing is computed."""
    if (kept := _noted.get()) is not None:
        kept += candidates()


def forced(kind: type[Config]) -> Config | None:
    """The config of the innermost override if it is of that type, else None."""
    config = _forced.get()
    return config if isinstance(config, kind) else None
