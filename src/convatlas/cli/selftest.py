"""convatlas selftest: every kernel's cases on the GPU that is here; what passes is taken from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli import output
from convatlas.cli.runtime import prepare

if TYPE_CHECKING:
    from convatlas.verify.selftest import Result


def command(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Run every kernel on this machine's GPU, hold it to the reference, and keep which kernels may be taken here.

    On a GPU whose architecture nobody has tested, the plainer kernels are taken until this has run: a minute or two. The outcome
    lies in the cache, for this GPU, its driver, the versions and the kernels as they are. Exits with 1 if a kernel was wrong.
    """
    prepare("triton")
    from convatlas.verify.selftest import selftest

    with output.progress("selftest", width=60) as shown:

        def seen(result: Result, done: int, total: int) -> None:
            shown(str(result.case), done, total)

        found = selftest(seen)
    if json:
        output.print_json(found)
    else:
        show_text(found)
    if found["failed"]:
        raise typer.Exit(1)


def show_text(found: dict[str, Any]) -> None:
    """The GPU, a line a kernel, and where the outcome lies."""
    console = output.console()
    console.print(output.plain(f"{found['gpu']}, sm_{found['arch']}: {found['cases']} cases\n"))
    for kernel in found["passed"]:
        console.print(output.plain(f"right   {kernel}", "green"))
    for kernel, details in found["failed"].items():
        console.print(output.plain(f"WRONG   {kernel}: {len(details)} cases, such as {details[0]}", "bold red"))
    where = (
        f"kept in {found['kept']}"
        if found["kept"]
        else "not kept: there is no cache folder (CONVATLAS_CACHE names one)"
    )
    console.print(output.plain(f"\n{where}"))
