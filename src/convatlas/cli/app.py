"""The commands, one file each. Nothing here imports torch or NumPy: a command does when it runs, so that --help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from convatlas import __version__
from convatlas.cli import (
    classify,
    compare,
    doctor,
    explaining,
    gating,
    glossary,
    inspecting,
    lecture,
    mapping,
    nets,
    profile,
    reporting,
    selftest,
    summary,
    train,
    verify,
    verify_op,
)
from convatlas.study.glossary import SEE

app = typer.Typer(
    cls=verify_op.Root,
    help="An atlas of convolutional networks on GPU hardware: hand-written kernels, the nets built of them, and their proof.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("classify")(classify.command)
app.command("verify")(verify.command)
verify_op.register(app)
app.command("nets")(nets.command)
app.command("summary", epilog=SEE)(summary.command)
app.command("map", epilog=SEE)(mapping.command)
app.command("explain", epilog=SEE)(explaining.command)
app.command("inspect", epilog=SEE)(inspecting.command)
app.command("gate", epilog=SEE)(gating.command)
app.command("report", epilog=SEE)(reporting.command)
app.command("train")(train.command)
app.command("lecture")(lecture.command)
app.command("compare")(compare.command)
app.command("profile", epilog=SEE)(profile.command)
app.command("glossary")(glossary.command)
app.command("doctor")(doctor.command)
app.command("selftest")(selftest.command)


def _version(asked: bool) -> None:
    if asked:
        print(f"convatlas {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)
