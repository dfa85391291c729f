"""convatlas verify: a whole net, layer by layer, against the reference; `all` is every net (verify_all.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output, verify_all, verify_op
from convatlas.cli.runtime import Backend, Fuse, PlanFile, fuse_of, net_of, plan_of, prepare, ran_on

if TYPE_CHECKING:
    from convatlas.verify.verify import LayerResult, Verification


ALL, NATIVE = "all", "native"


def _pixels(text: str) -> int | None:
    """An input size; None, the network's own, for "native"."""
    if text == NATIVE:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r}, expected a number of pixels or {NATIVE}")
    return int(text)


def command(
    context: typer.Context,
    net: Annotated[str | None, typer.Argument(help='The network, "all" of them, or an op (see above).')] = None,
    size: Annotated[
        str, typer.Option("--size", callback=_pixels, help="Pixels of the square input, or native, the network's own.")
    ] = NATIVE,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 1,
    dtype: Annotated[str, typer.Option("--dtype", help="float16, bfloat16, float32 or float64.")] = "float16",
    backend: Backend = "triton",
    worst: Annotated[
        int | None, typer.Option("--worst", min=1, help="Print only this many layers, the worst first.")
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Check the steps of the network's plan (convatlas.compile), and what it returns."),
    ] = False,
    fuse: Fuse = None,
    plan_file: PlanFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run every layer on random inputs, then the whole network, and compare with the NumPy reference.

    With "all", run every network on random images, check each kind of layer where it first occurs, and each network's logits.

    With an op, check it alone on shapes that you give: `convatlas verify conv --input 1x64x56x56 --weight 64x64x3x3 --padding 1`.
    Each op has its own --help: {ops}.
    """
    from convatlas.nets.registry import info

    if plan_file is not None:
        loaded = plan_of(context, plan_file, "net", "size", "batch", "dtype", "backend", "fuse")
        from convatlas.verify.verify import verify_plan

        _run(loaded.name, lambda show: verify_plan(loaded, show), worst, json)
        return
    net = net_of(net)
    if net.casefold() == ALL:
        if worst is not None:
            raise typer.BadParameter("a row is a network there", param_hint="'--worst' with 'all'")
        if plan:
            raise typer.BadParameter("give one network's name", param_hint="'--plan' with 'all'")
        prepare(backend)
        if not verify_all.run(size, batch, dtype, backend, json):
            raise typer.Exit(1)
        return
    net = info(net).name
    prepare(backend)
    fused = fuse_of(fuse, plan, backend)
    from convatlas.verify.verify import verify

    _run(net, lambda show: verify(net, size, batch, dtype, backend, show, 0, plan, fused), worst, json)


def _run(name: str, work: Callable[[Any], Verification], worst: int | None, json: bool) -> None:
    """Prints what `work` finds. Raises typer.Exit(1) where something is wrong."""
    from convatlas.verify.verify import Interrupted

    try:
        with output.progress(f"verifying {name}") as show:
            result = work(show)
    except Interrupted as stop:
        result = stop.found
    if json:
        output.print_json(as_dict(result, worst))
    else:
        show_text(result, worst)
    if not result.complete:
        raise KeyboardInterrupt
    if not result.ok:
        raise typer.Exit(1)


command.__doc__ = command.__doc__.format(ops=", ".join(verify_op.COMMANDS))


def chosen(result: Verification, worst: int | None) -> list[LayerResult]:
    """All layers as they run, or the `worst` ones, worst first."""
    if worst is None:
        return result.layers
    return sorted(result.layers, key=lambda layer: (layer.ok, -layer.worst))[:worst]


def as_dict(result: Verification, worst: int | None) -> dict[str, Any]:
    """The JSON document."""
    logits, wrong = result.logits, result.first_wrong
    return {
        "net": result.name,
        "input_shape": list(result.input_shape),
        "dtype": result.dtype,
        "backend": result.backend,
        "device": result.device,
        "interpreted": result.interpreted,
        "ok": result.ok,
        "complete": result.complete,
        "first_wrong": None if wrong is None else wrong.layer.path,
        "layers": [
            {
                "path": r.layer.path,
                "op": r.layer.op,
                "shape": str(r.layer.spec),
                "epilogue": str(r.layer.epilogue or "none"),
                "ok": r.ok,
                "alone": {"worst": r.alone.worst, "rms": r.alone.rms},
                "in_network": None if r.inside is None else {"worst": r.inside.worst, "rms": r.inside.rms},
                "detail": r.detail,
            }
            for r in chosen(result, worst)
        ],
        "logits": None if logits is None else verify_all.logits_as_dict(logits),
        "seconds": result.seconds,
    }


def show_text(result: Verification, worst: int | None) -> None:
    """A row a layer, the logits, the verdict."""
    console = output.console()
    shape = "x".join(map(str, result.input_shape))
    where = ran_on(result.backend, result.device, result.interpreted)
    console.print(output.plain(f"{result.name}, {shape}, {result.dtype}: {where}\n"))

    wide = console.width >= output.NARROW
    numbers = ("error/\nbound", "right"), ("rms/\nbound", "right")
    table = output.table("layer", *["op"] * wide, *numbers)
    for r in chosen(result, worst):
        what = [output.plain(f"{r.layer.op} {r.layer.spec}")] * wide
        style = "" if r.ok else "bold red"
        table.add_row(
            output.plain(r.layer.path or r.layer.op), *what, output.number(r.worst), output.number(r.rms), style=style
        )
    console.print(table)

    for r in result.layers:
        if not r.ok:
            console.print(output.plain(f"\n{r.layer.path or r.layer.op}: {r.detail}", "bold red"))
    wrong, logits = sum(not r.ok for r in result.layers), result.logits
    counted = f"{len(result.layers)} layers ({result.distinct} distinct), each alone and in the network"
    if logits is None:
        inside = sum(r.inside is not None for r in result.layers)
        counted = f"of {result.total} layers {len(result.layers)} checked alone and {inside} in the network"
    if wrong:
        console.print(output.plain(f"\n{counted}: {wrong} outside the error bound", "bold red"))
    else:
        top = max((r.worst for r in result.layers), default=0.0)
        console.print(
            output.plain(f"\n{counted}: all within the error bound, at most {output.number(top)} of it", "green")
        )
    if logits is None:
        line = f"interrupted after {result.seconds:.1f} s, NOT verified: the other layers, the logits"
        console.print(output.plain(line, "bold red"))
        return
    line = (
        f"logits: rms error {output.number(logits.error)}, allowed {output.number(logits.limit)}; rounding to {result.dtype} "
        f"alone makes {output.number(logits.yardstick)}; top-1 agrees for {logits.agree} of {logits.images}"
    )
    console.print(output.plain(line, "green" if logits.ok else "bold red"))
    console.print(output.plain(f"{'verified' if result.ok else 'NOT verified'} in {result.seconds:.1f} s"))
