"""The three poolings against torch's in float64, indices included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convatlas import ShapeError
from convatlas.reference import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d

inf, nan = np.inf, np.nan


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


WINDOWS = {
    "resnet-stem": ((2, 3, 11, 13), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "vgg": ((1, 17, 8, 6), {"kernel_size": 2, "stride": 2}),
    "alexnet-overlapping": ((1, 64, 13, 13), {"kernel_size": 3, "stride": 2}),
    "squeezenet-ceil": ((1, 3, 12, 13), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    "inception-same": ((1, 3, 7, 7), {"kernel_size": 3, "stride": 1, "padding": 1}),
    "one-pixel": ((1, 1, 1, 1), {"kernel_size": 1}),
    "one-pixel-padded": ((1, 2, 1, 1), {"kernel_size": 3, "padding": 1}),
    "window-larger-ceil": ((1, 2, 1, 4), {"kernel_size": 2, "ceil_mode": True}),
    "stride-over-kernel": ((2, 2, 11, 9), {"kernel_size": 2, "stride": (5, 3)}),
    "stride-over-kernel-ceil": ((2, 2, 11, 9), {"kernel_size": 1, "stride": (5, 3), "ceil_mode": True}),
    "last-window-dropped": ((1, 1, 4, 5), {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}),
    "rectangle": ((1, 2, 9, 10), {"kernel_size": (2, 5), "stride": (1, 2), "padding": (1, 2)}),
    "whole-map": ((2, 5, 7, 7), {"kernel_size": 7}),
    "empty-stride": ((1, 2, 6, 6), {"kernel_size": 2, "stride": ()}),
    "one-element-tuples": ((1, 2, 6, 6), {"kernel_size": (3,), "stride": (2,), "padding": (1,)}),
    "batch-0": ((0, 3, 6, 6), {"kernel_size": 2}),
}
DILATED = {
    "dilated": ((2, 3, 11, 12), {"kernel_size": 3, "dilation": 2, "stride": 2, "padding": 1}),
    "dilated-ceil": ((1, 2, 9, 8), {"kernel_size": 2, "dilation": (3, 2), "ceil_mode": True}),
    "windows-in-padding-alone": ((1, 1, 1, 4), {"kernel_size": (2, 1), "dilation": (2, 1), "padding": (1, 0)}),
}


@pytest.mark.parametrize("case", [*WINDOWS, *DILATED])
def test_max_as_torch(case: str) -> None:
    shape, args = (WINDOWS | DILATED)[case]
    for x in (
        normal(*shape),
        np.random.default_rng(1).integers(0, 3, shape).astype(float),
    ):  # the second is full of ties
        expected, places = F.max_pool2d(torch.from_numpy(x), **args, return_indices=True)
        y, where = max_pool2d(x, **args, return_indices=True)
        np.testing.assert_array_equal(y, expected.numpy())
        np.testing.assert_array_equal(where, places.numpy())
        assert where.dtype == np.int64
        np.testing.assert_array_equal(max_pool2d(x, **args), y)


@pytest.mark.parametrize("count_include_pad", [True, False], ids=["with-pad", "without-pad"])
@pytest.mark.parametrize("case", WINDOWS)
def test_avg_as_torch(case: str, count_include_pad: bool) -> None:
    shape, args = WINDOWS[case]
    x = normal(*shape)
    expected = F.avg_pool2d(torch.from_numpy(x), **args, count_include_pad=count_include_pad).numpy()
    y = avg_pool2d(x, **args, count_include_pad=count_include_pad)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("divisor", [1, 7, -2])
def test_avg_divisor_override(divisor: int) -> None:
    x = normal(1, 2, 7, 8)
    args = {"kernel_size": 3, "padding": 1, "ceil_mode": True, "divisor_override": divisor}
    np.testing.assert_allclose(avg_pool2d(x, **args), F.avg_pool2d(torch.from_numpy(x), **args).numpy(), rtol=1e-13)


@pytest.mark.parametrize("size", [1, 3, 7, 11, (2, 5), (None, 1), (3, None), (None, None), 0, (0, 3)], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (1, 17, 5, 12), (0, 2, 4, 4), (1, 0, 4, 4), (1, 2, 1, 1)], ids=str)
def test_adaptive_as_torch(shape: tuple, size: Any) -> None:
    x = normal(*shape)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(x), size).numpy()
    y = adaptive_avg_pool2d(x, size)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-14)
    if shape[1]:  # torch has no maxima without channels
        expected, places = F.adaptive_max_pool2d(torch.from_numpy(x), size, return_indices=True)
        y, where = adaptive_max_pool2d(x, size, return_indices=True)
        np.testing.assert_array_equal(y, expected.numpy())
        np.testing.assert_array_equal(where, places.numpy())
        np.testing.assert_array_equal(adaptive_max_pool2d(x, size), y)


SPECIALS = {
    "nan": nan,
    "inf": inf,
    "-inf": -inf,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("case", [*WINDOWS, *DILATED])
def test_nan_and_infinity(case: str, special: str) -> None:
    shape, args = (WINDOWS | DILATED)[case]
    x = normal(*shape)
    if x.size:
        x.flat[np.random.default_rng(2).choice(x.size, max(1, x.size // 7), replace=False)] = SPECIALS[special]
        x.flat[0] = -SPECIALS[special]
    expected, places = F.max_pool2d(torch.from_numpy(x), **args, return_indices=True)
    y, where = max_pool2d(x, **args, return_indices=True)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(where, places.numpy())
    if case in WINDOWS:
        expected = F.avg_pool2d(torch.from_numpy(x), **args).numpy()
        np.testing.assert_allclose(avg_pool2d(x, **args), expected, rtol=1e-12, atol=1e-12)
    expected = F.adaptive_avg_pool2d(torch.from_numpy(x), (2, 3)).numpy()
    np.testing.assert_allclose(adaptive_avg_pool2d(x, (2, 3)), expected, rtol=1e-12, atol=1e-12)
    expected, places = F.adaptive_max_pool2d(torch.from_numpy(x), (2, 3), return_indices=True)
    y, where = adaptive_max_pool2d(x, (2, 3), return_indices=True)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(adaptive_max_pool2d(x, (2, 3)), y)
    np.testing.assert_array_equal(where, places.numpy())


@pytest.mark.parametrize(
    ("row", "value", "index"),
    [
        ([1, 3, 3, 2], 3, 1),  # the first of equal maxima
        ([1, nan, 3, nan], nan, 3),  # the last NaN
        ([nan, inf, 3, 2], nan, 0),
        ([-inf, -inf, -inf, -inf], -inf, 0),
        ([-0.0, 0.0, -1, -2], 0, 0),  # the zeros are equal
    ],
    ids=["tie", "two-nans", "nan-and-inf", "all-minus-inf", "zeros"],
)
def test_which_index_wins(row: list, value: float, index: int) -> None:
    x = np.array(row, float).reshape(1, 1, 1, 4)
    y, where = max_pool2d(x, (1, 4), return_indices=True)
    np.testing.assert_array_equal(y.item(), value)
    assert where.item() == index
    assert F.max_pool2d(torch.from_numpy(x), (1, 4), return_indices=True)[1].item() == index


def test_float32() -> None:
    x = normal(2, 3, 9, 9).astype(np.float32)
    for y in (
        max_pool2d(x, 3, dtype=np.float32),
        avg_pool2d(x, 3, dtype=np.float32),
        adaptive_avg_pool2d(x, 4, dtype=np.float32),
    ):
        assert y.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: max_pool2d(np.zeros((3, 4, 4)), 2),
            r"max_pool2d: input of shape \(3, 4, 4\), expected \(N, C, H, W\)",
        ),
        (lambda: max_pool2d(np.zeros((1, 1, 4, 4)), 2, padding=2), r"padding=\(2, 2\), expected at most half"),
        (
            lambda: max_pool2d(np.zeros((1, 1, 4, 4)), 3, dilation=2, padding=2),
            r"padding=\(2, 2\), expected at most half",
        ),
        (lambda: max_pool2d(np.zeros((1, 1, 1, 4)), 2), r"output would be 0x2"),
        (lambda: avg_pool2d(np.zeros((1, 0, 4, 4)), 2), r"avg_pool2d: input of shape \(1, 0, 4, 4\), expected C"),
        (lambda: avg_pool2d(np.zeros((1, 1, 4, 4)), True), r"kernel_size=True, expected an int"),
        (lambda: avg_pool2d(np.zeros((1, 1, 4, 4)), 2, divisor_override=0), r"divisor_override=0, expected"),
        (lambda: adaptive_avg_pool2d(np.zeros((1, 1, 4, 4)), (3,)), r"output_size=\(3,\), expected"),
        (lambda: adaptive_avg_pool2d(np.zeros((1, 1, 4, 4)), None), r"output_size=None, expected"),
        (lambda: adaptive_avg_pool2d(np.zeros((1, 1, 0, 4)), 1), r"input of shape \(1, 1, 0, 4\), expected H and W"),
    ],
)
def test_errors_show_both_sides(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()
