"""convatlas summary: a network in numbers, an op a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output, plan_table, training_table
from convatlas.cli.columns import CSV_HELP, JSON_HELP, Column, not_shown, one_format, print_csv, show
from convatlas.cli.runtime import Fuse, PlanFile, fuse_of, net_of, plan_of, shape_of
from convatlas.study.numbers import percent, short

if TYPE_CHECKING:
    from convatlas.study.summary import Row, Summary

NET_HELP = "A network: a name (`convatlas nets`), torchvision:NAME, FILE.py:CLASS or PACKAGE.MODULE:CLASS."
NOT_COUNTED = "torch, not counted"
NAMES = {
    "conv2d": "conv",
    "max_pool2d": "max",
    "avg_pool2d": "average",
    "adaptive_avg_pool2d": "adaptive average",
    "adaptive_max_pool2d": "adaptive max",
    "channel_scale": "scale",
    "local_response_norm": "response norm",
    "residual_add": "add",
}


def _shape(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else shape_of(text)


def command(
    context: typer.Context,
    net: Annotated[str | None, typer.Argument(help=NET_HELP)] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Pixels of the square input; default: the network's own.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images at a time; default: 1.")] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="NxCxHxW", callback=_shape, help="The input's shape, such as 1x1x28x28."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="float16, bfloat16, float32 or float64: what bytes are counted in.")
    ] = "float16",
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="List the steps of the network's plan (convatlas.compile): kernels, buffers, bytes, FLOPs."
        ),
    ] = False,
    fuse: Fuse = None,
    plan_file: PlanFile = None,
    training: Annotated[
        bool,
        typer.Option(
            "--training",
            help="A training step: FLOPs, bytes and predicted times of its gradients by layer, and its memory.",
        ),
    ] = False,
    optimizer: Annotated[str, typer.Option("--optimizer", help="Of --training: sgd or adamw.")] = "sgd",
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help=CSV_HELP)] = False,
) -> None:
    """List a network's layers: shapes, parameters, MACs, FLOPs, bytes, arithmetic intensity, receptive field.

    Layers that a network leaves to torch count as ours of the same work; what is not counted is named.
    """
    from convatlas.nets.resolve import resolve

    one_format(json, as_csv)
    if input is not None and (size is not None or batch is not None):
        raise typer.BadParameter("with --size or --batch: give one of them", param_hint="'--input'")
    if plan_file is not None:
        loaded = plan_of(context, plan_file, "net", "size", "batch", "input", "dtype", "fuse", "training")
        plan_table.show_plan(loaded, loaded.name, json, as_csv)
        return
    fused = fuse_of(fuse, plan)
    found = resolve(net_of(net))
    shape = input or (batch or 1, 3, *2 * (size or found.size,))
    if training:
        if plan:
            raise typer.BadParameter("with --plan: give one of them", param_hint="'--training'")
        training_table.run(found, shape, dtype, optimizer, json, as_csv)
        return
    if plan:
        plan_table.run(found, shape, dtype, json, as_csv, fuse=fused)
        return
    from convatlas.study.summary import COUNTED, summarise_found

    summary = summarise_found(found, shape, dtype)
    rows = [row.as_dict() for row in summary.rows]
    missed = [{"path": u.path, "op": u.op, "output_shape": list(u.output_shape)} for u in summary.uncounted]
    if json:
        head = {"net": summary.name, "input_shape": list(summary.input_shape), "dtype": summary.dtype}
        total = {"total": summary.totals(), "counted": list(COUNTED), "not_counted": missed}
        output.print_json({**head, "layers": rows, **total})
    elif as_csv:
        print_csv(rows + [blank(u) for u in missed])
    else:
        show_text(summary, COUNTED)


def blank(missed: dict[str, Any]) -> dict[str, Any]:
    """A line of the CSV for an op that is not counted: its numbers are empty, not zero."""
    return {**missed, "run_by": NOT_COUNTED, "output_shape": "x".join(map(str, missed["output_shape"]))}


def what(row: Row) -> str:
    """The op and its window: "conv 3x3 /2 g32"."""
    return f"{NAMES.get(row.layer.op, row.layer.op)} {row.window}".strip()


def field(row: Row, name: str) -> str:
    """One number of the receptive field, "7" or, where height and width differ, "7x9"."""
    return str(row.as_dict()[name])


def columns(summary: Summary) -> list[Column]:
    """All columns; those that a reader misses least have the highest `drop`."""
    rows = summary.rows
    return [
        Column("layer", [row.path for row in rows], text=True),
        Column("op", [what(row) for row in rows], 3, text=True),
        Column(
            "fused behind", ["" if not row.layer.epilogue else str(row.layer.epilogue) for row in rows], 12, text=True
        ),
        Column("input", [row.as_dict()["input_shape"] for row in rows], 13),
        Column("output", ["x".join(map(str, row.spec.output_shape[1:])) for row in rows], 2),
        Column("params", [short(row.parameters) if row.parameters else "" for row in rows]),
        Column("MACs", [short(row.macs) if row.macs else "" for row in rows]),
        Column("MACs\n%", [percent(row.macs / summary.macs) for row in rows], 7),
        Column("FLOPs", [short(row.flops) for row in rows], 8),
        Column("bytes", [short(row.bytes) for row in rows], 6),
        Column("FLOPs/\nbyte", [output.number(row.intensity) for row in rows], 4),
        Column("field", [field(row, "receptive_field") for row in rows], 5),
        Column("jump", [field(row, "jump") for row in rows], 9),
        Column("start", [field(row, "start") for row in rows], 10),
    ]


def show_text(summary: Summary, counted: tuple[str, ...]) -> None:
    """A row an op, the totals, what is counted."""
    console = output.console()
    shape = "x".join(map(str, summary.input_shape))
    console.print(output.plain(f"{summary.name}, {shape}, {summary.dtype}\n"))
    dropped = show(console, columns(summary))
    idle = f" ({summary.idle_parameters:,} of them not used at inference)" if summary.idle_parameters else ""
    lines = (
        f"parameters: {summary.parameters:,}{idle}",
        f"weighted layers: {summary.depth} on the longest path, {sum(row.weighted for row in summary.rows)} in all",
        f"MACs: {summary.macs:,}; FLOPs: {summary.flops:,}",
        f"bytes: {short(summary.bytes, 'B')}; {output.number(summary.intensity)} FLOPs a byte",
        f"activations: {short(summary.activation_bytes, 'B')}, at most {short(summary.peak_bytes, 'B')} alive at once",
        "MACs by kind: " + shares(summary),
    )
    console.print(output.plain("\n" + "\n".join(lines)))
    if summary.warning:
        console.print(output.plain(f"\nwarning: {summary.warning}", "bold yellow"))
    console.print(output.plain("\ncounted:\n" + "\n".join(f"- {line}" for line in counted)))
    if dropped:
        console.print(output.plain("\n" + not_shown(dropped)))


def shares(summary: Summary) -> str:
    """ "3x3 92.4 %, other 6.5 %, ...", the largest first."""
    from convatlas.study.summary import KINDS

    found = sorted(((summary.share(kind), kind) for kind in KINDS), reverse=True)
    return ", ".join(f"{kind} {100 * share:.1f} %" for share, kind in found if share)
