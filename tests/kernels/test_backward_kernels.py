"""The kernels of the backward pass within the error bound: poolings, activations, norms, softmax; interpreted, and on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import DTYPES, POOLS, Case, hold, layout, random
from torch import Tensor

import convatlas
from convatlas.ops import functional  # noqa: F401
from convatlas.specs.activations import FLOPS, tells_nothing

ops = torch.ops.convatlas
FORMS = ("nhwc", "nchw", "sliced")
ACTIVATIONS = (*FLOPS, "leaky_relu(0.2)", "leaky_relu(-0.5)")


def image(shape: tuple, dtype: str, device: str, form: str, seed: int) -> Tensor:
    return layout(random(shape, DTYPES[dtype], device, "normal", seed), form)


# Each case in each form and in each dtype, not in all pairs.
PAIRS = [("nhwc", "float16"), ("nchw", "float32"), ("sliced", "bfloat16")]


@pytest.mark.parametrize("form, dtype", PAIRS)
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_poolings(case: Case, form: str, dtype: str, device: str, poisoned: None) -> None:
    kind, a = case.id.split("-")[0], case.arguments
    x = image(case.input, dtype, device, form, 0).requires_grad_()
    public = {
        "max": convatlas.max_pool2d,
        "avg": convatlas.avg_pool2d,
        "adaptive": convatlas.adaptive_avg_pool2d,
        "adaptivemax": convatlas.adaptive_max_pool2d,
    }[kind]
    y = public(x, **a, backend="triton")
    g = image(tuple(y.shape), dtype, device, form, 1)
    call = hold(lambda: backward(y, x, g))
    assert (call.op.removesuffix("_grad"), call.backend) == (public.__name__, "triton")


def backward(y: Tensor, x: Tensor, g: Tensor) -> None:
    """In this thread, where the observer is: on a GPU autograd has one of its own."""
    with torch.autograd.set_multithreading_enabled(False):
        torch.autograd.grad(y, x, g, retain_graph=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, dtype: str, device: str, poisoned: None) -> None:
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
        assert hold(lambda g=g: ops.activation_grad(g, saved, activation, "triton")).backend == "triton"


NORMS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor, dict[str, Tensor]], Any]]] = {
    "batch_norm_stats": ((3, 19, 9, 7), lambda g, x, n: ops.batch_norm_stats(x + 30, "triton")),
    "batch_norm_stats, long": ((2, 3, 67, 65), lambda g, x, n: ops.batch_norm_stats(x, "triton")),
    "batch_norm_stats, one pixel": ((5, 70, 1, 1), lambda g, x, n: ops.batch_norm_stats(x, "triton")),
    "batch_norm_sums": (
        (3, 19, 9, 7), lambda g, x, n: ops.batch_norm_sums(g, x, n["mean"], n["var"], 1e-3, "triton"),
    ),
    "batch_norm_input_grad": (
        (3, 19, 9, 7),
        lambda g, x, n: ops.batch_norm_input_grad(g, x, n["mean"], n["var"], n["weight"], n["sums"], 1e-3, "triton"),
    ),
    "batch_norm_input_grad, inference": (
        (2, 8, 4, 4), lambda g, x, n: ops.batch_norm_input_grad(g, x, n["mean"], n["var"], None, None, 1e-5, "triton"),
    ),
    "local_response_norm_grad": (
        (2, 12, 5, 6), lambda g, x, n: ops.local_response_norm_grad(g, x, 5, 0.5, 0.75, 2.0, "triton"),
    ),
    "local_response_norm_grad, even": (
        (2, 7, 3, 3), lambda g, x, n: ops.local_response_norm_grad(g, x, 2, 1e-2, 1.5, 1.0, "triton"),
    ),
    "softmax_grad": ((3, 11, 4, 5), lambda g, x, n: ops.softmax_grad(g, torch.softmax(x.float(), 1).to(x.dtype), 1, "triton")),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NORMS)
def test_norms_and_softmax(name: str, dtype: str, device: str, poisoned: None) -> None:
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
            lambda form=form: run(image(shape, dtype, device, form, 1), image(shape, dtype, device, form, 0), numbers)
        )
        assert call.backend == "triton" and call.op == name.split(",")[0]


def test_two_runs_give_the_same_bits(device: str) -> None:
    x = image((2, 64, 33, 33), "float16", device, "nhwc", 0)
    first, second = (ops.batch_norm_stats(x, "triton") for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.float32


def test_a_net_trains_on_triton(device: str) -> None:
    """One step of a small network through the kernels: every op of it within its bound."""
    from convatlas.nets import resnet_cifar

    torch.manual_seed(0)
    net = resnet_cifar.build("resnet8", 4, 3).to(device).train()
    x = random((4, 3, 8, 8), torch.float32, device, "normal", 0)
    with convatlas.use_backend("triton"), convatlas.checking() as report:
        loss = net(x).square().mean()
        with torch.autograd.set_multithreading_enabled(False):
            loss.backward()
    assert report.ok and {check.call.backend for check in report} == {"triton"} and len(report) > 60


def test_the_cuda_backend_says_what_it_lacks() -> None:
    with pytest.raises(convatlas.BackendError, match=r'^softmax_grad: backend "cuda" has no kernel for it yet'):
        ops.softmax_grad(torch.ones(2, 3), torch.ones(2, 3), 1, "cuda")
