"""Which module of a net is running right now, so that an op can be given its place in the net."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

_step: ContextVar[str] = ContextVar("convatlas_step", default="")


@contextmanager
def step_of(path: str) -> Iterator[None]:
    """Says that what runs inside the `with` block, outside of any module, belongs to the module at `path`: a plan's step."""
    token = _step.set(path)
    try:
        yield
    finally:
        _step.reset(token)


def _names(net: nn.Module) -> dict[int, str]:
    return {id(module): name for name, module in net.named_modules()}


@contextmanager
def module_paths(net: nn.Module | None) -> Iterator[Callable[[], str]]:
    """Yields a function that, inside the `with` block, returns the path of the innermost module of `net` that is running.

    A path is a name of net.named_modules(), such as "layer1.0.conv1"; "" means the net itself, or that no module is running. A
    plan's step has the path of the module that it computes. Without a net, paths begin at the outermost module that is running at
    the time. Only modules that run in this thread count. The hooks are PyTorch's global ones, so that the net is not touched; all
    are removed at the end.
    """
    names: dict[int, str] = {} if net is None else _names(net)
    thread = threading.get_ident()
    running: list[str] = []

    def entering(module: nn.Module, args: Any) -> None:
        if threading.get_ident() != thread:
            return
        if net is None and not running:
            names.clear()
            names.update(_names(module))
        if id(module) in names:
            running.append(names[id(module)])

    def leaving(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == thread and id(module) in names and running:
            running.pop()

    # A hook on leaving is called for a forward that raised, too, so that the list is right for a net that catches errors.
    hooks = [register_module_forward_pre_hook(entering), register_module_forward_hook(leaving, always_call=True)]
    try:
        yield lambda: running[-1] if running else _step.get()
    finally:
        for hook in hooks:
            hook.remove()
