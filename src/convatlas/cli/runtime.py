"""What must be decided before torch and triton are imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from convatlas.plan.plan import LoadedPlan

BACKEND_VARIABLE = "CONVATLAS_BACKEND"  # what ops obey as well (ops/backends.py); an option goes before it
BACKEND_HELP = "triton (in its interpreter where there is no GPU), cuda (built for the CPU there), cudnn or numpy"


def _known(backend: str) -> str:
    from convatlas.ops.backends import BACKENDS

    return one_of(backend, BACKENDS)


def one_of(value: str, known: Sequence[str]) -> str:
    """`value` if it is one of `known`; else raises typer.BadParameter, which names the option and its environment variable."""
    if value not in known:
        raise typer.BadParameter(f"{value!r}, expected one of {', '.join(known)}")
    return value


def sizes(text: str, what: str = "a size or sizes") -> tuple[int, ...]:
    """ "1x64x56x56" or "2,1" as numbers; typer.BadParameter, which names the option, for anything else."""
    parts = text.casefold().replace(",", "x").split("x")
    if not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r}, expected {what}, such as 1x64x56x56")
    return tuple(map(int, parts))


def shape_of(text: str) -> tuple[int, ...]:
    """ "1x3x224x224" as a shape; typer.BadParameter, which names the option, for anything else."""
    shape = sizes(text, "sizes of at least 1")
    if min(shape) < 1:
        raise typer.BadParameter(f"{text!r}, expected sizes of at least 1, such as 1x3x224x224")
    return shape


FUSE_HELP = (
    "With --plan, which blocks of layers become one kernel: auto, predicted, all, none, or names of patterns with commas between "
    "(docs/fusion.md)."
)
Fuse = Annotated[str | None, typer.Option("--fuse", metavar="auto|predicted|all|none|NAME,...", help=FUSE_HELP)]


def fuse_of(text: str | None, plan: bool, backend: str = "triton") -> str | frozenset[str]:
    """The option `fuse` of convatlas.compile: "auto" where nobody gave one.

    Raises typer.BadParameter for a word that is no mode and no pattern's name, and where no plan is made.
    """
    if text is None:
        return "auto"
    if not plan:
        raise typer.BadParameter("is for a plan, which --plan makes", param_hint="'--fuse'")
    prepare(backend)
    from convatlas.plan.blocks import MODES, PATTERNS

    names = frozenset(name.strip() for name in text.split(","))
    for name in names if text not in MODES else ():
        if name not in PATTERNS:
            raise typer.BadParameter(
                f"{name!r}, expected {', '.join(MODES)} or names of {', '.join(PATTERNS)}", param_hint="'--fuse'"
            )
    return text if text in MODES else names


PLAN_FILE_HELP = (
    "Take the plan that plan.save wrote to this file, with its weights, in place of making one of a network."
)
PlanFile = Annotated[Path | None, typer.Option("--plan-file", metavar="FILE", help=PLAN_FILE_HELP)]


def plan_of(context: typer.Context, file: Path, *decided: str) -> LoadedPlan:
    """The plan of a file, under torchrun on the GPU of the process.

    Raises typer.BadParameter where one of the parameters that the file decides was given beside it.
    """
    for parameter in context.command.params:
        if parameter.name in decided and context.get_parameter_source(parameter.name).name == "COMMANDLINE":
            hint = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
            raise typer.BadParameter("with --plan-file, whose plan has its own", param_hint=f"'{hint}'")
    prepare("triton")
    import torch

    from convatlas.plan.plan import load_plan

    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())

    return load_plan(file)


def net_of(net: str | None) -> str:
    """The network that a command was given. Raises typer.BadParameter for none, where there is no --plan-file either."""
    if net is None:
        raise typer.BadParameter("missing, expected a network or --plan-file FILE", param_hint="'NET'")
    return net


Backend = Annotated[str, typer.Option("--backend", envvar=BACKEND_VARIABLE, callback=_known, help=BACKEND_HELP)]


def prepare(backend: str) -> None:
    """Without a GPU, turns Triton's interpreter on for backend "triton", unless TRITON_INTERPRET is set already.

    Triton reads the variable when it is first imported, so nothing may import it earlier.
    """
    if backend != "triton" or "TRITON_INTERPRET" in os.environ:
        return
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


def ran_on(backend: str, device: str, interpreted: bool) -> str:
    """Where the kernels ran, as the text output says it."""
    if interpreted:
        return f"{backend}, in Triton's interpreter on the CPU"
    if backend == "cuda" and device != "cuda":
        return "cuda, the kernels built for the CPU"
    return f"{backend}, on the {'GPU' if device == 'cuda' else 'CPU'}"
