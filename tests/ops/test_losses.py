"""Softmax and cross-entropy as one op: PyTorch's values and gradients, and the kernels within their bounds."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import DTYPES, hold, random
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convatlas

ops = torch.ops.convatlas
OPTIONS = [
    dict(reduction=reduction, label_smoothing=smoothing, ignore_index=ignored)
    for reduction, (smoothing, ignored) in product(("none", "mean", "sum"), ((0.0, -100), (0.1, 2)))
]


def scores(rows: int, classes: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    target = torch.randint(classes, (rows,), generator=draw)
    return 4 * random((rows, classes), dtype, device, "normal", 0), target.to(device)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_like_torch(options: dict[str, Any]) -> None:
    x, target = scores(9, 7)
    results = []
    for function in (convatlas.cross_entropy, F.cross_entropy):
        given = x.clone().requires_grad_()
        with convatlas.checking():
            loss = function(given, target, **options)
            (gradient,) = torch.autograd.grad((loss * torch.arange(1, loss.numel() + 1).view_as(loss)).sum(), given)
        results.append((loss.detach(), gradient))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


# Rows of one block and of several, one class, no row.
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 10), (3, 1300), (2, 1), (0, 4)], ids=str)
@pytest.mark.parametrize("smoothing, ignored", [(0.0, -100), (0.2, 4)])
def test_kernels_within_the_bound(
    shape: tuple[int, int], dtype: str, backend: str, smoothing: float, ignored: int, device: str, poisoned: None
) -> None:
    x, target = scores(*shape, DTYPES[dtype], device)
    g, options = random(shape[:1], torch.float32, device, "normal", 1), (ignored, smoothing)
    made: list[Any] = []
    hold(lambda: made.append(ops.cross_entropy_rows(x, target, *options, backend)))
    losses, lse = made[0]
    assert losses.dtype == lse.dtype == torch.float32
    torch.testing.assert_close(lse, torch.logsumexp(x.float(), 1), rtol=1e-5, atol=1e-5)
    assert hold(lambda: ops.cross_entropy_grad(x, target, lse, g, *options, backend)).backend == backend


@pytest.mark.parametrize("backend", ["triton", "cuda", "numpy"])
def test_what_is_no_class_or_no_number_is_nan(backend: str) -> None:
    x, target = scores(5, 3, torch.float32)
    x[1, 2], target[2], target[3], target[4] = float("nan"), 3, -1, -100
    losses = convatlas.cross_entropy(x, target, reduction="none", backend=backend)
    assert losses.isnan().tolist() == [False, True, True, True, False] and losses[4] == 0


def test_derivatives_are_torchs_or_refused() -> None:
    x, target = scores(3, 5)
    x.requires_grad_()
    assert gradcheck(lambda x: convatlas.cross_entropy(x, target, label_smoothing=0.3), x)
    with pytest.raises(NotImplementedError, match="cross_entropy_grad has no derivative"):
        gradgradcheck(lambda x: convatlas.cross_entropy(x, target), x)
    found = torch.func.grad(lambda x: convatlas.cross_entropy(x, target))(x.detach())
    assert torch.equal(found, torch.autograd.grad(convatlas.cross_entropy(x, target), x)[0])


def test_dtypes() -> None:
    x, target = scores(3, 5, torch.bfloat16)
    assert convatlas.cross_entropy(x, target).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss = convatlas.cross_entropy(x.requires_grad_(), target)
    assert loss.dtype == torch.float32 and torch.autograd.grad(loss, x)[0].dtype == torch.bfloat16
    compiled = torch.compile(convatlas.cross_entropy, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.float(), target), F.cross_entropy(x.float(), target))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(input=torch.zeros(2, 3, 4)), convatlas.ShapeError, r"input of shape \(2, 3, 4\), expected \(N, C\)"),
        (dict(target=torch.zeros(3).long()), convatlas.ShapeError, r"target of shape \(3,\), expected \(2,\)"),
        (dict(target=torch.zeros(2).int()), convatlas.DtypeError, "target is torch.int32, expected torch.int64"),
        (dict(reduction="max"), convatlas.ArgumentError, "reduction='max', expected one of none, mean, sum"),
        (dict(label_smoothing=2), convatlas.ArgumentError, "label_smoothing=2, expected a number from 0 to 1"),
    ],
)
def test_errors(change: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=f"^cross_entropy: {message}[^\n]*$"):
        convatlas.cross_entropy(**{"input": torch.zeros(2, 3), "target": torch.zeros(2).long(), **change})
