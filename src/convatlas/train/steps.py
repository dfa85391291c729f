"""Steps of SGD through our ops, each held to PyTorch's from the same weights.

    python -m convatlas.train.steps NET BACKEND [--steps 100] [--store FILE]

A run amplifies the rounding of its first steps: PyTorch's own float32 losses of MobileNetV2 leave those of its float64 run by a
fifth within ten steps. So what is compared is each step by itself. With w the weights that our steps have led to,

    error = |loss(w) - loss64(w)|        gradient = ||g(w) - g64(w)|| / ||g64(w)||

where loss64 and g64 are PyTorch's in float64 and the norm is over all parameters. The bound is what PyTorch's own float32 makes of
the same two numbers: at every step at most FACTOR times its largest of the run.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.files import write_text
from convatlas.nets.plain import swapped
from convatlas.ops.backends import use_backend
from convatlas.train.run import loss_of, network

FACTOR = 4.0
RATE, MOMENTUM = 0.001, 0.9
CLASSES, BATCHES = 4, 8


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        loss: ours.
        error, gradient: as above.
        peer_error, peer_gradient: the same of PyTorch in float32.
    """

    loss: float
    error: float = 0.0
    peer_error: float = 0.0
    gradient: float = 0.0
    peer_gradient: float = 0.0


@dataclass(frozen=True)
class Images:
    """What is learned: random images, so many batches that come round again, and their classes."""

    batches: Sequence[tuple[Tensor, Tensor]]

    @classmethod
    def drawn(cls, size: int, batch: int, seed: int = 5) -> Images:
        """BATCHES batches of `batch` images of size x size pixels in CLASSES classes, by a seed."""
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(BATCHES, batch, 3, size, size, generator=draw)
        y = torch.arange(batch) % CLASSES
        return cls([(part, y) for part in x])

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        return self.batches[step % len(self.batches)]


def steps(net: nn.Module, images: Images, count: int, backend: str, compare: bool = True) -> Iterator[Step]:
    """`count` steps of SGD (rate RATE, momentum MOMENTUM) of `net` on a backend of ours, each compared unless told otherwise.

    Dropout draws by torch's generator, seeded by the step, so that all three have the same mask.
    """
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)
    peers = [copy.deepcopy(net), copy.deepcopy(net).double()] if compare else []
    for number in range(count):
        kept = copy.deepcopy(net.state_dict()) if compare else {}
        loss = _loss(net, images, number, use_backend(backend))
        found = [loss]
        for peer in peers:
            peer.load_state_dict(kept)
            found.append(_loss(peer, images, number, swapped()))
        yield _compared([net, *peers], found) if compare else Step(loss)
        optimizer.step()


def _loss(net: nn.Module, images: Images, number: int, where: AbstractContextManager) -> float:
    """The loss of one batch; the gradients are then the parameters'."""
    x, y = images.at(number)
    torch.manual_seed(number)
    net.zero_grad(set_to_none=True)
    with where:
        loss = loss_of(net(x.to(next(net.parameters()).dtype)), y)
        loss.backward()
    return loss.item()


def _compared(nets: Sequence[nn.Module], losses: Sequence[float]) -> Step:
    ours, theirs, truth = (_gradient(net) for net in nets)
    distance = [float((g - truth).norm() / truth.norm()) for g in (ours, theirs)]
    mine, peer, exact = losses
    return Step(mine, abs(mine - exact), abs(peer - exact), *distance)


def _gradient(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.double().flatten() for p in net.parameters() if p.grad is not None])


@dataclass(frozen=True)
class Run:
    """A run's sums.

    Attributes:
        net, backend, size, batch, steps: what ran.
        seconds: a step of ours, forward to optimizer, the median.
        first, last: losses.
        error, peer_error, gradient, peer_gradient: the largest of all steps.
        digest: of the parameters in the end, SHA-256.
        same: whether a second run ended with the same bits.
    """

    net: str
    backend: str
    size: int
    batch: int
    steps: int
    seconds: float
    first: float
    last: float
    error: float
    peer_error: float
    gradient: float
    peer_gradient: float
    digest: str
    same: bool

    @property
    def within(self) -> bool:
        """Whether both errors are within the bound."""
        return self.error <= FACTOR * self.peer_error and self.gradient <= FACTOR * self.peer_gradient


def digest(net: nn.Module) -> str:
    """SHA-256 of all parameters and buffers."""
    found = hashlib.sha256()
    for value in net.state_dict().values():
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def run(
    name: str, backend: str, count: int = 100, size: int = 32, batch: int = 4, again: bool = True, say: Any = None
) -> Run:
    """`count` steps of the net called `name`, compared, and once more without, to compare the bits."""
    images, net = Images.drawn(size, batch), network(name, CLASSES, 3, 0).train()
    found: list[Step] = []
    for step in steps(net, images, count, backend):
        found.append(step)
        if say:
            say(len(found), step)
    second, seconds = network(name, CLASSES, 3, 0).train(), []
    start = perf_counter()
    for step in steps(second, images, count, backend, compare=False) if again else ():
        seconds.append(perf_counter() - start)
        if say:
            say(len(seconds), step)
        start = perf_counter()
    worst = {
        name: max(getattr(step, name) for step in found)
        for name in ("error", "peer_error", "gradient", "peer_gradient")
    }
    ends = digest(net), digest(second)
    typical = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
    return Run(
        name, backend, size, batch, count, round(typical, 2), found[0].loss, found[-1].loss, **worst, digest=ends[0],
        same=again and ends[0] == ends[1],
    )  # fmt: skip


def store(found: Run, path: Path) -> None:
    """Adds a run to the file of runs, in the place of one of the same net, backend and steps."""
    held = json.loads(path.read_text()) if path.exists() else []
    key = ("net", "backend", "steps")
    rest = [row for row in held if any(row[name] != getattr(found, name) for name in key)]
    rows = sorted([*rest, asdict(found)], key=lambda row: [row[name] for name in key])
    write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m convatlas.train.steps", description=__doc__.splitlines()[0])
    parser.add_argument("net")
    parser.add_argument("backend")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--store", type=Path, default=None, metavar="FILE")
    given = parser.parse_args()
    found = run(
        given.net, given.backend, given.steps, given.size, given.batch, say=lambda i, step: print(i, step, flush=True)
    )
    print(json.dumps(asdict(found)), "within" if found.within else "NOT within")
    if given.store:
        store(found, given.store)


if __name__ == "__main__":
    main()
