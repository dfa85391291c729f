"""A layer's site replays what its last call led to and nothing else: a change of settings, parameters or tensors is another call.

No kernel runs here: launches are an H100's, made for CPU tensors, and the driver is a stub (codegen/stub.py).
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from counting_driver import Counting
from torch import Tensor, nn

import convatlas
from convatlas.kernels.common.override import override
from convatlas.kernels.common.tiles import TileConfig
from convatlas.nets.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Conv2d,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    ResidualAdd,
)
from convatlas.nets.sequential import FusedSequential
from convatlas.ops import hot
from convatlas.ops.observe import observe

pytestmark = pytest.mark.interpreter
LAST = torch.channels_last


def image(*shape: int) -> Tensor:
    return torch.randn(*shape or (2, 32, 8, 8)).half().contiguous(memory_format=LAST)


X = image()


@pytest.fixture
def layer() -> tuple[Conv2d, nn.BatchNorm2d]:
    return Conv2d(32, 16, 3, padding=1).eval().half(), nn.BatchNorm2d(16).eval().half()


class Way:
    """How the calls inside went: by the site, by the look-up, or ordinarily."""

    def __init__(self, driver: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver, self.looked = driver, 0
        call = hot.call

        def counted(*given: Any, inside: bool = False) -> Any:
            self.looked += not inside
            return call(*given, inside=inside)

        monkeypatch.setattr(hot, "call", counted)

    def of(self, run: Callable[[], Any]) -> str:
        looked, count = self.looked, self.driver.count
        run()
        replayed = self.driver.count > count
        return "ordinary" if not replayed else "look-up" if self.looked > looked else "site"


@pytest.fixture
def way(driver: Counting, monkeypatch: pytest.MonkeyPatch) -> Way:
    return Way(driver, monkeypatch)


def test_the_third_call_needs_no_look_up(layer: tuple[Conv2d, nn.BatchNorm2d], way: Way) -> None:
    conv, bn = layer
    run = lambda: conv(X, bn, "relu")  # noqa: E731
    assert [way.of(run) for _ in range(4)] == ["ordinary", "look-up", "site", "site"]
    assert way.of(lambda: conv(X.clone(), bn, "relu")) == "site"
    y = conv(X, bn, "relu")
    assert y.shape == (2, 16, 8, 8) and y.is_contiguous(memory_format=LAST)


FLAT = torch.randn(4, 32).half()
SITED: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "linear": (lambda: Linear(32, 16).half(), (FLAT, "relu")),
    "max pooling": (lambda: MaxPool2d(3, 2, 1), (X,)),
    "average pooling": (lambda: AvgPool2d(2), (X,)),
    "mean": (lambda: AdaptiveAvgPool2d(1), (X,)),
    "local response norm": (lambda: LocalResponseNorm(5), (X,)),
    "add": (ResidualAdd, (X, X.clone(), "relu")),
}


@pytest.mark.parametrize("name", SITED)
def test_every_layer_of_one_op_has_a_site(name: str, way: Way) -> None:
    make, given = SITED[name]
    layer = make().eval()
    assert [way.of(lambda: layer(*given)) for _ in range(4)] == ["ordinary", "look-up", "site", "site"]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other._site.last is None and layer._site.last is not None
        assert way.of(lambda: other(*given)) == "look-up"  # noqa: B023


def test_threads_share_a_site(layer: tuple[Conv2d, nn.BatchNorm2d], driver: Counting) -> None:
    """Each has the output of its own input's shape, whatever the site's last call was."""
    conv, bn = layer
    pool, inputs = MaxPool2d(2), [image(1 + i % 2, 32, 8 + 2 * (i % 3), 8) for i in range(6)]

    def work(i: int) -> list[tuple[int, ...]]:
        with torch.no_grad(), convatlas.use_backend("triton"):
            return [tuple(pool(conv(inputs[i], bn, "relu")).shape) for _ in range(50)]

    with ThreadPoolExecutor(6) as pool_of_threads:
        for x, found in zip(inputs, pool_of_threads.map(work, range(6))):
            assert set(found) == {(x.shape[0], 16, x.shape[2] // 2, 4)}
    assert driver.count > 300


def test_a_call_of_a_layer_is_few_calls(layer: tuple[Conv2d, nn.BatchNorm2d], driver: Counting) -> None:
    """Counted over every function, ours and C's, the module's own call and the folding included."""
    conv, bn = layer
    for _ in range(3):
        conv(X, bn, "relu")
    called: Counter[str] = Counter()

    def count(frame: Any, event: str, arg: Any) -> None:
        if event in ("call", "c_call"):
            called[frame.f_code.co_name if event == "call" else arg.__name__] += 1

    sys.setprofile(count)
    try:
        conv(X, bn, "relu")
    finally:
        sys.setprofile(None)
    assert called["new_empty_strided"] == 1 and not called["dumps"] and not called["__getattr__"]
    assert sum(called.values()) < 75, called


CHANGES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "backend": lambda: convatlas.use_backend("cuda"),
    "config": lambda: override(TileConfig(64, 64, 32, 1, 4, 3)),
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "observer": lambda: observe(lambda call, tensors, output: None),
    "profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    "forward mode": torch.autograd.forward_ad.dual_level,
    "another driver": lambda: hot.using(None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_or_somebody_who_looks_on_is_not_missed(
    name: str, layer: tuple[Conv2d, nn.BatchNorm2d], way: Way
) -> None:
    conv, bn = layer
    run = lambda: conv(X, bn, "relu")  # noqa: E731
    for _ in range(3):
        run()
    with CHANGES[name]():
        assert way.of(run) == "ordinary"
    assert way.of(run) in ("look-up", "site")


def test_the_environment_variable_is_not_missed(
    layer: tuple[Conv2d, nn.BatchNorm2d], way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lambda: layer[0](X, layer[1])  # noqa: E731
    for _ in range(3):
        run()
    monkeypatch.setenv("CONVATLAS_BACKEND", "numpy")
    assert way.of(run) == "ordinary"


def test_other_tensors_and_parameters_are_other_calls(layer: tuple[Conv2d, nn.BatchNorm2d], way: Way) -> None:
    conv, bn = layer
    wide, out = image(2, 48, 8, 8), image(2, 16, 8, 8)

    def wider() -> Any:
        conv.stride = (2, 2)
        try:
            return conv(X, bn, "relu")
        finally:
            conv.stride = (1, 1)

    run = lambda: conv(X, bn, "relu")  # noqa: E731
    for other in (
        lambda: conv(X.contiguous(), bn, "relu"),
        lambda: conv(wide[:, 16:], bn, "relu"),
        lambda: conv(wide[:, 1:33], bn, "relu"),  # another alignment
        lambda: conv(X[:1], bn, "relu"),
        lambda: conv(X, bn),
        lambda: conv(X, bn, "relu", residual=out),
        lambda: conv(X, bn, "relu", out=out),
        wider,
    ):
        for _ in range(3):
            run()
        assert way.of(other) == "ordinary" and way.of(run) != "ordinary"
        assert way.of(other) == "look-up"  # the site has the last one only
    with torch.enable_grad():
        assert way.of(run) == "ordinary"
    other = copy.deepcopy(conv)
    assert other._site.last is None and way.of(lambda: other(X, bn, "relu")) != "site"


def test_memory_that_is_shared_with_out_is_refused(layer: tuple[Conv2d, nn.BatchNorm2d], way: Way) -> None:
    conv, bn = layer
    shared = image(2, 48, 8, 8)
    for _ in range(3):
        conv(shared[:, :32], bn, out=shared[:, 32:])
    with pytest.raises(convatlas.ShapeError, match="shares memory"):
        conv(shared[:, :32], bn, out=shared[:, 16:32])


def test_what_is_given_up_is_not_replayed(layer: tuple[Conv2d, nn.BatchNorm2d], way: Way) -> None:
    run = lambda: layer[0](X, layer[1])  # noqa: E731
    for _ in range(3):
        run()
    with pytest.warns(convatlas.errors.ConvAtlasWarning):
        hot._give_up(hot.state(), "a test's reason")
    assert way.of(run) == "ordinary"


def test_a_changed_batch_norm_is_folded_anew(layer: tuple[Conv2d, nn.BatchNorm2d], driver: Counting) -> None:
    conv, bn = layer
    first = conv._folded.get(conv, bn)
    assert conv._folded.get(conv, bn) is first
    changes: list[Callable[[], Any]] = [
        lambda: bn.running_var.add_(1),
        lambda: setattr(bn, "weight", nn.Parameter(bn.weight * 2)),
        lambda: setattr(conv, "bias", nn.Parameter(conv.bias + 1)),
        lambda: setattr(conv.weight, "data", conv.weight * 2),
        lambda: setattr(bn, "eps", 0.1),
    ]
    for change in changes:
        change()
        found = conv._folded.get(conv, bn)
        assert found is not first and all(
            map(torch.equal, found, convatlas.nets.folding.fold(conv.weight, conv.bias, bn))
        )
        first = found
    nn.utils.parametrize.register_parametrization(conv, "weight", nn.Identity())
    assert torch.equal(conv._folded.get(conv, bn)[0], first[0])


def test_steps_of_a_sequence_follow_its_modules() -> None:
    net = FusedSequential(Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    assert len(net._steps()) == 1 and net._steps() is net._steps()
    net[2] = nn.Identity()
    assert len(net._steps()) == 2
    net.append(Conv2d(4, 4, 1))
    assert len(net._steps()) == 3
    other = copy.deepcopy(net)
    assert other._steps()[0][0] is other[0] is not net[0]
