"""convatlas classify: what is on a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import folder, output
from convatlas.cli.runtime import Backend, Fuse, PlanFile, fuse_of, one_of, plan_of, prepare, ran_on
from convatlas.errors import InputError
from convatlas.files import shown

if TYPE_CHECKING:
    from convatlas.verify.check import LayerCheck
    from convatlas.verify.classify import Classification


DTYPES = ("float32", "float16", "bfloat16")
PLAN_HELP = "Run the network as a plan (convatlas.compile): folded, fused and, on a GPU, in a CUDA graph."


def _dtype(name: str) -> str:
    return one_of(name, DTYPES)


def command(
    context: typer.Context,
    image: Annotated[
        str,
        typer.Argument(
            help="A picture file, or skimage:NAME for one that scikit-image brings. With --out a folder, searched with all folders "
            "below it, or a text file with the path of a picture on each line."
        ),
    ],
    net: Annotated[str, typer.Option("--net", help="The network.")] = "efficientnet_lite0",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A .pth or .safetensors file; default: an installed package's.")
    ] = None,
    backend: Backend = "triton",
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="How many classes to print.")] = 5,
    dtype: Annotated[str, typer.Option("--dtype", callback=_dtype, help=", ".join(DTYPES))] = "float32",
    plan: Annotated[bool, typer.Option("--plan", help=PLAN_HELP)] = False,
    fuse: Fuse = None,
    plan_file: PlanFile = None,
    check: Annotated[bool, typer.Option("--check", help="Hold every layer to the NumPy reference.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.jsonl",
            help="Classify many pictures, and write a line of JSON for each to this file. A run that was stopped goes on where it "
            "ended if it is started again with the same options.",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="With --out: how many pictures run at a time; 32 if not given.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            help="With --out: how many processes read pictures while the network runs; one for each core if not given. With 0 the "
            "network's process reads them itself.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify a picture and, with --check, prove every layer right while doing so; or classify many, with --out.

    With --out the exit code is 0 if all pictures could be classified and 1 if some could not: each of those has a line that says
    why. Under torchrun each process takes a part of the pictures and a GPU, and the last one to end puts the results together.
    """
    from convatlas.nets.registry import info

    net = info(net).name
    fused: Any = "auto"
    loaded = None
    if plan_file is None:
        fused = fuse_of(fuse, plan, backend)
    else:
        loaded = plan_of(context, plan_file, "weights", "backend", "dtype", "fuse", "batch")
    if out is not None:
        if check:
            raise typer.BadParameter("with --out: a check is of one picture", param_hint="'--check'")
        folder.run(image, out, net, weights, backend, top, batch or 32, workers, dtype, loaded or plan, fused, json)
        return
    for option, value in (("--batch", batch), ("--workers", workers)):
        if value is not None:
            raise typer.BadParameter("is for many pictures, which need --out", param_hint=f"'{option}'")
    from convatlas.verify.images import locate

    if Path(image).is_dir():
        raise InputError(
            f"image {shown(image)}: not a file; to classify all pictures below a folder give --out FILE.jsonl"
        )
    locate(image)
    prepare(backend)
    from convatlas.verify.classify import classify

    with output.progress(f"running {net}") as show:
        done = iter(range(1, 1_000_000))

        def seen(c: LayerCheck) -> None:
            show(c.path or c.call.op, next(done), 0)

        result = classify(image, net, weights, backend, top, check, seen, dtype, loaded or plan, fused)
    if json:
        output.print_json(as_dict(result))
    else:
        show_text(result)
    if not result.ok:
        raise typer.Exit(1)


def as_dict(result: Classification) -> dict[str, Any]:
    """The JSON document."""
    data: dict[str, Any] = {
        "image": result.image,
        "net": result.net,
        "backend": result.backend,
        "device": result.device,
        "interpreted": result.interpreted,
        "predictions": [p.as_dict() for p in result.predictions],
    }
    if result.checks is not None:
        wrong = result.first_wrong
        data["check"] = {
            "ok": result.ok,
            "probability_difference": result.difference,
            "first_wrong": None if wrong is None else wrong.path or wrong.call.op,
            "layers": [
                {
                    "path": c.path,
                    "op": c.call.op,
                    "shape": str(c.call.spec),
                    "worst": c.report.worst,
                    "rms": c.report.rms,
                    "ok": c.report.ok,
                    "detail": c.report.detail,
                }
                for c in result.checks
            ],
        }
    return data


def show_text(result: Classification) -> None:
    """Classes, likeliest first, and what the check found."""
    console = output.console()
    where = ran_on(result.backend, result.device, result.interpreted)
    console.print(output.plain(f"{result.image}: {result.net} on {where}\n"))
    table = output.table(("probability", "right"), "class")
    for p in result.predictions:
        table.add_row(f"{100 * p.probability:.2f} %", output.plain(p.name))
    console.print(table)
    if not result.named:
        console.print(output.plain('\nclass names: pip install "convatlas[demo]"'))
    if result.checks is None:
        return
    worst = max(result.checks, key=lambda c: c.report.worst)
    if result.ok:
        console.print(
            output.plain(
                f"\nchecked {len(result.checks)} layers against the reference: every one within its error bound, the worst at "
                f"{output.number(worst.report.worst)} of it ({worst.path or worst.call.op})",
                "green",
            )
        )
    else:
        wrong = sum(not c.report.ok for c in result.checks)
        console.print(
            output.plain(
                f"\n{wrong} of {len(result.checks)} layers outside their error bounds, the first {result.first_wrong}",
                "bold red",
            )
        )
    console.print(output.plain(f"probabilities within {output.number(result.difference)} of the reference's"))
