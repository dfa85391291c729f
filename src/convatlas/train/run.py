"""A training run: epochs over a data set, kept in a folder after each so that a run that was stopped goes on to the same bits."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from convatlas.errors import InputError
from convatlas.files import check_writable, shown, whole, write_json, write_text
from convatlas.nets import resnet_cifar
from convatlas.nets.registry import create, info, training_options
from convatlas.ops.backends import use_backend
from convatlas.train.data import Data, load

PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
OPTIMIZERS = ("sgd", "adamw")
RATES = {"sgd": 0.1, "adamw": 2e-3}
AUXILIARY = 0.3  # weight of an auxiliary classifier's loss (Szegedy et al. 2014, section 5)


@dataclass(frozen=True)
class Settings:
    """What a run's result depends on; config.json of the run folder.

    Attributes:
        net: a name of the registry, or one of nets.resnet_cifar.NAMES.
        data: "digits", "fashion" or a folder.
        epochs, batch: passes over the data, and images a step over all processes.
        optimizer: "sgd" (momentum 0.9, weight decay 5e-4) or "adamw" (weight decay 0.01); the rate falls along a cosine to 0.
        rate: the first learning rate; None is 0.1 for sgd and 0.002 for adamw.
        precision: "float32", or "float16" or "bfloat16" by torch.autocast.
        seed: of weights, order and dropout.
        backend: of the ops; None chooses by device.
        size: pixels of a folder's pictures; None is the network's.
    """

    net: str
    data: str
    epochs: int = 10
    batch: int = 64
    optimizer: str = "sgd"
    rate: float | None = None
    precision: str = "float32"
    seed: int = 0
    backend: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Epoch:
    """A line of metrics.csv: of the images learned and of those held out, and how quick it was."""

    epoch: int
    rate: float
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    images_per_second: float


@dataclass
class _State:
    """All that changes while a run goes on."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: Any
    history: list[Epoch] = field(default_factory=list)


def train(
    settings: Settings,
    out: str | os.PathLike[str] | None = None,
    *,
    step: Callable[[int, int, int, float], None] | None = None,
    epoch: Callable[[Epoch], None] | None = None,
    state: Callable[[nn.Module], None] | None = None,
) -> list[Epoch]:
    """Trains a network, and returns a line for each epoch.

    With `out` the run is kept there: config.json, metrics.csv, checkpoint.safetensors, curves.svg. A folder that holds a run of the
    same settings goes on behind its last epoch, with the bits that it would have had. Under torchrun each
    process takes its share of every batch (DistributedDataParallel, gloo or NCCL) and the first one writes.

    Args:
        step: called after each step with (epoch, step, steps of an epoch, loss).
        epoch: called after each epoch.
        state: called with the network at the end.

    Raises InputError for data that cannot be read and a folder that holds another run, NetError for an unknown network, ShapeError
    for images that do not fit it.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        check_writable(folder, folder=True)
    started = not dist.is_initialized() and "WORLD_SIZE" in os.environ
    if started:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        with use_backend(settings.backend) if settings.backend else nullcontext():
            return _train(settings, folder, step, epoch, state)
    finally:
        if started:
            dist.destroy_process_group()


def _train(settings: Settings, folder: Path | None, step: Any, epoch: Any, done: Any) -> list[Epoch]:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if settings.batch % world:
        raise InputError(f"--batch {settings.batch} on {world} processes, expected a multiple of their number")
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )
    torch.manual_seed(settings.seed)
    data = load(settings.data, settings.size or _size(settings.net))
    state = _start(settings, data, device)
    begin = _resume(settings, folder, state, device)
    model = DistributedDataParallel(state.net) if world > 1 else state.net
    sampler = DistributedSampler(data.train, world, rank, shuffle=True, seed=settings.seed, drop_last=True)
    loader = DataLoader(data.train, settings.batch // world, sampler=sampler, drop_last=True)
    if not len(loader):
        raise InputError(f"--data {settings.data}: fewer pictures than one batch of {settings.batch}")
    for number in range(begin, settings.epochs + 1):
        sampler.set_epoch(number)
        torch.manual_seed(
            settings.seed * 100_003 + number * world + rank
        )  # dropout's, the same if the run begins again here
        rate, start = state.optimizer.param_groups[0]["lr"], perf_counter()
        total = _learn(
            settings, state, model, loader, device, lambda i, n, loss, e=number: step and step(e, i, n, loss)
        )
        seconds = perf_counter() - start
        held = _measure(settings, state.net, DataLoader(data.test, settings.batch), device)
        total = _summed(total, device)
        line = Epoch(number, rate, *_means(total), *_means(held), total[2] / seconds)
        state.schedule.step()
        state.history.append(line)
        if folder is not None and rank == 0:
            _keep(settings, folder, state)
        if epoch is not None and rank == 0:
            epoch(line)
    if done is not None:
        done(state.net)
    return state.history


def _size(net: str) -> int:
    return 32 if net in resnet_cifar.NAMES else info(net).size


def network(name: str, classes: int, channels: int, seed: int) -> nn.Module:
    """The network to train, its weights drawn by the seed; GoogLeNet with its auxiliary classifiers. Raises NetError."""
    if name not in resnet_cifar.NAMES:
        return create(name, classes, channels, seed=seed, **training_options(info(name).name))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return resnet_cifar.build(name, classes, channels).to(memory_format=torch.channels_last)


def _start(settings: Settings, data: Data, device: torch.device) -> _State:
    net = network(settings.net, len(data.classes), data.channels, settings.seed).to(device)
    rate = settings.rate or RATES[settings.optimizer]
    if settings.optimizer == "sgd":
        optimizer: Any = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
    return _State(net, optimizer, schedule, scaler)


def loss_of(outputs: Any, targets: Tensor) -> Tensor:
    """Cross entropy of the logits, and of auxiliary classifiers' with a smaller weight."""
    if not isinstance(outputs, tuple):
        return F.cross_entropy(outputs.float(), targets)
    first, *auxiliary = (F.cross_entropy(y.float(), targets) for y in outputs)
    return first + AUXILIARY * sum(auxiliary)


def _learn(
    settings: Settings, state: _State, model: nn.Module, loader: Any, device: torch.device, step: Any
) -> list[float]:
    """One epoch; the sums of the losses and of the right answers, and the images."""
    model.train()
    total = [0.0, 0.0, 0.0]
    dtype = PRECISIONS[settings.precision]
    for i, (x, y) in enumerate(loader, 1):
        x, y = x.to(device), y.to(device)
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            outputs = model(x)
        loss = loss_of(outputs, y)
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        value = float(loss.detach())
        total = [total[0] + value * len(y), total[1] + int((logits.argmax(1) == y).sum()), total[2] + len(y)]
        step(i, len(loader), value)
    return total


@torch.no_grad()
def _measure(settings: Settings, net: nn.Module, loader: Any, device: torch.device) -> list[float]:
    """The same sums of images that are held out, in eval mode."""
    net.eval()
    total, dtype = [0.0, 0.0, 0.0], PRECISIONS[settings.precision]
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            logits = net(x).float()
        loss = float(F.cross_entropy(logits, y, reduction="sum"))
        total = [total[0] + loss, total[1] + int((logits.argmax(1) == y).sum()), total[2] + len(y)]
    return total


def _summed(total: list[float], device: torch.device) -> list[float]:
    """The sums over all processes."""
    if not dist.is_initialized():
        return total
    sums = torch.tensor(total, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def _means(total: list[float]) -> tuple[float, float]:
    return total[0] / max(total[2], 1), total[1] / max(total[2], 1)


def _keep(settings: Settings, folder: Path, state: _State) -> None:
    """Writes the run folder anew, each file whole; the checkpoint last, since it says how far the run has come."""
    from convatlas.train.curves import curves

    write_json(folder / "config.json", asdict(settings))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(state.history[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, state.history))
    write_text(folder / "metrics.csv", text.getvalue())
    write_text(folder / "curves.svg", curves(settings.net, state.history))
    tensors = {f"net.{name}": x.contiguous() for name, x in state.net.state_dict().items()}
    kept = state.optimizer.state_dict()
    for number, values in kept["state"].items():
        tensors.update(
            {f"optimizer.{number}.{name}": x.contiguous() for name, x in values.items() if isinstance(x, Tensor)}
        )
    others = {
        "history": [asdict(line) for line in state.history],
        "groups": kept["param_groups"],
        "schedule": state.schedule.state_dict(),
        "scaler": state.scaler.state_dict(),
    }
    with whole(folder / "checkpoint.safetensors") as temporary:
        save_file({name: x.cpu() for name, x in tensors.items()}, temporary, {"convatlas": json.dumps(others)})


def _resume(settings: Settings, folder: Path | None, state: _State, device: torch.device) -> int:
    """Takes up what the folder holds; the number of the epoch that comes next. Raises InputError for another run."""
    if folder is None or not (folder / "checkpoint.safetensors").exists():
        return 1
    try:
        config = json.loads((folder / "config.json").read_text())
        with safe_open(folder / "checkpoint.safetensors", "pt") as file:
            others = json.loads(file.metadata()["convatlas"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{shown(folder)}: no run that can go on: {error}") from None
    for name, value in asdict(settings).items():
        if config.get(name) != value:
            raise InputError(
                f"{shown(folder)} holds a run with {name} {config.get(name)}, expected {value}: take another folder"
            )
    state.net.load_state_dict({k.removeprefix("net."): x for k, x in tensors.items() if k.startswith("net.")})
    values: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            values.setdefault(int(number), {})[key] = x
    state.optimizer.load_state_dict({"state": values, "param_groups": others["groups"]})
    state.schedule.load_state_dict(others["schedule"])
    if others["scaler"]:
        state.scaler.load_state_dict(others["scaler"])
    state.history = [Epoch(**line) for line in others["history"]]
    return len(state.history) + 1
