"""The kernels of the backward pass within the error bound: poolings, activations, norms, softmax; interpreted, and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from kernel_cases import DTYPES, POOLS, Case, hold, layout, random
from rotation import share
from torch import Tensor

import convatlas
from convatlas.ops import functional  # noqa: F401
from convatlas.specs import Pool2dSpec
from convatlas.specs.activations import FLOPS, tells_nothing

ops = torch.ops.convatlas
FORMS = ("nhwc", "nchw", "sliced")
ACTIVATIONS = (*FLOPS, "leaky_relu(0.2)", "leaky_relu(-0.5)")


def image(shape: tuple, dtype: str, device: str, form: str, seed: int) -> Tensor:
    return layout(random(shape, DTYPES[dtype], device, "normal", seed), form)


BACKENDS = ("triton", "cuda")
# Each case in each form and in each dtype, not in all pairs.
PAIRS = [("nhwc", "float16"), ("nchw", "float32"), ("sliced", "bfloat16")]


def turns(cases: Iterable[Any], kinds: Sequence[Any]) -> list[tuple]:
    """Each case with each kind on Triton; on CUDA C++, of which each kind costs a compiler's run, with one after another."""
    listed = list(cases)
    return [(case, kind, "triton") for case in listed for kind in kinds] + [
        (case, kinds[i % len(kinds)], "cuda") for i, case in enumerate(listed)
    ]


@pytest.mark.parametrize("case, form_and_dtype, backend", turns(POOLS, PAIRS), ids=str)
def test_poolings(case: Case, form_and_dtype: tuple[str, str], backend: str, device: str, poisoned: None) -> None:
    form, dtype = form_and_dtype
    kind, a = case.id.split("-")[0], case.arguments
    x = image(case.input, dtype, device, form, 0).requires_grad_()
    public = {
        "max": convatlas.max_pool2d,
        "avg": convatlas.avg_pool2d,
        "adaptive": convatlas.adaptive_avg_pool2d,
        "adaptivemax": convatlas.adaptive_max_pool2d,
    }[kind]
    y = public(x, **a, backend=backend)
    g = image(tuple(y.shape), dtype, device, form, 1)
    call = hold(lambda: backward(y, x, g))
    assert (call.op.removesuffix("_grad"), call.backend) == (public.__name__, backend)


MAXIMA = [case for case in POOLS if case.id.startswith("max-")]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", MAXIMA, ids=str)
def test_winners_are_bytes_and_equal_places(case: Case, backend: str, device: str, poisoned: None) -> None:
    """Ties and NaN among them; a window too large for a byte, and return_indices, keep places."""
    x = layout(random(case.input, torch.float16, device, "integers", 0), "nhwc")
    x.flatten()[:: max(x.numel() // 7, 1)] = float("nan")
    with torch.no_grad():
        y, where = convatlas.max_pool2d(x, **case.arguments, return_indices=True, backend="numpy")
    given = [t.requires_grad_() for t in (x.clone(), x.clone())]
    kept: list[torch.dtype] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        outputs = [
            convatlas.max_pool2d(given[0], **case.arguments, backend=backend),
            convatlas.max_pool2d(given[1], **case.arguments, return_indices=True, backend=backend)[0],
        ]
    assert kept == [torch.uint8, torch.int64]
    g = random(tuple(y.shape), torch.float16, device, "integers", 1)
    by_byte, by_place = (torch.autograd.grad(out, t, g)[0] for out, t in zip(outputs, given))
    expected = ops.max_pool2d_grad(g, where, list(x.shape), *window_of(case), "numpy")
    for found in (by_byte, by_place):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def window_of(case: Case) -> tuple:
    """The arguments of a max pooling as the registered op takes them."""
    s = Pool2dSpec.of("max", case.input, **case.arguments)
    return [s.R, s.S], list(s.stride), list(s.padding), list(s.dilation), s.ceil_mode


def test_a_window_too_large_for_a_byte_keeps_places() -> None:
    x = random((1, 2, 18, 20), torch.float32, "cpu", "normal", 0).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.dtype == torch.int64 and t, lambda t: t):
        y = convatlas.max_pool2d(x, (17, 16), 1, backend="cuda")
    expected = torch.autograd.grad(torch.nn.functional.max_pool2d(x, (17, 16), 1), x, torch.ones_like(y))[0]
    assert torch.equal(torch.autograd.grad(y, x, torch.ones_like(y))[0], expected)


def backward(y: Tensor, x: Tensor, g: Tensor) -> None:
    """In this thread, where the observer is: on a GPU autograd has one of its own."""
    with torch.autograd.set_multithreading_enabled(False):
        torch.autograd.grad(y, x, g, retain_graph=True)


@pytest.mark.parametrize("activation, dtype, backend", turns(ACTIVATIONS, list(DTYPES)))
def test_activations(activation: str, dtype: str, backend: str, device: str, poisoned: None) -> None:
    x = 4 * image((2, 5, 3, 7), dtype, device, "nhwc", 0)
    x[0, 0, 0] = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, -3.0, 3.0, 6.0])
    x[0, 1, 0, :2] = torch.tensor([-80.0, 80.0])
    saved = x
    if not tells_nothing(activation):  # the value tells
        y = (
            x
            if activation.startswith("leaky")
            else getattr(convatlas, activation)(x, backend="numpy" if device == "cpu" else None)
        )
        saved = y
    for form in FORMS:
        g = image(tuple(x.shape), dtype, device, form, 1)
        assert hold(lambda g=g: ops.activation_grad(g, saved, activation, backend)).backend == backend


# The shape, and the op of a gradient, an input, numbers by channel and a backend.
NORMS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor, dict[str, Tensor], str], Any]]] = {
    "batch_norm_stats": ((3, 19, 9, 7), lambda g, x, n, b: ops.batch_norm_stats(x + 30, b)),
    "batch_norm_stats, long": ((2, 3, 67, 65), lambda g, x, n, b: ops.batch_norm_stats(x, b)),
    "batch_norm_stats, one pixel": ((5, 70, 1, 1), lambda g, x, n, b: ops.batch_norm_stats(x, b)),
    "batch_norm_sums": (
        (3, 24, 9, 7), lambda g, x, n, b: ops.batch_norm_sums(g, x, n["mean"], n["var"], 1e-3, None, None, b),
    ),
    "batch_norm_sums, relu6": (
        (2, 24, 9, 7),
        lambda g, x, n, b: ops.batch_norm_sums(g, x, n["mean"], n["var"], 1e-3, (4 * g).abs(), "relu6", b),
    ),
    "batch_norm_input_grad, sigmoid": (
        (2, 24, 9, 7),
        lambda g, x, n, b: ops.batch_norm_input_grad(
            g, x, n["mean"], n["var"], None, n["sums"], 1e-3, x.float().sigmoid().to(x.dtype), "sigmoid", b
        ),
    ),
    "batch_norm_input_grad": (
        (3, 24, 9, 7),
        lambda g, x, n, b: ops.batch_norm_input_grad(g, x, n["mean"], n["var"], n["weight"], n["sums"], 1e-3, None, None, b),
    ),
    "batch_norm_input_grad, inference": (
        (2, 8, 4, 4), lambda g, x, n, b: ops.batch_norm_input_grad(g, x, n["mean"], n["var"], None, None, 1e-5, None, None, b),
    ),
    "local_response_norm_grad": (
        (2, 12, 5, 6), lambda g, x, n, b: ops.local_response_norm_grad(g, x, 5, 0.5, 0.75, 2.0, b),
    ),
    "local_response_norm_grad, even": (
        (2, 7, 3, 3), lambda g, x, n, b: ops.local_response_norm_grad(g, x, 2, 1e-2, 1.5, 1.0, b),
    ),
    "softmax_grad": ((3, 11, 4, 5), lambda g, x, n, b: ops.softmax_grad(g, torch.softmax(x.float(), 1).to(x.dtype), 1, b)),
}  # fmt: skip


@pytest.mark.parametrize("name, dtype, backend", turns(NORMS, list(DTYPES)))
def test_norms_and_softmax(name: str, dtype: str, backend: str, device: str, poisoned: None) -> None:
    shape, run = NORMS[name]
    C = shape[1]
    numbers = {
        "mean": random((C,), torch.float32, device, "normal", 2),
        "var": random((C,), torch.float32, device, "normal", 3).abs() + 0.1,
        "weight": random((C,), torch.float32, device, "normal", 4),
        "sums": 10 * random((2, C), torch.float32, device, "normal", 5),
    }
    for form in FORMS:
        call = hold(
            lambda form=form: run(
                image(shape, dtype, device, form, 1), image(shape, dtype, device, form, 0), numbers, backend
            )
        )
        assert call.backend == backend and call.op == name.split(",")[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_pass_leaves_the_masked_gradient(backend: str, device: str, poisoned: None) -> None:
    """For a residual: the bits of a pass of its own, and the sums without it."""
    for form in FORMS:
        g, x, output = (image((2, 24, 5, 3), "float16", device, form, i) for i in range(3))
        numbers = torch.zeros(24, device=device), torch.ones(24, device=device), 0.0
        sums, masked = ops.batch_norm_sums_with_masked(g, x, *numbers, output, "relu", backend)
        assert torch.equal(masked, ops.activation_grad(g, output, "relu", "numpy"))
        assert torch.equal(sums, ops.batch_norm_sums(g, x, *numbers, output, "relu", backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_give_the_same_bits(backend: str, device: str) -> None:
    x = image((2, 64, 33, 33), "float16", device, "nhwc", 0)
    first, second = (ops.batch_norm_stats(x, backend) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.float32


@pytest.mark.parametrize("backend", sorted({"triton", *share(BACKENDS)}))
def test_a_net_trains(backend: str, device: str) -> None:
    """One step of a small network through the kernels: every op of it within its bound."""
    from convatlas.nets import resnet_cifar

    torch.manual_seed(0)
    net = resnet_cifar.build("resnet8", 4, 3).to(device).train()
    x = random((4, 3, 8, 8), torch.float32, device, "normal", 0)
    with convatlas.use_backend(backend), convatlas.checking() as report:
        loss = net(x).square().mean()
        with torch.autograd.set_multithreading_enabled(False):
            loss.backward()
    assert report.ok and {check.call.backend for check in report} == {backend} and len(report) > 50
