"""A config instead of the model's choice, for whoever measures what the model should have chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Config = TypeVar("Config")

_forced: ContextVar[Any] = ContextVar("convatlas_forced_config", default=None)
forced_config = _forced.get  # the innermost override's, or None


@contextmanager
def override(config: Any) -> Iterator[None]:
    """Kernels whose configs are of `config`'s type take it inside the block, whatever their model says; nothing checks it.

    TileConfig: the gather, stem and GEMM kernels; TmaConfig: the TMA kernel.
    """
    token = _forced.set(config)
    try:
        yield
    finally:
        _forced.reset(token)


def forced(kind: type[Config]) -> Config | None:
    """The config of the innermost override if it is of that type, else None."""
    config = _forced.get()
    return config if isinstance(config, kind) else None
