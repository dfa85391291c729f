"""verify all: every net at its native size, each kind of layer held to the reference once, the logits of each net."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.errors import InputError
from convatlas.nets import create, fold_batch_norms, info, names
from convatlas.nets.network import smallest_size
from convatlas.nets.paths import module_paths
from convatlas.ops.observe import observe
from convatlas.study.tracing import trace
from convatlas.verify.check import Checker, LayerCheck
from convatlas.verify.device import device_for
from convatlas.verify.verify import (
    Interrupted,
    Logits,
    Progress,
    compare_logits,
    random_net,
    relative_accumulation,
    run_net,
)

Claim = Callable[[tuple], bool]
Tick = Callable[[str], None]


@dataclass(frozen=True)
class NetResult:
    """What verify_all found for one net.

    Attributes:
        name, input_shape: the net's name, and the shape of its images.
        layers: ops that it ran.
        checks: the checks of those layers whose kind no net had run before.
        logits: its outputs, as compare_logits judges them; None where the run was interrupted before.
        seconds: all of it.
    """

    name: str
    input_shape: tuple[int, int, int, int]
    layers: int
    checks: list[LayerCheck]
    logits: Logits | None
    seconds: float

    @property
    def ok(self) -> bool:
        return self.logits is not None and self.logits.ok and self.first_wrong is None

    @property
    def worst(self) -> float:
        """The largest error / bound; at most 1 when ok, 0 where nothing was new."""
        return max((check.report.worst for check in self.checks), default=0.0)

    @property
    def first_wrong(self) -> LayerCheck | None:
        """The first layer outside its bound."""
        return next((check for check in self.checks if not check.report.ok), None)


@dataclass
class FirstOfAKind:
    """An observer that holds a layer to the reference where `claim` says that its kind is new.

    A kind is all that decides which code runs: op, spec, epilogue, parameters, and how the operands and the output lie in
    memory (a branch of an Inception module writes into a slice).
    """

    checker: Checker
    claim: Claim
    tick: Tick
    calls: list[Call] = field(default_factory=list)

    def __call__(self, call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
        self.calls.append(call)
        layout = tuple((name, t.stride()) for name, t in tensors.items())
        if self.claim((call.op, call.spec, call.epilogue, tuple(sorted(call.params.items())), layout, output.stride())):
            self.checker(call, tensors, output)
        self.tick(self.checker.path() or call.op)


def verify_all(
    chosen: list[str] | None = None,
    size: int | None = None,
    batch: int = 1,
    dtype: str = "float16",
    backend: str = "triton",
    progress: Progress | None = None,
    seed: int = 0,
    ended: Callable[[NetResult], None] | None = None,
) -> list[NetResult]:
    """Runs every net, with random weights, on `backend` and holds it to the reference; one net in memory at a time.

    A layer is checked where its kind first occurs, in any net, on what it is given there: all ResNets together have a tenth as
    many kinds as layers. Then the net's logits are compared with the reference network's (verify.compare_logits).

    Args:
        chosen: names of nets; None is all of them.
        size: pixels of the square inputs, or what a net needs at least; None is each net's own.
        batch, dtype, backend, seed: as for verify.
        progress: called with (what, layers run, of how many).
        ended: called with each net's result as soon as it is known.

    Raises NetError, BackendError, DtypeError, InputError as verify does, before the work starts; Interrupted, a
    KeyboardInterrupt, with what was found so far.
    """
    for what, value in (("size", size), ("batch", batch)):
        if value is not None and value < 1:
            raise InputError(f"verify all: {what}={value}, expected at least 1")
    device_for(backend, dtype)
    chosen = names() if chosen is None else chosen
    total = done = 0
    seen: set[tuple] = set()

    def claim(kind: tuple) -> bool:
        new = kind not in seen
        seen.add(kind)
        return new

    def tick(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(what, done, total)
        done += 1

    results: list[NetResult] = []
    try:
        plans = [plan_of(name, size, batch) for name in chosen]
        total = sum(plan.steps for plan in plans)
        for plan in plans:
            results.append(verify_net(plan, dtype, backend, seed, claim, tick))
            if ended is not None:
                ended(results[-1])
    except KeyboardInterrupt as stop:
        found = [*results, stop.found] if isinstance(stop, Interrupted) else results
        raise Interrupted(found, chosen[len(results) :]) from None
    return results


@dataclass(frozen=True)
class Plan:
    """A net, the shape of its input, and how many steps its verification has: its layers, and two reference networks."""

    name: str
    shape: tuple[int, int, int, int]
    steps: int


def plan_of(name: str, size: int | None, batch: int) -> Plan:
    row = info(name)
    with torch.device("meta"):
        net = create(name)
    pixels = row.size if size is None else max(size, smallest_size(net) or size)
    shape = (batch, 3, pixels, pixels)
    return Plan(row.name, shape, len(trace(net, shape)) + 2)


def verify_net(plan: Plan, dtype: str, backend: str, seed: int, claim: Claim, tick: Tick) -> NetResult:
    """One net of verify_all: the layers that `claim` accepts and the logits. Memory is full of NaN before every op."""
    start = perf_counter()
    device, kind = device_for(backend, dtype), getattr(torch, dtype)
    net = random_net(plan.name, seed).to(kind)
    x = torch.randn(plan.shape, generator=torch.Generator().manual_seed(seed)).to(kind)
    net.to(device)
    checker = Checker()
    observer = FirstOfAKind(checker, claim, lambda what: tick(f"{plan.name} {what}"))

    def found(logits: Logits | None) -> NetResult:
        return NetResult(plan.name, plan.shape, len(observer.calls), checker.checks, logits, perf_counter() - start)

    try:
        with module_paths(net) as checker.path, _poisoned(), observe(observer):
            y = run_net(net, x.to(device), backend)
        net.to("cpu")
        tick(f"{plan.name} reference")
        rounded = y if backend == "numpy" else run_net(net, x, "numpy")
        tick(f"{plan.name} reference in float64")
        net = fold_batch_norms(
            net, plan.shape
        ).double()  # not beside the net it was made from: a VGG is 1 GB in float64
        exact = run_net(net, x.double(), "numpy")
    except KeyboardInterrupt:
        raise Interrupted(found(None)) from None
    return found(compare_logits(y, rounded, exact, relative_accumulation(observer.calls, dtype, device)))


@contextmanager
def _poisoned() -> Iterator[None]:
    """torch.empty gives NaN, so that an element that no kernel writes stays one."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # what fills memory; torch.utils.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
