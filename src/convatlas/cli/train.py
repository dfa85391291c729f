"""convatlas train: a network learns, through our ops and their backward."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convatlas.cli import output
from convatlas.cli.runtime import BACKEND_HELP, BACKEND_VARIABLE, one_of, prepare

if TYPE_CHECKING:
    from convatlas.train import Epoch

NET_HELP = "A network by name, or one of the small ones of ResNet's section 4.2: resnet8, resnet20, resnet56, plain20, plain56, ..."
DATA_HELP = (
    "digits (8x8, which scikit-learn ships), fashion (28x28, downloaded once), or a folder: FOLDER/train/CLASS/PICTURE and "
    "FOLDER/val/CLASS/PICTURE, or FOLDER/CLASS/PICTURE, of which one in five is held out."
)


def _optimizer(name: str) -> str:
    return one_of(name, ("sgd", "adamw"))


def _precision(name: str) -> str:
    return one_of(name, ("float32", "float16", "bfloat16"))


def _backend(name: str | None) -> str | None:
    return name if name is None else one_of(name, ("triton", "cuda", "cudnn", "numpy"))


def command(
    net: Annotated[str, typer.Argument(help=NET_HELP)],
    data: Annotated[str, typer.Option("--data", metavar="digits|fashion|FOLDER", help=DATA_HELP)],
    out: Annotated[
        Path, typer.Option("--out", metavar="RUN", help="The run's folder; one that holds this run goes on.")
    ],
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data.")] = 10,
    batch: Annotated[int, typer.Option("--batch", min=2, help="Images a step, over all processes.")] = 64,
    optimizer: Annotated[str, typer.Option("--optimizer", callback=_optimizer, help="sgd or adamw.")] = "sgd",
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=1e-9, help="First learning rate; 0.1 for sgd, 0.002 for adamw if not given."),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", callback=_precision, help="float32, float16 or bfloat16.")
    ] = "float32",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, order and dropout.")] = 0,
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Pixels of a folder's pictures; the network's if not given.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend", envvar=BACKEND_VARIABLE, callback=_backend, help=f"{BACKEND_HELP}; by device if not given"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a network and keep the run: config.json, metrics.csv, checkpoint.safetensors and curves.svg in the folder RUN.

    A run that was stopped goes on behind its last epoch if it is started again with the same options, and ends with the same bits.
    Under torchrun each process takes a share of every batch.
    """
    if backend is not None:
        prepare(backend)
    from dataclasses import asdict

    from convatlas.train import Settings, train

    settings = Settings(net, data, epochs, batch, optimizer, rate, precision, seed, backend, size)
    console = output.console()
    with output.progress(f"training {net}", width=44) as show:

        def step(epoch: int, i: int, steps: int, loss: float) -> None:
            show(f"epoch {epoch} of {epochs}, loss {loss:.3f}", i, steps)

        def line(epoch: Epoch) -> None:
            with show.hidden():
                if not json:
                    console.print(output.plain(_line(epoch)))

        history = train(settings, out, step=step, epoch=line)
    if json:
        output.print_json({"config": asdict(settings), "epochs": [asdict(epoch) for epoch in history]})
    elif history:
        console.print(output.plain(f"{out}: {100 * history[-1].test_accuracy:.2f} % of the held-out images are right"))


def _line(e: Epoch) -> str:
    return (
        f"epoch {e.epoch:3d}   loss {e.loss:.4f}   accuracy {100 * e.accuracy:6.2f} %   held out: loss {e.test_loss:.4f}   "
        f"accuracy {100 * e.test_accuracy:6.2f} %   {e.images_per_second:.0f} images/s"
    )
