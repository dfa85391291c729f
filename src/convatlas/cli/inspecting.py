"""convatlas inspect: the code of a layer's kernels as they will run on a GPU that need not be here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from convatlas.cli import output
from convatlas.cli.columns import JSON_HELP
from convatlas.cli.mapping import BACKEND_HELP, DTYPE_HELP, NET_OR_LAYER_HELP, backend_of
from convatlas.names import spelled

if TYPE_CHECKING:
    from rich.console import Console

    from convatlas.codegen.banks import Buffer
    from convatlas.study.inspecting import Inspected, Inspection

LAYER_HELP = "A layer of the network, by its path (`convatlas map NET --no-compile` lists them)."
STAGES = ("triton", "ttir", "ttgir", "cuda", "ptx", "sass")
STAGE_HELP = "triton, ttir, ttgir (Triton's kernel, and its two intermediate forms), cuda (CUDA C++), ptx or sass (machine code)."


def _stage(text: str) -> str:
    return spelled(text, STAGES, "stage", f"expected one of {', '.join(STAGES)}")


def command(
    net: Annotated[str, typer.Argument(metavar="NET|LAYER", help=NET_OR_LAYER_HELP)],
    layer: Annotated[str | None, typer.Argument(metavar="[LAYER]", help=LAYER_HELP)] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", help="Compute capability, such as sm_80, sm_90, sm_100; default: sm_90.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="A GPU by name instead, whose launch config is taken.")
    ] = None,
    stage: Annotated[str, typer.Option("--stage", help=STAGE_HELP)] = "sass",
    backend: Annotated[str, typer.Option("--backend", callback=backend_of, help=BACKEND_HELP)] = "auto",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 32,
    dtype: Annotated[str, typer.Option("--dtype", help=DTYPE_HELP)] = "float16",
    whole: Annotated[
        bool, typer.Option("--all", help="Of SASS print every instruction, not only the main loop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Print the code of a layer's kernels as they will run: Triton's stages, CUDA C++, PTX, or the machine code read and annotated.

    Of SASS: the main loop with source lines, what its instructions do, issue slots for each clock of the tensor cores, widths of
    accesses, bank conflicts of shared memory, and spills. Kernels are compiled for the architecture; no GPU is needed.
    """
    from convatlas.study import inspecting

    stage = _stage(stage)
    backends = inspecting.STAGES[stage]
    if backend == "auto" and len(backends) == 1:
        (backend,) = backends
    if backend not in ("auto", *backends):
        raise typer.BadParameter(
            f"{stage!r}, which backend {backend} has not, expected {_stages_of(backend)}", param_hint="'--stage'"
        )
    found = inspecting.inspect(net, layer, arch=arch, gpu=gpu, dtype=dtype, backend=backend, batch=batch)
    if json:
        document = found.as_dict()
        if stage != "sass":
            for one, launch in zip(document["launches"], found.launches):
                one["text"] = launch.texts[stage]
        output.print_json(document)
    elif stage == "sass":
        show(found, whole)
    else:
        print("\n".join(launch.texts[stage].rstrip("\n") for launch in found.launches))


def _stages_of(backend: str) -> str:
    from convatlas.study.inspecting import STAGES

    return ", ".join(stage for stage, backends in STAGES.items() if backend in backends)


def show(found: Inspection, whole: bool) -> None:
    """The machine code of every launch, read and annotated."""
    console = output.console()
    layer = found.layer
    console.print(
        output.plain(
            f"{layer.path or layer.op} ({layer.spec}) on sm_{found.gpu.arch}, {found.dtype}, {found.backend}; launch config "
            f"of the {found.gpu.title}"
        )
    )
    for launch in found.launches:
        console.print(output.plain(f"\n{launch.expression}", "bold"))
        _show_facts(console, launch)
        _show_code(console, launch, whole)


def _show_facts(console: Console, launch: Inspected) -> None:
    for line in facts(launch):
        console.print(output.plain(line))
    loop = launch.main.kinds if launch.main else {}
    always = _every_round(launch)
    table = output.table("instructions", ("main loop", "right"), ("every round", "right"), ("kernel", "right"))
    for kind, count in {**dict.fromkeys(loop, 0), **launch.whole.kinds}.items():
        row = (str(loop.get(kind, 0)), str(always.get(kind, 0))) if launch.loop else ("", "")
        table.add_row(kind, *row, str(count))
    console.print()
    console.print(table)
    if launch.whole.accesses:
        counts = {one.opcode: one.count for one in (launch.main.accesses if launch.main else ())}
        table = output.table(
            "access of memory", ("bytes a thread", "right"), ("main loop", "right"), ("kernel", "right")
        )
        for one in launch.whole.accesses:
            width = "descriptor" if one.bytes is None else str(one.bytes)
            table.add_row(one.opcode, width, str(counts.get(one.opcode, 0)) if launch.loop else "", str(one.count))
        console.print()
        console.print(table)


def _every_round(launch: Inspected) -> dict[str, int]:
    from convatlas.codegen.mix import Mix

    return Mix.of([launch.code[i] for i in sorted(launch.loop.always)]).kinds if launch.loop else {}


def facts(launch: Inspected) -> list[str]:
    """What the machine code says, in sentences."""
    work = launch.work
    spilled = (
        f"{launch.spills} spills, {launch.stack} bytes of stack a thread"
        if launch.spills or launch.stack
        else "no spills"
    )
    tile = f", tile {work.tile}" if work.gemm else ""
    lines = [
        f"{work.config}{tile}; {work.grid} blocks of {work.threads} threads; {launch.registers} registers a thread, "
        f"{launch.shared} bytes of shared memory a block; {spilled}; {len(launch.code)} instructions"
    ]
    if launch.loop is None:
        lines.append("No loop multiplies: the products, if there are any, are unrolled or are made once a thread.")
    else:
        first, last = (launch.code[launch.loop.body[i]].address for i in (0, -1))
        behind = len(launch.loop.body) - len(launch.loop.always)
        said = f", {behind} of them behind a branch that a round may skip" if behind else ", all of them in every round"
        lines.append(f"The main loop lies at {first:04x} to {last:04x}: {len(launch.loop.body)} instructions{said}.")
    if launch.issue is not None:
        i = launch.issue
        span = (
            f"{i.always:.2f}"
            if i.always == i.most
            else f"{i.always:.2f} (every round) to {i.most:.2f} (with all branches)"
        )
        verdict = (
            "leaves room"
            if i.most <= 1
            else "is too much in every round"
            if i.always > 1
            else "leaves room but in rounds that take the branches"
        )
        lines.append(
            f"Predicted: a round takes the {i.pipe} pipe {i.cycles:.0f} clocks a block; each scheduler issues {span} instructions "
            f"in each of them, of 1 that it can: that {verdict}."
        )
        if i.assumed:
            lines.append(f"({i.assumed}.)")
    for one in launch.buffers:
        lines.append(f"Shared memory, {one.name} ({one.shape}; {one.layout}): {_conflicts(one)}.")
    if not launch.buffers and any(kind.endswith("shared") for kind in launch.whole.kinds):
        lines.append("Shared memory: bank conflicts are not known, since no layout of this kernel is.")
    return lines


def _conflicts(one: Buffer) -> str:
    if one.reads is None:
        return f"bank conflicts are not known: {one.why}"
    if one.reads == one.writes == 1:
        return f"no bank conflicts: {one.why}"
    return f"a read takes {one.reads} turns, a write {one.writes}: {one.why}"


def _show_code(console: Console, launch: Inspected, whole: bool) -> None:
    from convatlas.codegen.mix import kind
    from convatlas.study.inspecting import own_line

    body = frozenset(launch.loop.body if launch.loop else ())
    always = launch.loop.always if launch.loop else frozenset()
    places = range(len(launch.code)) if whole or launch.loop is None else sorted(body)
    texts = {name: path.read_text(encoding="utf-8").splitlines() for name, path in launch.files.items()}
    console.print(
        output.plain(
            "\n| in every round of the main loop, : in some rounds; above the instructions, the source line they come from"
        )
    )
    before = None
    for i in places:
        one = launch.code[i]
        if (line := own_line(one)) is not None and line != before:
            file, number = line
            text = texts.get(file, [])
            console.print(
                output.plain(f"{file}:{number}  {text[number - 1].strip() if 0 < number <= len(text) else ''}", "dim")
            )
            before = line
        mark = "|" if i in always else ":" if i in body else " "
        console.print(output.plain(f"  {mark} {one.address:04x}  {one!s:<64} {kind(one)}"))
