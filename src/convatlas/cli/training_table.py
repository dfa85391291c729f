"""A training step as a table: `convatlas summary NET --training`, and what `profile NET --training` has to say without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from convatlas.cli import output
from convatlas.cli.columns import Column, not_shown, print_csv, show
from convatlas.study.numbers import short

PARTS = ("forward", "dgrad", "wgrad", "other")

if TYPE_CHECKING:
    from convatlas.call import Call
    from convatlas.nets.resolve import Found
    from convatlas.study.training import LayerStep, TrainingStep


def run(
    found: Found,
    shape: tuple[int, ...],
    dtype: str,
    optimizer: str = "sgd",
    json: bool = False,
    as_csv: bool = False,
    note: str = "",
) -> None:
    """Traces one step and prints it, a row a module, with its memory and the times that the model predicts; nothing is computed.

    Raises NetError for a net not made of convatlas's layers, DtypeError for float64, ArgumentError for an unknown optimizer.
    """
    import torch

    from convatlas.errors import DtypeError
    from convatlas.model.ceilings import Ceilings
    from convatlas.nets.registry import create, training_options
    from convatlas.plan import siblings
    from convatlas.specs import dtype_name
    from convatlas.study.summary import summarise_found
    from convatlas.study.training import COUNTED, inference_bytes, training_step

    if dtype_name(dtype) == "float64":
        raise DtypeError(
            "a training step in float64, expected float16, bfloat16 or float32: of others the model knows no time"
        )
    with torch.device("meta"):
        net = create(found.name, **options) if (options := training_options(found.name)) else found.build()
    step = training_step(net, shape, dtype, optimizer, found.name)
    on = siblings.gpu_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rates, known = Ceilings.published(on), {}

    def seconds(call: Call) -> float:
        key = call.op, call.spec, call.epilogue, call.dtype
        if (
            key not in known
        ):  # the model was fitted to forward kernels alone: some gradients it calls quicker than the GPU can be
            least, _ = rates.bound(call.spec, call.epilogue, call.dtype, False)
            known[key] = max(siblings.seconds(call, on), least)
        return known[key]

    rows = [as_dict(layer, seconds) for layer in step.layers]
    total = totals(step, seconds, on.dram_bytes_per_s)
    inference = summarise_found(found, shape, dtype)
    total["memory"]["inference"] = inference_bytes(
        inference.parameters - inference.idle_parameters, inference.peak_bytes, dtype
    )
    if json:
        head = {"net": step.name, "input_shape": list(shape), "dtype": step.dtype, "optimizer": optimizer}
        output.print_json({**head, "predicted_on": on.name, "layers": rows, "total": total, "counted": list(COUNTED)})
        return
    if as_csv:
        print_csv(rows)
        return
    console = output.console()
    console.print(
        output.plain(f"{step.name}, {'x'.join(map(str, shape))}, {step.dtype}, {optimizer}: a training step\n")
    )
    dropped = show(console, columns(rows))
    console.print(output.plain("\n" + "\n".join(lines(total, on.title))))
    console.print(output.plain("\ncounted:\n" + "\n".join(f"- {line}" for line in COUNTED)))
    for text in filter(None, (note, not_shown(dropped) if dropped else "")):
        console.print(output.plain("\n" + text))


def as_dict(layer: LayerStep, seconds: Callable[[Call], float]) -> dict[str, Any]:
    """A row for JSON and CSV: FLOPs, compulsory bytes and predicted seconds by part, and what is kept."""
    numbers = {"flops": layer.flops, "bytes": layer.bytes, "predicted_seconds": lambda part: layer.total(seconds, part)}
    parts = {f"{part}_{name}": of(part) for part in PARTS for name, of in numbers.items()}
    return {"path": layer.path, **parts, "kept_bytes": layer.kept}


def totals(step: TrainingStep, seconds: Callable[[Call], float], bandwidth: float) -> dict[str, Any]:
    """The sums for JSON; the optimizer's time is that of its bytes at the GPU's published bandwidth."""
    least, count = step.checkpointed
    predicted = {part: step.predicted(seconds, part) for part in PARTS} | {
        "optimizer": step.optimizer_bytes / bandwidth
    }
    return {
        "parameters": step.parameters,
        "flops": {part: step.flops(part) for part in PARTS},
        "products_of_a_step_over_forward": round(step.ratio, 4),
        "bytes": {part: step.bytes(part) for part in PARTS} | {"optimizer": step.optimizer_bytes},
        "predicted_seconds": predicted,
        "memory": {**step.fixed, "kept": step.kept, "total": step.memory},
        "checkpointing": {"segments": count, "kept": least, "total": sum(step.fixed.values()) + least},
    }


def columns(rows: list[dict[str, Any]]) -> list[Column]:
    """What a table shows of them."""

    def column(header: str, name: str, drop: int, micro: bool = False) -> Column:
        values = (row[name] * (1e6 if micro else 1) for row in rows)
        return Column(header, [(f"{v:.1f}" if micro else short(v)) if v else "" for v in values], drop)

    return [
        Column("layer", [row["path"] for row in rows], text=True),
        *(column(f"{part}\nFLOPs", f"{part}_flops", drop) for part, drop in zip(PARTS, (0, 0, 0, 2))),
        *(column(f"{part}\nbytes", f"{part}_bytes", drop) for part, drop in zip(PARTS, (5, 4, 4, 6))),
        *(column(f"{part}\nus", f"{part}_predicted_seconds", drop, True) for part, drop in zip(PARTS, (3, 1, 1, 3))),
        column("kept\nbytes", "kept_bytes", 1),
    ]


def lines(total: dict[str, Any], on: str) -> list[str]:
    """The totals, in words."""
    flops, memory, less = total["flops"], total["memory"], total["checkpointing"]
    times = total["predicted_seconds"]
    parts = ", ".join(f"{name} {1e3 * seconds:.3f}" for name, seconds in times.items())
    return [
        f"FLOPs: {short(sum(flops.values()))}; " + ", ".join(f"{name} {short(n)}" for name, n in flops.items()),
        f"MACs of a step: {total['products_of_a_step_over_forward']} times the forward pass's",
        f"memory: {short(memory['total'], 'B')}; "
        + ", ".join(f"{name} {short(n, 'B')}" for name, n in memory.items() if name not in ("total", "inference")),
        f"memory of inference: {short(memory['inference'], 'B')}, weights and the most activations alive at once",
        f"with checkpointing in {less['segments']} segments: {short(less['total'], 'B')}, of which kept {short(less['kept'], 'B')}",
        f"predicted, not measured: {1e3 * sum(times.values()):.3f} ms a step on {on}, op by op with a cold L2 cache: {parts} "
        "(of each op the model's time or, where that is longer, the roofline's)",
    ]
