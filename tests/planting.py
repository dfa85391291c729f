"""A copy of the CUDA C++ kernels that a test may change, in the place of kernels/."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convatlas.kernels.common.cuda import host, source


def plant(file: Path, right: str, wrong: str) -> None:
    """Writes `wrong` in the place of `right`, which must stand in the file once."""
    text = file.read_text()
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong))


@contextmanager
def copied_kernels(folder: Path, patch: pytest.MonkeyPatch, *rooms: str) -> Iterator[Path]:
    """Inside, kernels are built from `folder`/kernels, which holds common/ and these rooms, into a cache of its own. Yields it.

    What lies in `folder` already is taken as it is; `patch` undoes the rest at the test's end.
    """
    root = folder / "kernels"
    for room in ("common", *rooms):
        if not (root / room).exists():
            shutil.copytree(source.ROOT / room, root / room)
    patch.setattr(source, "ROOT", root)
    patch.setattr(host, "ROOT", root)
    patch.setenv("CONVATLAS_CACHE", str(folder / "cache"))
    kept = (source.expand, source.parameters, host._function)
    for one in kept:
        one.cache_clear()
    try:
        yield root
    finally:
        for one in kept:
            one.cache_clear()
