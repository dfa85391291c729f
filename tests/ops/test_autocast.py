"""Under torch.autocast our ops give the dtypes and values that torch's give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import convatlas

X = torch.randn(2, 4, 6, 6)
W, B = torch.randn(3, 4, 3, 3) * 0.2, torch.randn(3)
FC = torch.randn(5, 6)
PAIRS = {
    "conv2d": (lambda x: convatlas.conv2d(x, W, B), lambda x: F.conv2d(x, W, B)),
    "linear": (lambda x: convatlas.linear(x, FC), lambda x: F.linear(x, FC)),
    "max_pool2d": (lambda x: convatlas.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2)),
    "avg_pool2d": (lambda x: convatlas.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2)),
    "adaptive": (lambda x: convatlas.adaptive_avg_pool2d(x, 1), lambda x: F.adaptive_avg_pool2d(x, 1)),
    "relu": (convatlas.relu, F.relu),
    "softmax": (lambda x: convatlas.softmax(x, 1), lambda x: F.softmax(x, 1)),
    "residual_add": (lambda x: convatlas.residual_add(x, x), lambda x: x + x),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("op", PAIRS)
def test_casts_as_torch_does(op: str, given: torch.dtype, dtype: torch.dtype) -> None:
    ours, torchs = PAIRS[op]
    x = X.to(given)
    with torch.autocast("cpu", dtype=dtype):
        got, expected = ours(x), torchs(x)
    assert got.dtype == expected.dtype
    assert torch.allclose(got.float(), expected.float(), rtol=2e-2, atol=2e-2)


def test_float64_is_left_alone_as_by_conv2d() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = convatlas.conv2d(X.double(), W.double(), B.double())
        expected = F.conv2d(X.double(), W.double(), B.double())
    assert got.dtype == expected.dtype == torch.float64


def test_nested_and_disabled_regions() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convatlas.conv2d(X, W).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert convatlas.conv2d(X, W).dtype == torch.float32
    assert convatlas.conv2d(X, W).dtype == torch.float32


def test_compiled_under_autocast() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: convatlas.conv2d(x, W, B), backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert compiled(X).dtype == torch.bfloat16
