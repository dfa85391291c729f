"""convatlas report: a network on a GPU as one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output
from convatlas.cli.mapping import BACKEND_HELP, DTYPE_HELP, backend_of
from convatlas.cli.summary import NET_HELP

if TYPE_CHECKING:
    from convatlas.model.gpu import GPU
    from convatlas.results.store import Results

OURS = ("triton", "cuda")


def command(
    net: Annotated[str, typer.Argument(help=NET_HELP)],
    out: Annotated[Path, typer.Option("--out", help="The page, a file of HTML that needs no other.")],
    gpu: Annotated[str, typer.Option("--gpu", help="A GPU by name, or a JSON file; it need not be here.")] = "h100-sxm",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 32,
    dtype: Annotated[str, typer.Option("--dtype", help=DTYPE_HELP)] = "float16",
    backend: Annotated[str, typer.Option("--backend", callback=backend_of, help=BACKEND_HELP)] = "auto",
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measured",
            help="Times to show beside the predicted ones: a file of benchmarks/results or of `convatlas profile --json`.",
        ),
    ] = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Leave out the kernels' source and machine code.")] = False,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Leave out registers, shared memory, occupancy and machine code.")
    ] = False,
) -> None:
    """Write a page of a network: drawn, roofline, waves, memory, the layer table, and each layer with its code. Needs no GPU.

    Times are predicted, never measured, but for those that --measured gives. Numbers are those of `convatlas map --json`.
    """
    from convatlas.errors import NetError
    from convatlas.files import check_writable, shown, write_text
    from convatlas.model.gpu import gpu as named
    from convatlas.study.written import is_layer

    check_writable(out)
    one = named(gpu)
    times = None if measured is None else times_of(measured, one, dtype, batch, backend)
    if is_layer(net):
        raise NetError(f"{net!r} is one layer, expected a network; `convatlas map {net!r} --svg FILE` draws a layer")
    from convatlas.study.mapping import map, summary_of
    from convatlas.study.report.code import code_of
    from convatlas.study.report.page import page

    with output.progress("compiling") as progress:
        found = map(net, gpu=one, dtype=dtype, backend=backend, batch=batch, compile=not no_compile, progress=progress)
        code = None if no_code or no_compile else code_of(found, progress)
    source = "" if measured is None else f"a real {one.title}, {measured.name}"
    text = page(found, summary_of(net, None, batch, dtype), code, times, source)
    write_text(out, text)
    size = f"{len(found.layers)} layers, {len(text) / 1e6:.2f} MB"
    print(f"wrote {shown(out)}: {found.name} on {one.title}, {size}; times are predicted")


def times_of(
    path: Path, gpu: GPU, dtype: str, batch: int, backend: str = "auto"
) -> dict[tuple[str, str, str, str], float]:
    """Median seconds by op, spec, epilogue and backend, L2 cold, in a CUDA graph, from stored results or a profile.

    Raises InputError for times of another GPU, dtype or batch, and for invented ones.
    """
    from convatlas.errors import InputError
    from convatlas.model.gpu import of_device
    from convatlas.results.store import load, read

    document = read(path)
    profiled = isinstance(document.get("layers"), list) and isinstance(document.get("network"), dict)
    results = None if profiled else load(path)
    device = document.get("gpu") or next((entry.device for entry in results.entries if results), "")
    if of_device(device) != gpu:
        raise InputError(f"--measured {path}: times of {device}, expected some of the {gpu.title}")
    found = _of_profile(document, path, dtype, batch, backend) if profiled else _of_results(results, dtype, batch)
    if not found:
        raise InputError(f"--measured {path}: no layers of ours in {dtype} at batch {batch}, L2 cold, in a graph")
    return found


def _of_results(results: Results, dtype: str, batch: int) -> dict[tuple[str, str, str, str], float]:
    found = {}
    for entry in results.entries:
        extra = entry.extra
        setting = extra.get("suite"), extra.get("dtype"), extra.get("batch"), extra.get("cache"), extra.get("form")
        if setting == ("layers", dtype, batch, "cold", "graph") and extra.get("contestant") in OURS:
            epilogue = (extra.get("epilogue") or "").replace(" ", "")
            found[extra["op"], str(extra["spec"]), epilogue, extra["contestant"]] = entry.median
    return found


def _of_profile(
    document: dict[str, Any], path: Path, dtype: str, batch: int, backend: str
) -> dict[tuple[str, str, str, str], float]:
    """A profile names one backend, or auto, whose choice of a kernel is the map's as well."""
    from convatlas.errors import InputError

    try:
        if document["timer"] == "rehearsal":
            raise InputError(f"--measured {path}: a rehearsal, whose times are invented")
        given = document["backend"], document["dtype"], document["batch"]
        if given[1:] != (dtype, batch) or backend != given[0]:
            raise InputError(
                f"--measured {path}: a profile of {given[1]} at batch {given[2]} by {given[0]}, "
                f"expected {dtype} at batch {batch} by {backend}"
            )
        found = {}
        for row in document["layers"]:
            epilogue = "" if row["epilogue"] == "none" else row["epilogue"].replace(" ", "")
            for kernel in OURS:
                found[row["op"], row["spec"], epilogue, kernel] = float(row["seconds"]["ours"])
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"--measured {path}: no profile that `convatlas profile --json` wrote: {error!r}") from None
