"""convatlas profile: where a network's time goes on this GPU, layer by layer, against cuDNN and against what the GPU can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output, plan_table, training_table
from convatlas.cli.columns import Column, show
from convatlas.cli.runtime import BACKEND_VARIABLE, Fuse, PlanFile, fuse_of, net_of, one_of, plan_of
from convatlas.files import check_writable, write_json

if TYPE_CHECKING:
    from convatlas.bench.ncu import Counters
    from convatlas.bench.profile import Profile
    from convatlas.bench.racing import Racer
    from convatlas.bench.timing import Timer
    from convatlas.plan.plan import Plan

DTYPES = ("float16", "bfloat16", "tf32", "float32")
BINDS = {"tensor": "tensor rate", "bandwidth": "bandwidth", "launch": "launch latency"}
FORMS = {"graph": "in a CUDA graph", "plan": "as a plan", "cudnn_graph": "on torch.nn.functional in a CUDA graph"}
PREDICTED = "times are predicted; steps are not timed yet (roadmap R7)"
KERNELS = 10  # that are printed of ncu's


def _backend(name: str) -> str:
    return one_of(name, ("auto", "triton", "cuda"))


def command(
    context: typer.Context,
    net: Annotated[str | None, typer.Argument(help="The network.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 32,
    dtype: Annotated[str, typer.Option("--dtype", help=", ".join(DTYPES))] = "float16",
    backend: Annotated[
        str,
        typer.Option("--backend", envvar=BACKEND_VARIABLE, callback=_backend, help="auto (by layer), triton or cuda"),
    ] = "auto",
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Pixels of the square input; the network's own if not given.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write JSON to this file.")] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help="Write a trace for Perfetto to this file.")] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Print only this many layers.")] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Time the steps of the network's plan (convatlas.compile) and the whole plan. Without a GPU list the steps only.",
        ),
    ] = False,
    fuse: Fuse = None,
    plan_file: PlanFile = None,
    training: Annotated[
        bool,
        typer.Option(
            "--training",
            help="Count a training step and each layer's gradients, and predict their times; none is measured yet (roadmap R7).",
        ),
    ] = False,
    ncu: Annotated[
        bool, typer.Option("--ncu", help="Read hardware counters of one run, where Nsight Compute is installed.")
    ] = False,
) -> None:
    """Time every layer of a network on this GPU: ours, cuDNN's, and the bound by what this GPU was measured to do.

    Layers with the most time above their bound come first. Needs an NVIDIA GPU.
    """
    from convatlas.errors import BackendError, DtypeError
    from convatlas.nets.registry import info
    from convatlas.nets.resolve import resolve

    loaded = None
    if plan_file is not None:
        loaded = plan_of(context, plan_file, "net", "batch", "dtype", "size", "fuse", "backend", "training", "ncu")
        net, plan = loaded.name, True
    else:
        net = info(net_of(net)).name
    if dtype not in DTYPES:
        raise DtypeError(f"dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    for path in (json, trace):
        if path is not None:
            check_writable(path)
    import torch

    fused = fuse_of(fuse, plan)
    note = "no times: torch sees no NVIDIA GPU here; `convatlas map` predicts them"
    here = torch.cuda.is_available()
    if not here and loaded is not None:
        plan_table.show_plan(loaded, net, note=note)
        return
    if training or (plan and not here):
        found, element = resolve(net), "float32" if dtype == "tf32" else dtype
        shape = (batch, 3, *2 * (size or found.size,))
        if plan and not here:
            plan_table.run(found, shape, element, note=note, fuse=fused)
        else:
            training_table.run(found, shape, element, note=PREDICTED)
        return
    if not here:
        raise BackendError(
            f"profile needs an NVIDIA GPU, and torch sees none here; `convatlas summary {net}` counts FLOPs and bytes without one"
        )
    from convatlas.bench.ceilings import measure
    from convatlas.bench.racing import Racer
    from convatlas.bench.timing import CudaTimer

    timer = CudaTimer()
    with output.progress("measuring ceilings"):
        ceilings = measure(timer, torch.device("cuda"))
    racer = Racer(ceilings=ceilings, backend=backend, nets=contestants(plan), fuse=fused)
    if loaded is not None:
        batch, dtype, size = _said(loaded)
    run(net, batch, dtype, size, racer, timer, json, trace, top, ncu, loaded or plan)


def _said(plan: Plan) -> tuple[int, str, int]:
    """(batch, dtype, pixels) of a plan's example, float32 as torch's settings have it."""
    from convatlas.kernels.common.precision import may_be_tf32
    from convatlas.specs import dtype_name

    (x, *_), name = plan.example, dtype_name(plan.example[0].dtype)
    return x.shape[0], "tf32" if name == "float32" and may_be_tf32("conv2d") else name, x.shape[-1]


def contestants(plan: bool) -> list[str]:
    """The forms of the whole network that are timed."""
    from convatlas.bench.profile import FORMS

    return [name for name in FORMS if plan or name != "ours_plan"]


def run(
    net: str, batch: int, dtype: str, size: int | None, racer: Racer, timer: Timer, json: Path | None = None,
    trace: Path | None = None, top: int | None = None, ncu: bool = False, plan: bool | Plan = False,
) -> None:  # fmt: skip
    """Runs the command with a given racer, as a rehearsal does on a CPU."""
    from convatlas.bench import ncu as hardware
    from convatlas.bench.ceilings import document
    from convatlas.bench.profile import profile
    from convatlas.bench.trace_event import events

    with output.progress(f"profiling {net}") as progress:
        found = profile(net, batch, dtype, racer, size, plan, progress=progress)
    about = document(racer.ceilings, timer)
    counted = hardware.counters(net, batch, dtype, racer.backend, found.size) if ncu else None
    if json is not None:
        write_json(json, {**about, **found.as_dict(), "ncu": _counted(counted)})
    if trace is not None:
        write_json(trace, events(found), compact=True)
    show_text(found, about, top)
    if counted is not None:
        show_counters(counted)


def _counted(counters: list[Counters] | str | None) -> Any:
    from dataclasses import asdict

    return [asdict(kernel) for kernel in counters] if isinstance(counters, list) else counters


def show_text(found: Profile, about: dict[str, Any], top: int | None) -> None:
    """Prints what was measured and on what, a row a layer, the sums, and how to read them."""
    console = output.console()
    shape = f"{found.batch}x3x{found.size}x{found.size}"
    where = "REHEARSAL, invented times" if found.timer == "rehearsal" else about["gpu"]
    console.print(output.plain(f"{found.net}, {shape}, {found.dtype}, backend {found.backend}: {where}"))
    console.print(output.plain(_ceilings(about) + "\n"))
    rows = found.layers[:top]
    columns = [
        Column("layer", [layer.paths[0] for layer in rows], text=True),
        Column("op", [layer.race.any.what for layer in rows], 3, text=True),
        Column("runs", [str(len(layer.paths)) for layer in rows], 2),
        Column("ours\nus", [_us(layer.ours) for layer in rows]),
        Column("cuDNN\nus", [_us(layer.peer) for layer in rows]),
        Column("bound\nus", [_us(layer.bound) for layer in rows]),
        Column("of bound\n%", [f"{100 * layer.share:.0f}" for layer in rows]),
        Column("binds", [BINDS[layer.race.get("bound")] for layer in rows], 1, text=True),
        Column("above\nus", [_us(layer.lost) for layer in rows]),
    ]
    dropped = show(console, columns)
    if len(rows) < len(found.layers):
        console.print(output.plain(f"\n{len(found.layers) - len(rows)} more layers (--top {len(found.layers)})"))
    console.print()
    for line in sums(found):
        console.print(output.plain(line))
    console.print(
        output.plain(
            "\na run of a layer alone, cold cache, median; cuDNN: the quicker of PyTorch's operators and cuDNN's fused form; "
            "bound: the longest of tensor-core time, compulsory bytes and one launch at the rates above; above: the time of all "
            "runs over the bound, by which rows are sorted"
        )
    )
    if dropped:
        console.print(
            output.plain(f"\nnot shown for want of room: {', '.join(dropped)} (a wider terminal and --json have them)")
        )


def _us(seconds: float | None) -> str:
    return _scaled(seconds, 1e6, 1)


def _scaled(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"


def _ceilings(about: dict[str, Any]) -> str:
    rates = ", ".join(f"{mode} {rate / 1e12:.3g}" for mode, rate in about["matmul_flops_per_s"].items())
    copy, launch = about["copy_bytes_per_s"] / 1e12, about["launch_seconds"] * 1e6
    return f"ceilings measured: copy {copy:.2f} TB/s, matmul TFLOP/s {rates}, launch {launch:.1f} us"


def sums(found: Profile) -> list[str]:
    """The layers' sums against the whole network by form, and what lies between them."""
    lines = [f"layers, summed: ours {_ms(found.layers_sum)}, bound {_ms(found.bound_sum)}"]
    if found.peer_sum is not None:
        lines[0] += f", cuDNN {_ms(found.peer_sum)}"
    for form, seconds in found.network.items():
        lines.append(f"whole network, {FORMS.get(form, form)}: {_ms(seconds)}")
    for form, reason in found.absent.items():
        lines.append(f"whole network, {form}: no time, {reason}")
    if found.launch_gaps is not None:
        gaps, eager = found.launch_gaps, found.network["eager"]
        lines.append(f"launch gaps: {_ms(max(gaps, 0.0))} of the eager run, {100 * max(gaps, 0.0) / eager:.0f} %")
    return lines


def show_counters(counters: list[Counters] | str) -> None:
    """The kernels that moved most bytes, or why there are no counters."""
    console = output.console()
    if isinstance(counters, str):
        console.print(output.plain(f"\n{counters}"))
        return
    total = sum(kernel.dram_bytes or 0 for kernel in counters)
    console.print(
        output.plain(f"\nncu: {len(counters)} kernels, {total / 1e6:.1f} MB to and from DRAM; most bytes first\n")
    )
    rows = sorted(counters, key=lambda kernel: -(kernel.dram_bytes or 0))[:KERNELS]
    columns = [
        Column("kernel", [kernel.kernel for kernel in rows], text=True),
        Column("DRAM\nMB", [_scaled(kernel.dram_bytes, 1e-6, 2) for kernel in rows]),
        Column("tensor\n%", [_scaled(kernel.tensor, 100, 0) for kernel in rows]),
    ]
    show(console, columns)
