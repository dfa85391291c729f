"""Watching ops as they run: what study.trace, verify and profile are built on.

An observer is called once per op with its Call (op, spec, epilogue, parameters), the tensors that went in and the tensor that
came out. On the meta device it is called too, so a network's layers can be listed without computing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from convatlas.call import Call

if TYPE_CHECKING:
    from torch import Tensor


Observer = Callable[[Call, "dict[str, Tensor]", "Tensor"], None]

_observers: ContextVar[tuple[Observer, ...]] = ContextVar("convatlas_observers", default=())


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Calls `observer(call, tensors, output)` after every op inside the `with` block, in this thread and wherever use_backend
    holds.

    contextvars.copy_context() takes an observer to other threads; then several threads may call it at once.
    """
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


def observed() -> bool:
    """Whether any observer is active."""
    return bool(_observers.get())


def notify(call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
    """Calls every active observer. Ops that an observer itself calls are not observed."""
    active = _observers.get()
    if not active:
        return
    token = _observers.set(())
    try:
        for observer in active:
            observer(call, tensors, output)
    finally:
        _observers.reset(token)
