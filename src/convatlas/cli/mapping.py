"""convatlas map: what each layer of a network becomes on a GPU that need not be here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output
from convatlas.cli.columns import CSV_HELP, JSON_HELP, Column, not_shown, one_format, print_csv, show
from convatlas.cli.runtime import Fuse, fuse_of, one_of, shape_of
from convatlas.cli.summary import NET_HELP
from convatlas.study.numbers import percent, short

if TYPE_CHECKING:
    from convatlas.model.gpu import GPU
    from convatlas.plan.plan import Plan
    from convatlas.study.mapping import LayerMap, Map

LAYER_HELP = "; or one layer, as 'conv 32x64x56x56 64 3x3 s1 p1 bias relu' (s stride, p padding, d dilation, g groups)."


NET_OR_LAYER_HELP = NET_HELP.rstrip(".") + LAYER_HELP
BACKEND_HELP = "triton, cuda or auto, the one that measured quicker on such layers on an H100."
GPUS_HELP = "GPUs by name, with commas between (a100-80,h100-sxm); here, those of this machine; or a JSON file."
DTYPE_HELP = "float16, bfloat16, tf32 or float32."


def backend_of(text: str) -> str:
    """A backend that has kernels, or auto; typer.BadParameter for another word."""
    return one_of(text, ("auto", "triton", "cuda"))


def _shape(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else shape_of(text)


def command(
    net: Annotated[str, typer.Argument(metavar="NET|LAYER", help=NET_OR_LAYER_HELP)],
    gpu: Annotated[str, typer.Option("--gpu", help=GPUS_HELP)] = "h100-sxm",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 32,
    input: Annotated[
        str | None, typer.Option("--input", metavar="NxCxHxW", callback=_shape, help="The input's shape instead.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help=DTYPE_HELP)] = "float16",
    backend: Annotated[str, typer.Option("--backend", callback=backend_of, help=BACKEND_HELP)] = "auto",
    ceilings: Annotated[
        Path | None,
        typer.Option(
            "--ceilings", help="Measured rates for the bound: ceilings.json, or a file of benchmarks/results."
        ),
    ] = None,
    no_compile: Annotated[
        bool,
        typer.Option("--no-compile", help="Leave out registers, shared memory and occupancy; quick, and less exact."),
    ] = False,
    svg: Annotated[
        Path | None,
        typer.Option("--svg", help="Draw one layer into this file: tiles, waves, warps, shared memory, occupancy."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Of a network, only the layer of this path; with --svg the one drawn.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if", help="One layer with channels=96, filters=128 or batch=64 beside it; may be repeated."
        ),
    ] = None,
    fill: Annotated[
        bool,
        typer.Option(
            "--fill", help="The nearest batch and filters that fill each layer's last wave, as one layer has it."
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Map the steps of the network's plan (convatlas.compile), blocks of layers too."),
    ] = False,
    fuse: Fuse = None,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help=CSV_HELP)] = False,
) -> None:
    """Map a network's layers to a GPU: algorithm, tiles, waves, occupancy, roofline and predicted time. Needs no GPU.

    Registers and shared memory come from the layer's real kernels, compiled for that GPU: up to a minute the first time,
    later they are found in ~/.cache/convatlas. Times are predicted, never measured.
    """
    one_format(json, as_csv)
    gpus = gpus_of(gpu)
    fused = fuse_of(fuse, plan)
    what: Any = net
    if plan:
        if layer is not None or svg is not None or what_if:
            raise typer.BadParameter(
                "is of a whole network: leave out --layer, --svg and --what-if", param_hint="'--plan'"
            )
        what = planned(net, input, batch, dtype, fused)
    if layer is not None:
        from convatlas.study.inspecting import one_layer

        what = one_layer(net, layer, batch, input, dtype)
    if svg is not None:
        _can_draw(net, layer, len(gpus), svg)
    rates = None if ceilings is None else measured(ceilings)
    from convatlas.study.mapping import map
    from convatlas.study.written import is_layer

    if what_if and (len(gpus) > 1 or svg is not None):
        raise typer.BadParameter(
            "one layer on one GPU is compared: leave out --svg, and all GPUs but one", param_hint="'--what-if'"
        )
    if what_if:
        from convatlas.study.inspecting import one_layer
        from convatlas.study.variations import changed

        first = one_layer(net, layer, batch, input, dtype)
        wanted = [first, *(changed(first, text) for text in what_if)]
    maps = []
    with output.progress("compiling") as progress:
        alone = what_if or layer is not None or is_layer(net)
        options: dict[str, Any] = dict(dtype=dtype, backend=backend, batch=batch, compile=not no_compile)
        options["fill"] = (fill or alone) and not no_compile
        for variant in wanted if what_if else ():
            maps.append(map(variant, gpu=gpus[0], ceilings=rates, progress=progress, **options))
        for one in gpus if not what_if else ():
            maps.append(
                map(what, None if layer or plan else input, gpu=one, ceilings=rates, progress=progress, **options)
            )
    if svg is not None:
        from convatlas.study.drawing.layer import layer as drawn

        drawn(maps[0], maps[0].layers[0]).write(svg)
    if json:
        output.print_json(maps[0].as_dict() if len(maps) == 1 else [found.as_dict() for found in maps])
    elif as_csv:
        print_csv([{"gpu": found.gpu.name, **one.as_dict()} for found in maps for one in found.layers])
    elif what_if:
        show_variations(maps)
    elif len(maps) == 1:
        show_one(maps[0])
    else:
        show_beside(maps)


def planned(net: str, shape: tuple[int, ...] | None, batch: int, mode: str, fuse: str | frozenset[str]) -> Plan:
    """A network's plan of shapes alone; which layers are joined is what the model says of an H100."""
    import torch

    from convatlas.codegen.inventory import MODES
    from convatlas.nets.resolve import resolve
    from convatlas.plan.plan import compile
    from convatlas.study.mapping import element_of

    found, dtype = resolve(net), getattr(torch, element_of(one_of(mode, MODES)))
    with output.progress(f"compiling {found.name}"):
        made = found.build().to("meta", dtype)
        sizes = shape or (batch, 3, *2 * (found.size,))
        return compile(made, torch.empty(sizes, dtype=dtype, device="meta"), fuse=fuse)


def gpus_of(text: str) -> list[GPU]:
    """GPUs by name with commas between; "here" stands for all of this machine's. Raises InputError for an unknown one."""
    from convatlas.model.gpu import gpu as named
    from convatlas.model.here import present

    found: dict[str, GPU] = {}
    for name in text.split(","):
        found |= {one.name: one for one in (present() if name.strip() == "here" else [named(name.strip())])}
    return list(found.values())


def _can_draw(net: str, layer: str | None, gpus: int, svg: Path) -> None:
    """Refuses --svg where there is not one layer on one GPU, or where its file cannot be written, before the work is done."""
    from convatlas.files import check_writable
    from convatlas.study.written import is_layer

    check_writable(svg)
    if layer is None and not is_layer(net):
        raise typer.BadParameter(f"{net} has many layers: say which by --layer PATH", param_hint="'--svg'")
    if gpus > 1:
        raise typer.BadParameter(f"{gpus} GPUs given, expected one", param_hint="'--svg'")


def measured(path: Path) -> Any:
    """The ceilings of a ceilings.json, or of a results file, which holds them."""
    import json

    from convatlas.errors import InputError
    from convatlas.files import readable, shown
    from convatlas.model.ceilings import Ceilings

    try:
        document = json.loads(readable(path, "--ceilings").read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"--ceilings {shown(path)}: not JSON") from None
    found = document.get("ceilings", document) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"--ceilings {shown(path)}: no ceilings in it")
    return Ceilings.of(found)


def micro(seconds: float) -> str:
    """Microseconds."""
    return f"{seconds * 1e6:.1f}"


def _waves(layer: LayerMap) -> str:
    main = layer.main
    if main.occupancy is None:
        return "?"
    return f"{main.waves:.2f}"


def _name(layer: LayerMap) -> str:
    return layer.layer.path or layer.layer.op


def columns(found: Map) -> list[Column]:
    """What is shown of each layer; the columns that a narrow terminal lacks room for go first."""
    rows = found.layers
    mains = [row.main for row in rows]
    unknown = "?"
    return [
        Column("layer", [_name(row) for row in rows], text=True),
        Column("kernel", [main.work.kernel.removesuffix("_kernel") for main in mains], 5, text=True),
        Column("config", [main.work.config for main in mains], 11, text=True),
        Column("GEMM MxNxK", ["x".join(map(str, row.gemm)) if row.gemm else "" for row in rows], 8),
        Column("tile", [str(main.work.tile) for main in mains], 4),
        Column("waste\n%", [percent(row.waste) if row.waste else "" for row in rows], 9),
        Column("grid", [str(main.work.grid) for main in mains], 6),
        Column("regs", [unknown if main.registers is None else str(main.registers) for main in mains], 7),
        Column("shared\nKB", [unknown if main.shared is None else f"{main.shared / 1024:.0f}" for main in mains], 7),
        Column("blocks/\nSM", [unknown if main.occupancy is None else str(main.occupancy.blocks) for main in mains], 3),
        Column("waves", [_waves(row) for row in rows], 3),
        Column("tail\nidle %", [unknown if m.occupancy is None else percent(m.idle) or "0" for m in mains], 3),
        Column("FLOPs", [short(row.flops) for row in rows], 10),
        Column("bytes", [short(row.bytes) for row in rows], 10),
        Column("FLOPs/\nbyte", [output.number(row.intensity) for row in rows], 10),
        Column("bound\nus", [micro(row.bound) for row in rows], 2),
        Column("predicted\nus", [micro(row.seconds) for row in rows]),
        Column("+-\n%", [f"{100 * (row.high / row.seconds - 1):.0f}" for row in rows], 1),
        Column("limited by", [row.limiter for row in rows], 1, text=True),
        *(filled(rows) if len(rows) > 1 and rows[0].fills is not None else ()),
    ]


def filled(rows: Sequence[LayerMap]) -> list[Column]:
    """The sizes that fill the last waves; "-" where none nearby does."""
    found = [row.as_dict() for row in rows]
    return [
        Column(
            f"full at\n{name}",
            ["-" if row[f"full_wave_{name}"] is None else str(row[f"full_wave_{name}"]) for row in found],
            2,
        )
        for name in ("batch", "filters")
    ]


def notes(found: Map) -> list[str]:
    """What a reader must know, under the table."""
    from convatlas.study.mapping import PREDICTED

    lines = [
        PREDICTED + "; +-: nine of ten layers of the kind that the model was not fitted on lay within it, on an H100"
    ]
    if found.gpu.name != "h100-sxm":
        lines.append(f"no time measured on the {found.gpu.title} was ever compared with the model")
    lines.append(
        "sums are of layers alone, each with a cold L2 cache; a network that finds inputs in the cache is quicker"
    )
    if failed := [layer for layer in found.layers if layer.note]:
        lines.append(f"{len(failed)} layers without registers and occupancy: {failed[0].note}")
    if found.uncounted:
        lines.append(found.uncounted)
    return lines


def totals(found: Map) -> list[str]:
    """The sums."""
    kinds = ", ".join(
        f"{kind} {count} layers {100 * seconds / found.seconds:.0f} %"
        for kind, (count, seconds) in found.by_kind.items()
    )
    bound = sum(layer.bound for layer in found.layers)
    return [
        f"predicted: {found.seconds * 1e6:,.0f} us, {found.images_per_second:,.0f} images/s; roofline bound {bound * 1e6:,.0f} us",
        f"predicted time by kind: {kinds}",
    ]


def show_one(found: Map) -> None:
    """A row a layer, the totals, the notes."""
    console = output.console()
    gpu = found.gpu
    console.print(
        output.plain(f"{found.name} on {gpu.title} ({gpu.name}), batch {found.batch}, {found.dtype}: predicted\n")
    )
    dropped = show(console, columns(found))
    console.print(output.plain("\n" + "\n".join(totals(found))))
    if len(found.layers) == 1:
        for one in found.layers[0].fills or ():
            console.print(output.plain(f"nearest that fills the last wave: {one}"))
    console.print(output.plain("\n" + "\n".join(f"- {line}" for line in notes(found))))
    if dropped:
        console.print(output.plain("\n" + not_shown(dropped)))


def show_beside(maps: list[Map]) -> None:
    """GPUs side by side: predicted time and limiter of each layer."""
    console = output.console()
    first = maps[0]
    console.print(output.plain(f"{first.name}, batch {first.batch}, {first.dtype}: predicted us, and what limits it\n"))
    table = [Column("layer", [*(_name(row) for row in first.layers), "sum", "images/s"], text=True)]
    for found in maps:
        sums = [micro(found.seconds), f"{found.images_per_second:,.0f}"]
        table.append(Column(found.gpu.name, [*(micro(row.seconds) for row in found.layers), *sums]))
        table.append(Column("limited by", [*(row.limiter for row in found.layers), "", ""], 1, text=True))
    dropped = show(console, table)
    said = dict.fromkeys(line for found in maps for line in notes(found))
    console.print(output.plain("\n" + "\n".join(f"- {line}" for line in said)))
    if dropped:
        console.print(output.plain("\n" + not_shown(dropped)))


def show_variations(maps: list[Map]) -> None:
    """A layer and what it might be, a column each; below the first, times are also shares of the first one's."""
    console = output.console()
    first = maps[0]
    console.print(
        output.plain(f"{_name(first.layers[0])} on {first.gpu.title}, {first.dtype}: predicted, as it is and what if\n")
    )
    names = ["as it is", *(_name(found.layers[0]).rpartition("[")[2].rstrip("]") for found in maps[1:])]
    shown = [columns(found) for found in maps]
    heads = [c.header.replace("-\n", "").replace("\n", " ") for c in shown[0]][1:]
    rows = ["layer", *heads, "images/s", "us an image", "time, of the first's"]
    table = [Column("", rows, text=True)]
    for name, found, cells in zip(names, maps, shown):
        one = found.layers[0]
        each = micro(found.seconds / found.batch) if found.batch else ""
        sums = [f"{found.images_per_second:,.0f}", each, f"{100 * found.seconds / first.seconds:.0f} %"]
        table.append(Column(name, [str(one.layer.spec), *(column.cells[0] for column in cells[1:]), *sums]))
    show(console, table)
    fills = first.layers[0].fills or ()
    console.print(output.plain("".join(f"\nnearest that fills the last wave: {one}" for one in fills)))
    said = dict.fromkeys(line for found in maps for line in notes(found))
    console.print(output.plain("\n" + "\n".join(f"- {line}" for line in said)))
