"""convatlas glossary: the words of the atlas."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from convatlas.cli import output
from convatlas.study.glossary import WORDS, Word, word


def command(
    name: Annotated[str | None, typer.Argument(metavar="[WORD]", help="One word; default: all of them.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain a word that the other commands use: tile, block, warp, SM, wave, occupancy, roofline, ..."""
    chosen = sorted(WORDS, key=lambda one: one.name.casefold()) if name is None else [word(name)]
    if json:
        output.print_json([asdict(one) for one in chosen])
        return
    console = output.console()
    for i, one in enumerate(chosen):
        console.print(output.plain("\n" * (i > 0) + said(one)), soft_wrap=False)


def said(one: Word) -> str:
    """The word and its meaning."""
    also = f" (also {', '.join(one.also)})" if one.also else ""
    return f"{one.name}{also}: {one.text} See also: {', '.join(one.see)}."
