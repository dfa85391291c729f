"""convatlas explain: one layer in prose and drawings."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from convatlas.cli import output
from convatlas.cli.columns import JSON_HELP
from convatlas.cli.inspecting import LAYER_HELP
from convatlas.cli.mapping import BACKEND_HELP, DTYPE_HELP, NET_OR_LAYER_HELP, backend_of

WIDTH = 100  # of prose


def command(
    net: Annotated[str, typer.Argument(metavar="NET|LAYER", help=NET_OR_LAYER_HELP)],
    layer: Annotated[str | None, typer.Argument(metavar="[LAYER]", help=LAYER_HELP)] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="A GPU by name, or a JSON file.")] = "h100-sxm",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 32,
    dtype: Annotated[str, typer.Option("--dtype", help=DTYPE_HELP)] = "float16",
    backend: Annotated[str, typer.Option("--backend", callback=backend_of, help=BACKEND_HELP)] = "auto",
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the same into this file.")] = None,
    no_compile: Annotated[
        bool,
        typer.Option("--no-compile", help="Leave out registers, shared memory and occupancy; quick, and less exact."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Explain one layer: from the convolution to a matrix product, tiles, waves, warps, the pipeline, why this config, and fusing.

    The configs that the launcher compared are compiled too, and each has a predicted time. Nothing is measured; no GPU is needed.
    """
    from convatlas.files import check_writable
    from convatlas.study import explaining
    from convatlas.study.drawing.explained import explained
    from convatlas.study.drawing.plain import drawn

    if svg is not None:
        check_writable(svg)
    with output.progress("compiling") as progress:
        found = explaining.explain(
            net, layer, gpu=gpu, dtype=dtype, backend=backend, batch=batch, compile=not no_compile, progress=progress
        )
    picture = explained(found)
    if svg is not None:
        picture.write(svg)
    if json:
        output.print_json(found.as_dict())
        return
    console = output.console()
    console.print(output.plain(picture.title, "bold"))
    drawings = drawn(found)
    width = min(WIDTH, console.width)
    for head, sentences in picture.sections:
        if head:
            console.print(output.plain(f"\n{head}", "bold"))
        if lines := drawings[head]() if head in drawings else []:
            console.print(output.plain("\n".join(f"    {line}" for line in lines)), soft_wrap=True)
        for sentence in sentences:
            console.print(output.plain(textwrap.fill(sentence, width)))
    console.print(output.plain("\n" + "\n".join(f"- {line}" for line in explaining.notes(found))))
