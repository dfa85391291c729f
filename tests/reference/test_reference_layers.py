"""linear, residual_add, the normalisations, activations and concat against torch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convatlas import ShapeError
from convatlas.reference import (
    batch_norm,
    channel_scale,
    concat,
    linear,
    local_response_norm,
    relu,
    relu6,
    residual_add,
    softmax,
)

inf, nan = np.inf, np.nan
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 5.9, 6.0, 7.0, inf, -inf, nan])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def t(a: np.ndarray | None) -> torch.Tensor | None:
    return None if a is None else torch.from_numpy(a)


def sprinkle(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """x with a fifth of its elements replaced by special values."""
    rng = np.random.default_rng(seed)
    x.flat[rng.choice(x.size, x.size // 5, replace=False)] = rng.choice(SPECIAL, x.size // 5)
    return x


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize(("C", "K"), [(1, 1), (17, 5), (64, 1000), (0, 3), (5, 0)])
def test_linear(lead: tuple, C: int, K: int, activation: str | None) -> None:
    x, w, b = normal(*lead, C), normal(K, C, seed=1), normal(K, seed=2)
    act = {None: lambda y: y, "relu": torch.relu, "relu6": F.relu6}[activation]
    expected = act(F.linear(t(x), t(w), t(b))).numpy()
    y = linear(x, w, b, activation=activation)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(linear(x, w), F.linear(t(x), t(w)).numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_linear_nan_and_infinity() -> None:
    x, w = sprinkle(normal(9, 4)), normal(5, 4)
    w[2, 1], w[3, 0] = inf, nan
    np.testing.assert_allclose(linear(x, w), F.linear(t(x), t(w)).numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (4, 5), (0, 3, 2, 2)], ids=str)
def test_residual_add(shape: tuple, activation: str | None) -> None:
    x, shortcut = sprinkle(normal(*shape)), sprinkle(normal(*shape, seed=1), 1)
    act = {None: lambda y: y, "relu": torch.relu, "relu6": F.relu6}[activation]
    np.testing.assert_array_equal(residual_add(x, shortcut, activation=activation), act(t(x) + t(shortcut)).numpy())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [(2, 3, 1, 1), (1, 3, 1, 1), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("gate", [None, "sigmoid", "hardsigmoid", "relu"])
def test_channel_scale(gate: str | None, scale: tuple) -> None:
    x, s, residual = sprinkle(normal(2, 3, 4, 5)), normal(*scale, seed=1), normal(2, 3, 4, 5, seed=2)
    product = t(x) * (t(s) if gate is None else getattr(F, gate)(t(s)))
    np.testing.assert_allclose(channel_scale(x, s, gate=gate), product.numpy(), rtol=1e-14, atol=1e-15)
    got = channel_scale(x, s, gate=gate, activation="relu", residual=residual)
    np.testing.assert_allclose(got, (product + t(residual)).relu().numpy(), rtol=1e-13, atol=1e-14)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("affine", ["none", "weight", "bias", "both"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (4, 5), (0, 3, 2, 2), (1, 64, 3)], ids=str)
def test_batch_norm(shape: tuple, affine: str) -> None:
    C = shape[1]
    x = sprinkle(normal(*shape))
    mean, var = normal(C, seed=1), np.abs(normal(C, seed=2))
    weight = normal(C, seed=3) if affine in ("weight", "both") else None
    bias = normal(C, seed=4) if affine in ("bias", "both") else None
    var[0], var[1] = 0.0, -1.0  # 1 / sqrt(eps), and the root of a negative number
    for eps in (1e-5, 1e-3):
        expected = F.batch_norm(t(x), t(mean), t(var), t(weight), t(bias), eps=eps).numpy()
        np.testing.assert_allclose(batch_norm(x, mean, var, weight, bias, eps), expected, rtol=1e-12, atol=1e-12)
    expected = torch.relu(F.batch_norm(t(x), t(mean), t(var))).numpy()
    np.testing.assert_allclose(batch_norm(x, mean, var, activation="relu"), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (1, 1, 5), (0, 3, 2, 2), (2, 0, 3), (1, 17, 2, 2)], ids=str)
def test_local_response_norm(shape: tuple, size: int) -> None:
    for args in ({}, {"alpha": 5e-4, "beta": 0.75, "k": 2.0}, {"alpha": 2.0, "beta": 1.5, "k": 0.0}):
        for x in (normal(*shape), sprinkle(normal(*shape))):
            expected = F.local_response_norm(t(x), size, **args).numpy()
            np.testing.assert_allclose(local_response_norm(x, size, **args), expected, rtol=1e-12, atol=1e-300)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(3, 5), (2, 1000), (2, 0), (0, 2), (2, 3, 4)], ids=str)
def test_softmax(shape: tuple, dim: int) -> None:
    for x in (normal(*shape), 1000 * normal(*shape)):
        np.testing.assert_allclose(softmax(x, dim), F.softmax(t(x), dim).numpy(), rtol=1e-12, atol=1e-300)


@pytest.mark.filterwarnings("error")
def test_softmax_nan_and_infinity() -> None:
    x = np.array([[1, inf, 0], [nan, 1, 2], [-inf, -inf, -inf], [-inf, 0, 1], [inf, inf, -inf]])
    np.testing.assert_allclose(softmax(x, 1), F.softmax(t(x), 1).numpy(), rtol=1e-13)
    assert softmax(np.array(3.0), 0) == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_relu_and_relu6(dtype: Any) -> None:
    x = np.concatenate([SPECIAL, normal(90)]).astype(dtype)
    np.testing.assert_array_equal(relu(x, dtype=dtype), torch.relu(t(x)).numpy())
    np.testing.assert_array_equal(relu6(x, dtype=dtype), F.relu6(t(x)).numpy())
    assert relu(x, dtype=dtype).dtype == relu6(x, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_concat(dim: int) -> None:
    shapes = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    for i, n in enumerate((5, 0, 1)):
        shapes[i][dim] = n
    parts = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    np.testing.assert_array_equal(concat(parts, dim), torch.cat([t(p) for p in parts], dim).numpy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear(np.zeros((2, 3)), np.zeros((4, 5))), r"input of shape \(2, 3\) and weight of shape \(4, 5\)"),
        (lambda: linear(np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(1)), r"bias of shape \(1,\), expected \(4,\)"),
        (
            lambda: residual_add(np.zeros((2, 3)), np.zeros((1, 3))),
            r"x of shape \(2, 3\) and shortcut of shape \(1, 3\)",
        ),
        (
            lambda: batch_norm(np.zeros((2, 3)), np.zeros(2), np.zeros(3)),
            r"running_mean of shape \(2,\), expected \(3,\)",
        ),
        (lambda: batch_norm(np.zeros((2, 3)), np.zeros(3), np.zeros(3), eps=-1), r"eps=-1, expected a number from 0"),
        (lambda: local_response_norm(np.zeros((2, 3)), 3), r"input of shape \(2, 3\), expected \(N, C, ...\)"),
        (lambda: local_response_norm(np.zeros((2, 3, 1)), 0), r"size=0, expected a positive int"),
        (lambda: softmax(np.zeros((2, 3)), 2), r"dim=2, expected an int from -2 to 1"),
        (
            lambda: concat([np.zeros((2, 3)), np.zeros((3, 3))]),
            r"\(2, 3\), \(3, 3\), expected equal sizes except on dim 1",
        ),
        (lambda: concat([]), r"no tensors given, expected at least one"),
    ],
)
def test_errors_show_both_sides(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()
