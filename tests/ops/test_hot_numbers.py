"""A prepared launch computes, on other tensors than it was prepared with, what the ordinary path computes: bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import pytest
import torch
from computing_driver import Computing
from kernel_cases import CONVOLUTIONS, POOLS, Case, layout, run_convolution, run_pool
from torch import Tensor

import convatlas
from convatlas.kernels.common.precision import float32_products
from convatlas.kernels.common.workspace import workspaces
from convatlas.ops import hot

triton = pytest.param("triton", marks=pytest.mark.interpreter)
BACKENDS = pytest.mark.parametrize("backend", ["cuda", triton])
EMPTY = "nothing to launch"


@pytest.fixture
def driver() -> Iterator[Computing]:
    """TF32 is off: a CPU's float32 is never TF32, and the stand-ins of a launch are no CPU's."""
    with float32_products("ieee"), hot.using(computing := Computing()), torch.no_grad():
        yield computing


def hold(run: Callable[[str], Tensor], driver: Computing, other: str = "normal") -> None:
    """Prepares by one set of tensors, replays on another, and compares with the ordinary path.

    Sums of products are compared on numbers whose sums are exact, since two calls of a BLAS may sum in another order.
    """
    run("integers")
    assert not hot.state().fault
    before = driver.count
    found = run(other)
    if hot.state().reasons:
        assert set(hot.state().reasons) == {EMPTY} and not found.numel()
        return
    assert driver.count > before, "nothing was replayed"
    with hot.using(None):
        expected = run(other)
    assert found.stride() == expected.stride() and torch.equal(found, expected)


def every_other(cases: list[Case]) -> list[Any]:
    """Each case on one backend, in one form and dtype: the ordinary path's tests go through all of them on both."""
    marks = pytest.mark.interpreter, ()
    return [pytest.param(i, ("triton", "cuda")[i % 2], marks=marks[i % 2], id=case.id) for i, case in enumerate(cases)]


@pytest.mark.parametrize(("i", "backend"), every_other(CONVOLUTIONS))
def test_convolutions(i: int, backend: str, driver: Computing) -> None:
    dtype, form = ("float32", "float16")[i // 2 % 2], ("nhwc", "nchw", "sliced")[i % 3]
    hold(lambda data: run_convolution(CONVOLUTIONS[i], dtype, "cpu", form, data, backend), driver, "probes")


@pytest.mark.parametrize(("i", "backend"), every_other(POOLS))
def test_pools(i: int, backend: str, driver: Computing) -> None:
    dtype, form = ("float16", "float32")[i // 2 % 2], ("sliced", "nhwc", "nchw")[i % 3]
    hold(lambda data: run_pool(POOLS[i], dtype, "cpu", form, data, backend), driver)


def drawn(data: str, *shapes: tuple[int, ...], form: str = "nhwc") -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(data))
    return [
        layout(x, form) if x.dim() == 4 else x
        for x in (torch.randint(-4, 5, s, generator=generator).float() for s in shapes)
    ]


X, V = (2, 16, 5, 7), (16,)
OTHERS: dict[str, Callable[..., Tensor]] = {
    "linear": lambda d: convatlas.linear(*drawn(d, (9, 40), (24, 40), (24,)), activation="relu"),
    "linear-1": lambda d: convatlas.linear(*drawn(d, (1, 40), (24, 40))),
    "linear-transposed": lambda d: convatlas.linear(drawn(d, (40, 9))[0].t(), drawn(d, (40, 24))[0].t()),
    "relu": lambda d: convatlas.relu(*drawn(d, X)),
    "relu6-sliced": lambda d: convatlas.relu6(*drawn(d, X, form="sliced")),
    "residual_add": lambda d: convatlas.residual_add(*drawn(d, X, X), activation="relu"),
    "residual_add-mixed": lambda d: convatlas.residual_add(drawn(d, X)[0], drawn(d, X, form="nchw")[0]),
    "batch_norm": lambda d: convatlas.batch_norm(drawn(d, X)[0], drawn(d, V)[0], drawn(d, V)[0].abs() + 0.5, None, None),
    "local_response_norm": lambda d: convatlas.local_response_norm(drawn(d, X)[0], 5),
    "softmax": lambda d: convatlas.softmax(drawn(d, (4, 33))[0], 1),
    "concat": lambda d: convatlas.concat(drawn(d, X, (2, 3, 5, 7), X)),
    "bias-not-adjacent": lambda d: convatlas.conv2d(*drawn(d, X, (8, 16, 1, 1)), drawn(d, (16,))[0][::2]),
    "out-slice": lambda d: convatlas.relu(
        drawn(d, X)[0], out=torch.zeros(2, 5, 7, 40)[..., 16:32].permute(0, 3, 1, 2)
    ),
    "conv2d_input_grad": lambda d: convatlas.conv2d_input_grad(*drawn(d, X, (16, 8, 3, 3)), (2, 8, 9, 13), 2, 1),
    "conv2d_weight_grad": lambda d: convatlas.conv2d_weight_grad(*drawn(d, X, (2, 24, 9, 13)), (16, 24, 3, 3), 2, 1),
    "conv2d_weight_grad-1x1": lambda d: convatlas.conv2d_weight_grad(*drawn(d, X, (2, 8, 5, 7)), (16, 8, 1, 1)),
    "conv2d_weight_grad-depthwise": lambda d: convatlas.conv2d_weight_grad(*drawn(d, X, X), (16, 1, 3, 3), 1, 1, 1, 16),
    "split-K": lambda d: convatlas.conv2d(*drawn(d, (1, 512, 3, 3), (32, 512, 3, 3), (32,)), padding=1),
}  # fmt: skip


@BACKENDS
@pytest.mark.parametrize("name", OTHERS)
def test_other_ops(name: str, backend: str, driver: Computing) -> None:
    with convatlas.use_backend(backend):
        hold(OTHERS[name], driver)


@BACKENDS
def test_a_training_step(backend: str, driver: Computing) -> None:
    """What autograd calls by torch.ops, forward and backward, is prepared behind it."""
    x, w = drawn("integers", X, (8, 16, 3, 3))

    def step() -> tuple[Tensor, ...]:
        with torch.enable_grad(), convatlas.use_backend(backend):
            given = x.clone().requires_grad_(), w.clone().requires_grad_()
            y = convatlas.conv2d(*given, padding=1, activation="relu")
            return y.detach(), *torch.autograd.grad(y, given, y.detach().sign())

    step()
    before = driver.count
    found = step()
    assert driver.count >= before + 3, "the convolution and its two gradients"
    with hot.using(None):
        assert all(map(torch.equal, found, step()))


def test_what_is_computed_on_the_way_is_computed_anew(driver: Computing) -> None:
    """A copy of an NCHW image, which is a replay's own, and split-K's sums, which lie in the thread's workspace."""
    with convatlas.use_backend("cuda"):
        OTHERS["split-K"]("normal")
        run_convolution(Case("nchw", (1, 32, 5, 5), {}, (8, 32, 3, 3)), "float32", "cpu", "nchw", "normal", "cuda")
    split, copied = (entries[0].prepared for entries in hot.state().entries.values())
    assert [t.copied for t in split.temporaries if t.copied is None] == [None] and len(split.launches) == 2
    assert any(t.copied is not None for t in copied.temporaries) and not copied.scratch
    (sums,) = split.temporaries
    assert split.scratch >= 4 * prod(sums.shape)


@pytest.mark.parametrize("backend", ["cuda", triton])
def test_a_replay_allocates_its_output_only(backend: str, driver: Computing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the reduction is split; the workspace is the one that the first replay allocated."""
    with convatlas.use_backend(backend):
        OTHERS["split-K"]("normal")
        OTHERS["split-K"]("normal")
        kept = dict(workspaces.kept)
        assert kept
        driver.count = 0
        monkeypatch.setattr(torch, "empty", None)
        monkeypatch.setattr(torch, "empty_strided", None)
        OTHERS["split-K"]("normal")
        assert driver.count and workspaces.kept == kept


@pytest.mark.interpreter
def test_a_moved_descriptor(driver: Computing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The TMA kernel's descriptors are moved to other tensors, and not touched for the same."""
    moved: list[int] = []
    monkeypatch.setattr(Computing, "move", lambda self, at, to: (moved.append(to), super(Computing, self).move(at, to)))
    x, y, w = drawn("normal", (1, 64, 4, 4), (1, 64, 4, 4), (64, 64, 3, 3))
    with convatlas.use_backend("triton"):
        run: Any = lambda image: convatlas.conv2d(image, w, padding=1)  # noqa: E731
        run(x)
        if not any(entry.prepared and entry.prepared.maps for entry in next(iter(hot.state().entries.values()))):
            pytest.skip("this problem takes no descriptor")
        run(x)
        count = len(moved)
        run(x)
        assert len(moved) == count
        run(y)
        assert moved[count:] == [y.data_ptr()]
