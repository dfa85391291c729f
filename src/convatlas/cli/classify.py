"""convatlas classify: what is on a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output
from convatlas.cli.runtime import Backend, prepare, ran_on

if TYPE_CHECKING:
    from convatlas.verify.classify import Classification


def command(
    image: Annotated[str, typer.Argument(help="A picture file, or skimage:NAME for one that scikit-image brings.")],
    net: Annotated[str, typer.Option("--net", help="The network.")] = "efficientnet_lite0",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A .pth or .safetensors file; default: an installed package's.")
    ] = None,
    backend: Backend = "triton",
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="How many classes to print.")] = 5,
    check: Annotated[bool, typer.Option("--check", help="Hold every layer to the NumPy reference.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify a picture and, with --check, prove every layer right while doing so."""
    from convatlas.nets.registry import info
    from convatlas.verify.images import locate

    net = info(net).name
    locate(image)
    prepare(backend)
    from convatlas.verify.classify import classify

    with output.progress(f"running {net}") as show:
        done = iter(range(1, 1_000_000))
        result = classify(
            image, net, weights, backend, top, check, seen=lambda c: show(c.path or c.call.op, next(done), 0)
        )
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
        "predictions": [
            {"class": p.index, "name": p.name if result.named else None, "probability": p.probability}
            for p in result.predictions
        ],
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
