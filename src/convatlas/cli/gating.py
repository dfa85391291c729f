"""convatlas gate: a network's kernels on a GPU against a stored baseline, for continuous integration."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convatlas.cli import output
from convatlas.cli.columns import JSON_HELP
from convatlas.cli.mapping import BACKEND_HELP, DTYPE_HELP, NET_OR_LAYER_HELP, backend_of

if TYPE_CHECKING:
    from convatlas.study.gating import Verdict

LIMIT_HELP = "may get worse by this share before it counts, such as 0.05; default: {}."


def command(
    net: Annotated[str, typer.Argument(metavar="NET|LAYER", help=NET_OR_LAYER_HELP)],
    against: Annotated[
        Path | None, typer.Option("--against", help="The baseline, a JSON file that --write wrote.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write what is found as a baseline into this file.")
    ] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="A GPU by name, or a JSON file; it need not be here.")] = "h100-sxm",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 32,
    dtype: Annotated[str, typer.Option("--dtype", help=DTYPE_HELP)] = "float16",
    backend: Annotated[str, typer.Option("--backend", callback=backend_of, help=BACKEND_HELP)] = "auto",
    registers: Annotated[
        float | None, typer.Option("--registers", min=0, help="Registers " + LIMIT_HELP.format(0.1))
    ] = None,
    shared: Annotated[
        float | None, typer.Option("--shared", min=0, help="Shared memory " + LIMIT_HELP.format(0.1))
    ] = None,
    occupancy: Annotated[
        float | None,
        typer.Option("--occupancy", min=0, help="Occupancy, itself a share, may fall by this; default: 0.001."),
    ] = None,
    waste: Annotated[
        float | None,
        typer.Option("--waste", min=0, help="Tile waste, itself a share, may grow by this; default: 0.01."),
    ] = None,
    time: Annotated[
        float | None, typer.Option("--time", min=0, help="Predicted time " + LIMIT_HELP.format(0.05))
    ] = None,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Hold registers, spills, shared memory, occupancy, tile waste and predicted time of each layer to a baseline. Needs no GPU.

    Exit code 1 where a figure got worse, with the layer and the figure; improvements are listed. Any spill that is new counts.
    """
    from convatlas.files import check_writable, write_text
    from convatlas.study.gating import baseline, compared, load

    if against is None and write is None:
        raise typer.BadParameter(
            "neither it nor --write was given: nothing to compare, nothing to write", param_hint="'--against'"
        )
    before = None if against is None else load(against)
    if write is not None:
        check_writable(write)
    from convatlas.study.mapping import map

    with output.progress("compiling") as progress:
        found = map(net, gpu=gpu, dtype=dtype, backend=backend, batch=batch, progress=progress)
    after = baseline(found, backend)
    verdict = None
    if before is not None:
        given = {
            "registers": registers, "shared_bytes": shared, "occupancy": occupancy, "tile_waste": waste, "predicted_seconds": time,
        }  # fmt: skip
        verdict = compared(before, after, {name: limit for name, limit in given.items() if limit is not None})
    if write is not None:
        write_text(write, json_text.dumps(after, indent=1) + "\n")
    if json:
        output.print_json({**after, "verdict": verdict and verdict.as_dict()})
    else:
        what = f"{found.name} on {found.gpu.title}, batch {found.batch}, {found.dtype}, {len(found.layers)} layers"
        for line in lines(what, verdict, write):
            print(line)
    if verdict is not None and not verdict.ok:
        raise typer.Exit(1)


def lines(what: str, verdict: Verdict | None, written: Path | None) -> list[str]:
    """What is printed: first what got worse."""
    said = [f"{what}: times are predicted, not measured"]
    if verdict is not None:
        said += [f"worse: {one}" for one in verdict.worse]
        said += [f"new layer, not in the baseline: {name}" for name in verdict.added]
        said += [f"layer of the baseline that is gone: {name}" for name in verdict.removed]
        said += [f"better: {one}" for one in verdict.better]
        if verdict.ok:
            said.append(
                "nothing got worse" + ("; write the baseline anew to keep what got better" if verdict.better else "")
            )
    if written is not None:
        said.append(f"wrote {written}")
    return said
