"""A backend with one fault in it, for tests of what must find it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from convatlas.ops import backends


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """plant(nth, by, op): from then on the nth call of `op` (from 0) adds `by` to its output's last element.

    Calls in float64 are the reference's own, and are neither counted nor changed.
    """

    def install(nth: int, by: float = 1.0, op: str = "conv2d") -> None:
        original, calls = backends.runner, []

        def runner(name: str) -> Callable:
            def run(call, tensors: dict[str, Tensor], out: Tensor | None):
                y = original(name)(call, tensors, out)
                if call.op == op and call.dtype != "float64":
                    if len(calls) == nth:
                        y[(-1,) * y.dim()] += by
                    calls.append(call)
                return y

            return run

        monkeypatch.setattr(backends, "runner", runner)

    return install
