"""convatlas classify --out: many pictures, from a folder or a list, into a file of JSON lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from convatlas.cli import output
from convatlas.cli.runtime import prepare
from convatlas.errors import InputError
from convatlas.files import shown

if TYPE_CHECKING:
    from convatlas.plan.plan import LoadedPlan
    from convatlas.verify.many import Tally

REPORTED = 20  # pictures that could not be classified and are named on stderr; the file names all


def run(
    source: str, out: Path, net: str, weights: Path | None, backend: str, top: int, batch: int, workers: int | None, dtype: str,
    plan: bool | LoadedPlan, fuse: str | frozenset[str], json: bool,
) -> None:  # fmt: skip
    """Classifies the pictures; raises typer.Exit(1) where some could not be."""
    if not Path(source).exists():
        raise InputError(f"{shown(source)}: no such folder or file")
    prepare(backend)
    from convatlas.verify.many import Share, classify_many

    first, reported = Share.of_environment().rank == 0, 0
    with output.progress(f"running {net}", width=46, quiet=not first) as show:

        def seen(done: int, total: int, rate: float) -> None:
            show(f"{done:,} of {total:,}, {rate:,.1f} images/s", done, total)

        def failed(message: str) -> None:
            nonlocal reported
            reported += 1
            if reported <= REPORTED:
                more = f" (further ones are named in {shown(out)} only)" if reported == REPORTED else ""
                with show.hidden():
                    print(f"convatlas: {' '.join(message.split())}{more}", file=sys.stderr)

        tally = classify_many(source, out, net, weights, backend, top, batch, workers, dtype, plan, fuse, seen, failed)
    if json:
        output.print_json(as_dict(tally))
    else:
        show_text(tally)
    if tally.total_bad:
        raise typer.Exit(1)


def as_dict(tally: Tally) -> dict[str, Any]:
    """The JSON document."""
    return {
        "out": str(tally.out),
        "rank": tally.share.rank,
        "processes": tally.share.world,
        "images": tally.images,
        "failed": tally.bad,
        "kept": tally.kept,
        "seconds": tally.seconds,
        "images_per_second": tally.rate,
        "complete": tally.merged,
        "total": tally.total,
        "total_failed": tally.total_bad,
    }


def show_text(tally: Tally) -> None:
    """What this process did and, where all is done, what became of all pictures."""
    who = "" if tally.share.world == 1 else f"process {tally.share.rank} of {tally.share.world}: "
    kept = f", {tally.kept:,} of them by an earlier run" if tally.kept else ""
    rate = f", {tally.rate:,.1f} images/s" if tally.images > tally.kept else ""
    lines = [f"{who}{tally.images:,} pictures{kept}{rate}: {shown(tally.out)}"]
    if tally.merged and tally.total_bad is not None:
        bad = f", {tally.total_bad:,} could not be" if tally.total_bad else ""
        lines.append(f"{tally.total - tally.total_bad:,} of {tally.total:,} pictures classified{bad}")
    console = output.console()
    for line in lines:
        console.print(output.plain(line))
