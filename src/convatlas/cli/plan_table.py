"""A plan as a table: `convatlas summary NET --plan`, and what `profile NET --plan` has to say without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convatlas.cli import output
from convatlas.cli.columns import Column, not_shown, print_csv, show
from convatlas.cli.runtime import prepare
from convatlas.study.numbers import short

if TYPE_CHECKING:
    from convatlas.nets.resolve import Found
    from convatlas.plan.layers import PlanLayer


def run(
    found: Found, shape: tuple[int, ...], dtype: str, json: bool = False, as_csv: bool = False, note: str = ""
) -> None:
    """Compiles the net and prints its plan's steps; nothing is computed. On a GPU backends are chosen by layer, else triton's."""
    prepare("triton")
    import torch

    from convatlas.plan.plan import compile
    from convatlas.specs import dtype_name
    from convatlas.verify.device import device_for

    dtype = dtype_name(dtype)
    device = device_for("triton", dtype)
    with output.progress(f"compiling {found.name}"):
        net = found.build().to(device, getattr(torch, dtype))
        x = torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
        plan = compile(net, x, backend=None if device.type == "cuda" else "triton")
    rows = [as_dict(layer) for layer in plan.layers]
    if json:
        output.print_json({"net": found.name, "input_shape": list(shape), "dtype": dtype, "steps": rows})
        return
    if as_csv:
        print_csv(
            [{key: " ".join(map(_text, v)) if isinstance(v, list) else v for key, v in row.items()} for row in rows]
        )
        return
    console = output.console()
    console.print(output.plain(f"{found.name}, {'x'.join(map(str, shape))}, {dtype}: its plan\n"))
    dropped = show(console, columns(plan.layers))
    console.print(output.plain("\n" + plan.report()))
    if device.type == "cpu":
        console.print(
            output.plain("kernels and tiles: as Triton's interpreter runs them; a GPU gets others (`convatlas map`)")
        )
    if note:
        console.print(output.plain("\n" + note))
    if dropped:
        console.print(output.plain("\n" + not_shown(dropped)))


def _text(value: Any) -> str:
    return value["name"] if isinstance(value, dict) else str(value)


def as_dict(layer: PlanLayer) -> dict[str, Any]:
    """A step for JSON and CSV."""
    call = layer.call
    return {
        "path": layer.path,
        "merged": list(layer.merged),
        "op": layer.op,
        "shape": None if call is None else str(call.spec),
        "epilogue": None if call is None or not call.epilogue else str(call.epilogue),
        "backend": layer.backend,
        "kernels": [{"name": k.name, "grid": list(k.grid), "config": k.config} for k in layer.kernels],
        "reads": list(layer.reads),
        "writes": layer.writes,
        "bytes": layer.bytes,
        "flops": layer.flops,
        "ours": layer.ours,
        "parts": [{"name": p.name, "op": p.op, "shape": str(p.spec), "epilogue": str(p.epilogue)} for p in layer.parts],
    }


def columns(layers: list[PlanLayer]) -> list[Column]:
    """What a table shows of them."""
    rows = [as_dict(layer) for layer in layers]
    kernels = [", ".join(f"{k['name']} {k['config']}" for k in row["kernels"]) or "-" for row in rows]
    return [
        Column("layer", [row["path"] or row["op"] for row in rows], text=True),
        Column("op", [f"{row['op']} {row['shape'] or ''}".strip() for row in rows], 2, text=True),
        Column("fused behind", [row["epilogue"] or "" for row in rows], 4, text=True),
        Column("by", [row["backend"] for row in rows], 5, text=True),
        Column("kernels", kernels, 3, text=True),
        Column("reads", [" ".join(row["reads"]) for row in rows], 6, text=True),
        Column("writes", [row["writes"] for row in rows], 6, text=True),
        Column("bytes", [short(row["bytes"]) for row in rows], 1),
        Column("FLOPs", [short(row["flops"]) for row in rows], 1),
    ]
