"""Makes a failing case smaller: fewer arguments, plain layouts, smaller sizes, as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fuzz.cases import Case, T
from fuzz.process import verdicts

TRIES = 60


def shrink(case: Case, wrong: str) -> tuple[Case, str]:
    """The smallest case found that fails with the same first words, and what is wrong with it."""
    words, tries, found = wrong.split(":")[0][:25], 0, True
    while found and tries < TRIES:
        found = False
        for simpler in simpler_ones(case):
            tries += 1
            verdict = next(verdicts([simpler]))[1]
            if verdict and verdict.startswith(words):
                case, wrong, found = simpler, verdict, True
                break
            if tries >= TRIES:
                break
    return case, wrong


def simpler_ones(case: Case) -> Iterator[Case]:
    """Cases one step simpler."""
    if case.out is not None:
        yield replace(case, out=None)
    if case.backend is not None:
        yield replace(case, backend=None)
    for name, value in case.args.items():
        if name not in ("input", "weight", "x", "shortcut", "tensors"):
            yield replace(case, args={n: v for n, v in case.args.items() if n != name})
        for simpler in _simpler(value):
            yield replace(case, args={**case.args, name: simpler})


def _simpler(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for i, part in enumerate(value):
            if len(value) > 1:
                yield value[:i] + value[i + 1 :]
            yield from (value[:i] + [less] + value[i + 1 :] for less in _simpler(part))
    if not isinstance(value, T):
        return
    plain = T((1,))
    for name in ("layout", "data", "dtype", "scale", "seed"):
        if getattr(value, name) != getattr(plain, name):
            yield replace(value, **{name: getattr(plain, name)})
    for d, n in enumerate(value.shape):
        for less in {1, n // 2}:
            if 0 < less < n:
                yield replace(value, shape=(*value.shape[:d], less, *value.shape[d + 1 :]))
