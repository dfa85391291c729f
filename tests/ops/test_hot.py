"""When a call takes the short way, what it leaves out, and that no setting, mode or layout ever meets another's launches.

No kernel runs here: launches are an H100's, made for CPU tensors, and the driver is a stub (codegen/stub.py).
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from counting_driver import Counting
from torch import Tensor

import convatlas
from convatlas.bench.host import layers, runner
from convatlas.codegen.stub import Stub
from convatlas.errors import ConvAtlasError, ConvAtlasWarning
from convatlas.kernels.common.override import override
from convatlas.kernels.common.tiles import TileConfig
from convatlas.ops import hot
from convatlas.ops.observe import observe
from convatlas.specs import Conv2dSpec

pytestmark = pytest.mark.interpreter
LAST = torch.channels_last


def image(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape or (2, 32, 8, 8)).to(dtype).contiguous(memory_format=LAST)


X, W = image(), image(16, 32, 3, 3)
B = {dtype: torch.randn(16).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)}


def conv(x: Tensor = X, w: Tensor = W, **more: Any) -> Tensor:
    return convatlas.conv2d(x, w, B[x.dtype], **{"padding": 1, "activation": "relu", **more})


def replayed(driver: Counting, run: Callable[[], Any]) -> bool:
    before = driver.count
    run()
    return driver.count > before


def test_the_second_call_is_replayed(driver: Counting) -> None:
    assert not replayed(driver, conv) and replayed(driver, conv)
    assert replayed(driver, lambda: conv(X.clone()))  # other tensors of the same layout
    assert conv().is_contiguous(memory_format=LAST) and conv().shape == (2, 16, 8, 8)


def test_a_hot_call_builds_nothing(driver: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """No spec, no launch, no dispatcher, and of memory the output only: counted over every C function that it calls."""
    conv()

    def refuse(*args: Any, **keywords: Any) -> None:
        raise AssertionError("not on a hot call")

    monkeypatch.setattr(Conv2dSpec, "of", refuse)
    monkeypatch.setattr("convatlas.ops.library._run", refuse)
    monkeypatch.setattr("convatlas.kernels.backend.launcher", refuse)
    called: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, arg: called.update([arg.__name__]) if event == "c_call" else None)
    try:
        conv()
    finally:
        sys.setprofile(None)
    made = {name: n for name, n in called.items() if "empty" in name or name in ("copy_", "contiguous", "clone", "to")}
    assert made == {"new_empty_strided": 1}
    assert sum(called.values()) < 60, called


def test_every_op_of_the_networks_is_prepared(driver: Counting) -> None:
    """And needs no copy, and no workspace but a split reduction's or that of packed rows."""
    for layer in (timed.layer for timed in layers()):
        chosen, run = runner(layer)
        with convatlas.use_backend(chosen):
            run()
            assert replayed(driver, run), (layer.op, layer.spec)
    assert not hot.state().reasons
    for entries in hot.state().entries.values():
        for temporary in entries[0].prepared.temporaries:
            assert temporary.copied is None


def flipped(driver: Counting, change: Callable[[], AbstractContextManager[Any]], run: Callable[[], Any] = conv) -> None:
    """What was prepared before a change is not met inside it, nor the other way round."""
    run(), run()
    with change():
        assert not replayed(driver, run), "a stale launch"
    assert replayed(driver, run)


def test_settings_are_other_keys(driver: Counting) -> None:
    flipped(driver, lambda: convatlas.use_backend("cuda"))
    flipped(driver, lambda: override(TileConfig(64, 64, 32, 1, 4, 3)))
    flipped(driver, torch.inference_mode)
    flipped(driver, lambda: torch.autocast("cpu", dtype=torch.bfloat16))


def test_the_environment_variable_is_another_key(driver: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    conv(), conv()
    monkeypatch.setenv("CONVATLAS_BACKEND", "numpy")
    assert not replayed(driver, conv)
    monkeypatch.delenv("CONVATLAS_BACKEND")
    assert replayed(driver, conv)


@pytest.mark.parametrize(
    ("op", "setting"), [("conv2d", torch.backends.cudnn.conv), ("linear", torch.backends.cuda.matmul)]
)
def test_tf32_is_another_key(op: str, setting: Any, driver: Counting) -> None:
    x, w = image(dtype=torch.float32), W.float()
    run = (
        (lambda: conv(x, w)) if op == "conv2d" else (lambda: convatlas.linear(x[..., 0, 0], w[..., 0, 0].contiguous()))
    )
    before = setting.fp32_precision
    try:
        for value, new in (("ieee", True), ("tf32", True), ("ieee", False), ("tf32", False)):
            setting.fp32_precision = value
            seen = len(hot.state().entries)
            run()
            assert (len(hot.state().entries) > seen) is new
    finally:
        setting.fp32_precision = before


def test_layouts_and_parameters_are_other_entries(driver: Counting) -> None:
    wide = image(2, 48, 8, 8)
    calls: list[Callable[[], Any]] = [
        conv,
        lambda: conv(X.contiguous()),  # strides
        lambda: conv(wide[:, 16:]),
        lambda: conv(wide[:, 1:33]),  # alignment, by the storage offset
        lambda: conv(wide[:, 2:34]),
        lambda: conv(X.bfloat16(), W.bfloat16()),
        lambda: conv(stride=2),
        lambda: conv(stride=(1, 2)),
        lambda: conv(activation=None),
        lambda: conv(residual=image(2, 16, 8, 8)),
        lambda: conv(X[:1]),
        lambda: conv(out=image(2, 16, 8, 8)),
        lambda: conv(out=image(2, 40, 8, 8)[:, 8:24]),
        lambda: conv(torch.nn.Parameter(X)),
    ]
    for run in calls:
        assert not replayed(driver, run)
    for run in calls:
        run()
    assert len({id(e.prepared) for entries in hot.state().entries.values() for e in entries}) == len(calls)


@pytest.mark.parametrize("wrong", [dict(stride=1.0), dict(stride=True), dict(groups=1.0), dict(activation="none")])
def test_wrong_arguments_that_equal_right_ones_are_still_refused(wrong: dict[str, Any], driver: Counting) -> None:
    conv(stride=1, groups=1)
    with hot.using(None):
        try:
            expected = conv(**wrong)
        except ConvAtlasError as error:
            expected = error
    if isinstance(expected, Tensor):
        conv(**wrong)
    else:
        with pytest.raises(type(expected), match=str(expected).split(",")[0][:20].replace("(", ".")):
            conv(**wrong)


class _Mode(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Functions(torch.overrides.TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "").startswith("convatlas"):
            self.seen.append(func)
        return func(*args, **(kwargs or {}))


LOOKERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "observer": lambda: observe(lambda call, tensors, output: None),
    "dispatch mode": _Mode,
    "profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    "forward mode": torch.autograd.forward_ad.dual_level,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", LOOKERS)
def test_who_looks_on_sees_the_ordinary_call(name: str, driver: Counting) -> None:
    conv(), conv()
    with LOOKERS[name]():
        assert not replayed(driver, conv)
        assert not replayed(driver, conv)  # nor does a call under it leave anything behind
    assert replayed(driver, conv)


def test_a_function_mode_sees_the_op_as_one_call(driver: Counting) -> None:
    conv(), conv()
    with _Functions() as mode:
        conv()
    assert mode.seen == [convatlas.conv2d]


def by_ops(x: Tensor = X, w: Tensor = W, b: Tensor | None = B[torch.float16]) -> Tensor:
    return torch.ops.convatlas.conv2d(x, w, b, [1, 1], [1, 1, 1, 1], [1, 1], 1, "relu", None)


def test_a_call_by_torch_ops_is_prepared_behind_the_dispatcher(driver: Counting) -> None:
    """What torch.compile emits: entries of its own, since another part of the dispatcher has the tensors there."""
    assert not replayed(driver, conv) and not replayed(driver, by_ops) and replayed(driver, by_ops)
    assert by_ops().shape == (2, 16, 8, 8) and by_ops().is_contiguous(memory_format=LAST)
    assert len(hot.state().entries) == 2 and replayed(driver, conv)
    with torch.inference_mode():
        by_ops()
        assert replayed(driver, by_ops) and by_ops().is_inference()
    assert replayed(driver, by_ops) and not by_ops().is_inference()
    into = conv()
    out = lambda: torch.ops.convatlas.conv2d_out(  # noqa: E731
        X, W, None, [1, 1], [1, 1, 1, 1], [1, 1], 1, "relu", None, into=into
    )
    version = into._version
    assert not replayed(driver, out) and replayed(driver, out) and out() is None and into._version > version + 2
    with pytest.raises(ConvAtlasError, match="shares memory"):
        shared = image(2, 48, 8, 8)
        for where in (shared[:, 32:], shared[:, 32:], shared[:, 16:32]):
            given = shared[:, :32], W, None, [1, 1], [1, 1, 1, 1], [1, 1], 1, "relu", None
            torch.ops.convatlas.conv2d_out(*given, into=where)
    for change in (
        lambda: convatlas.use_backend("cuda"),
        lambda: observe(lambda call, tensors, output: None),
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    ):
        with change():
            assert not replayed(driver, by_ops)
        assert replayed(driver, by_ops)


def test_a_training_step_replays_its_forward_ops(driver: Counting) -> None:
    """A call that wants a gradient goes through autograd, and what autograd calls is prepared."""
    w = W.clone().requires_grad_()
    with torch.enable_grad():
        assert not replayed(driver, lambda: conv(w=w))
        y = conv(w=w)
        assert replayed(driver, lambda: conv(w=w)) and y.grad_fn is not None and y.requires_grad


def test_gradients_and_wrappers_take_the_ordinary_path(driver: Counting) -> None:
    conv()
    wanting = torch.nn.Parameter(W)
    run = lambda: conv(w=wanting)  # noqa: E731
    run()
    assert replayed(driver, run)
    with torch.enable_grad():
        assert not replayed(driver, run) and run().requires_grad
        assert replayed(driver, conv)  # no operand wants one
    conv()
    subclass = type("Mine", (Tensor,), {})
    assert not replayed(driver, lambda: conv(X.as_subclass(subclass)))
    assert not replayed(driver, lambda: conv(torch._neg_view(X)))
    assert replayed(driver, lambda: torch.vmap(lambda x: conv(x[None]))(X))  # an example after another, by torch.ops
    assert torch.vmap(lambda x: conv(x[None]))(X).shape == (2, 1, 16, 8, 8)
    assert not replayed(driver, lambda: torch.compile(conv, backend="eager", fullgraph=True)(X))


def test_out(driver: Counting) -> None:
    out, shared = image(2, 16, 8, 8), image(2, 48, 8, 8)
    conv(out=out)
    version = out._version
    assert replayed(driver, lambda: conv(out=out)) and out._version == version + 1
    assert conv(out=out) is out
    run = lambda: conv(shared[:, :32], out=shared[:, 16:32])  # noqa: E731
    for _ in range(2):
        with pytest.raises(convatlas.ShapeError, match="shares memory"):
            run()
    relu = lambda x: convatlas.relu(x, out=x)  # noqa: E731  # allowed, element for element, and never prepared
    assert relu(out) is out and not replayed(driver, lambda: relu(out))
    y = image(2, 16, 8, 8)
    convatlas.relu(y, out=out), convatlas.relu(y, out=out)
    assert replayed(driver, lambda: convatlas.relu(y, out=out)) and not replayed(driver, lambda: relu(y))


def test_one_tensor_twice(driver: Counting) -> None:
    """Which of two operands a pointer means cannot be told where they are one; once told, they may be."""
    other = X.clone()
    assert not replayed(driver, lambda: (convatlas.residual_add(X, X), convatlas.residual_add(X, X)))
    convatlas.residual_add(X, other)
    assert replayed(driver, lambda: convatlas.residual_add(other, X))
    words = next(iter(hot.state().entries.values()))[0].prepared.words
    assert {word.source for word in words} == {0, 1, 2}


def test_memory_is_bounded(driver: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "KEYS", 3)
    for n in (1, 2, 3, 1, 4):
        convatlas.relu(image(n, 8, 4, 4))
    kept = [key[-1][0] for key in hot.state().entries]
    assert kept == [3, 1, 4]  # 2 was the least recently used


@pytest.mark.parametrize("write", [lambda x: x.zero_(), lambda x: x.sum(), lambda x: torch.zeros_like(x)])
def test_a_launcher_that_computes_is_not_prepared(
    write: Callable[[Tensor], Any], driver: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay would leave out what it computes."""
    from convatlas.kernels import backend

    listed = backend.launcher("triton", "relu")

    def computing(problem: Any) -> Any:
        write(problem.out)
        return listed(problem)

    monkeypatch.setattr(backend, "launcher", lambda *names: computing)
    for _ in range(3):
        assert not replayed(driver, lambda: convatlas.relu(X))
    assert any("its launcher" in reason for reason in hot.state().reasons)


def test_threads_share_a_prepared_launch(driver: Counting) -> None:
    """Each thread has a frame of its own while it launches, so no address is another thread's."""
    seen: list[tuple[int, int]] = []
    barrier = threading.Barrier(4)

    class Slow(Counting):
        def launch(self, config: int, function: int, parameters: int, device: int) -> None:
            barrier.wait(10)
            seen.append((parameters, threading.get_ident()))
            barrier.wait(10)

    with hot.using(Slow()):
        x = image(1, 8, 4, 4)
        convatlas.relu(x)

        def work() -> None:
            with torch.no_grad(), convatlas.use_backend("triton"):
                convatlas.relu(x)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({address for address, _ in seen}) == 4


def test_a_driver_that_surprises_is_given_up_visibly(driver: Counting) -> None:
    class Broken(Counting):
        verifies = True

        def launch(self, *given: Any) -> None:
            raise RuntimeError("CUDA error: no kernel image")

    with hot.using(Broken()) as state:
        with pytest.warns(ConvAtlasWarning, match="no kernel image.*ordinary path"):
            conv()
        conv()
        assert state.driver is None and "no kernel image" in state.fault and not state.entries


def test_other_numbers_are_given_up_visibly(driver: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Counting):
        verifies = True  # launches nothing, so the second output is not what the first is

    def unwritten(x: Tensor, *given: Any) -> Tensor:
        """Memory that was used before may hold the right numbers."""
        return x.as_strided(*given).clone().fill_(torch.nan)

    monkeypatch.setattr(Tensor, "new_empty_strided", unwritten)
    with hot.using(Forgetful()) as state, pytest.warns(ConvAtlasWarning, match="other numbers"):
        convatlas.relu(torch.full((4, 8, 5, 5), 3.0), out=torch.zeros(4, 8, 5, 5))
    assert state.fault


@pytest.mark.parametrize(("value", "on"), [(None, True), ("1", True), ("0", False)])
def test_it_is_on_unless_turned_off(value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVATLAS_PREPARED", raising=False)
    if value is not None:
        monkeypatch.setenv("CONVATLAS_PREPARED", value)
    monkeypatch.setattr(hot, "interpreting", lambda: False)
    monkeypatch.setattr("convatlas.kernels.common.driver.cuda_driver", Stub)
    with hot.using(None) as state:
        state.asked = False
        assert hot._ask(state, SimpleNamespace(is_cuda=True)) is on  # type: ignore[arg-type]
        assert (state.fault == "") is on and (state.driver is not None) is on


def test_without_a_gpu_nothing_is_prepared() -> None:
    convatlas.relu(torch.ones(2, 2))
    assert not hot.state().entries and hot.state().driver is None
