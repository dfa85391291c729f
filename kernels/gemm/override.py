"""A tile config instead of the model's choice, for whoever measures what the model should have chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convatlas.kernels.gemm.configs import TileConfig

_forced: ContextVar[TileConfig | None] = ContextVar("convatlas_tile_config", default=None)


@contextmanager
def override(config: TileConfig) -> Iterator[None]:
    """Dense Triton kernels launched inside the block take `config`, whatever the model says; no bound of the model is checked."""
    token = _forced.set(config)
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> TileConfig | None:
    """The config of the innermost override, None outside of any."""
    return _forced.get()
