"""What of the inventory's launches a test run compiles: each kernel once, and by turns a part of what three networks launch."""

from __future__ import annotations

from typing import Any

from rotation import EXHAUSTIVE, share

from convatlas import nets

Run = tuple[
    tuple, tuple[str, ...]
]  # a cell (architecture, mode, ...), and options of `python -m convatlas.codegen.inventory`


def runs(cells: list[Any], always: Run, parts: int = 4) -> list[Run]:
    """`always`, and for one of the cells one of the parts of three networks' launches and the extra calls'.

    Every cell, network and part has its turn. A run of everything has all networks' launches of each cell.
    """
    if EXHAUSTIVE:
        return [always, *((cell, ()) for cell in cells)]
    return [always, *share(turns(cells, parts))]


def turns(cells: list[Any], parts: int) -> list[Run]:
    """All that turns go through."""
    names = nets.names()
    return [
        (cell, ("--nets", ",".join(names[i : i + 3]), "--part", f"{part}/{parts}"))
        for i in range(0, len(names), 3)
        for part in range(1, parts + 1)
        for cell in cells
    ]


def name(value: tuple) -> str:
    """A cell or its options as a test's id."""
    return " ".join(map(str, value))
