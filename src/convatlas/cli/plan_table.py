"""A plan as a table: `convatlas summary NET --plan`, and what `profile NET --plan` has to say without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convatlas.cli import output
from convatlas.cli.columns import Column, not_shown, print_csv, show
from convatlas.cli.runtime import prepare
from convatlas.study.numbers import short

if TYPE_CHECKING:
    from convatlas.model.gpu import GPU
    from convatlas.nets.resolve import Found
    from convatlas.plan.layers import PlanLayer
    from convatlas.plan.plan import Plan


def run(
    found: Found,
    shape: tuple[int, ...],
    dtype: str,
    json: bool = False,
    as_csv: bool = False,
    note: str = "",
    fuse: str | frozenset[str] = "auto",
) -> None:
    """Compiles the net and prints its plan's steps; nothing is computed.

    On a GPU backends are chosen by layer. Without one all are triton's, interpreted; or cuda's, built for the CPU, where blocks are
    asked for, whose kernels are in CUDA C++ alone. Times are those that the model predicts of the GPU, or of an H100 where there is
    none, on the backends that it would choose.
    """
    prepare("triton")
    import torch

    from convatlas.plan.plan import compile
    from convatlas.specs import dtype_name
    from convatlas.verify.device import device_for

    dtype = dtype_name(dtype)
    device = device_for("triton", dtype)
    elsewhere = "triton" if fuse in ("auto", "none") else "cuda"
    with output.progress(f"compiling {found.name}"):
        net = found.build().to(device, getattr(torch, dtype))
        x = torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
        plan = compile(net, x, backend=None if device.type == "cuda" else elsewhere, fuse=fuse)
    show_plan(plan, found.name, json, as_csv, note)


def show_plan(plan: Plan, name: str, json: bool = False, as_csv: bool = False, note: str = "") -> None:
    """Prints the plan's steps."""
    from convatlas.plan.siblings import gpu_of
    from convatlas.specs import dtype_name

    (example, *_), device = plan.example, plan.example[0].device
    shape, dtype, on = tuple(example.shape), dtype_name(example.dtype), gpu_of(device)
    rows = [as_dict(layer, on) for layer in plan.layers]
    predicted = [row["predicted_seconds"] for row in rows if row["predicted_seconds"] is not None]
    if json:
        head = {"net": name, "input_shape": list(shape), "dtype": dtype, "predicted_on": on.name}
        output.print_json({**head, "predicted_seconds": sum(predicted), "steps": rows})
        return
    if as_csv:
        print_csv(
            [{key: " ".join(map(_text, v)) if isinstance(v, list) else v for key, v in row.items()} for row in rows]
        )
        return
    console = output.console()
    console.print(output.plain(f"{name}, {'x'.join(map(str, shape))}, {dtype}: its plan\n"))
    dropped = show(console, columns(rows))
    console.print(output.plain("\n" + plan.report()))
    console.print(
        output.plain(
            f"predicted, not measured: {sum(predicted) * 1e3:.3f} ms on {on.title} for {len(predicted)} of {len(rows)} steps, one "
            "after another with a cold L2 cache"
        )
    )
    if device.type == "cpu" and plan.backend != "numpy":
        who = "CUDA C++ built for the CPU has them" if plan.backend == "cuda" else "Triton's interpreter runs them"
        console.print(output.plain(f"kernels and tiles: as {who}; a GPU gets others (`convatlas map`)"))
    if note:
        console.print(output.plain("\n" + note))
    if dropped:
        console.print(output.plain("\n" + not_shown(dropped)))


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.1f}"


def _text(value: Any) -> str:
    return value["name"] if isinstance(value, dict) else str(value)


def as_dict(layer: PlanLayer, on: GPU) -> dict[str, Any]:
    """A step for JSON and CSV, with the time that the model predicts of it on a GPU, None for what is PyTorch's."""
    from convatlas.plan.siblings import seconds

    call = layer.call
    known = layer.ours and call.dtype != "float64"
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
        "predicted_seconds": seconds(call, on) if known else None,
        "ours": layer.ours,
        "parts": [{"name": p.name, "op": p.op, "shape": str(p.spec), "epilogue": str(p.epilogue)} for p in layer.parts],
    }


def columns(rows: list[dict[str, Any]]) -> list[Column]:
    """What a table shows of them."""
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
        Column("predicted\nus", [_us(row["predicted_seconds"]) for row in rows], 1),
    ]
