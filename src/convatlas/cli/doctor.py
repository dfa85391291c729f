"""convatlas doctor: what is here, what it makes possible, what to install for the rest."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from convatlas import __version__
from convatlas.cli import output

if TYPE_CHECKING:
    from convatlas.doctor import Finding


def command(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what is installed here, what it makes possible, and what to install for the rest."""
    from convatlas.doctor import backends, examine

    findings = examine()
    runs = backends(findings)
    if json:
        output.print_json({"convatlas": __version__, "findings": [asdict(f) for f in findings], "backends": runs})
    else:
        show_text(findings, runs)


def show_text(findings: list[Finding], runs: dict[str, str]) -> None:
    """A row a finding, the backends, and what to do."""
    console = output.console()
    console.print(output.plain(f"convatlas {__version__}\n"))
    wide = console.width >= output.NARROW
    table = output.table("", "", "found", *["makes possible"] * wide)
    for f in findings:
        mark = output.plain("yes", "green") if f.ok else output.plain("no", "yellow")
        table.add_row(mark, f.name, output.plain(f.found), *[output.plain(f.enables)] * wide)
    console.print(table)
    console.print()
    for name, how in runs.items():
        console.print(output.plain(f"backend {name}: {how}"))
    remedies = {f.remedy: [] for f in findings if not f.ok}
    for f in findings:
        if not f.ok:
            remedies[f.remedy].append(f.name)
    if remedies:
        console.print(output.plain("\nfor the rest:"))
    for remedy, names in remedies.items():
        console.print(output.plain(f"  {', '.join(names)}: {remedy}"))
