"""conv2d against torch's float64 convolution and against its own plain definition."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convatlas import ShapeError
from convatlas.errors import ArgumentError
from convatlas.reference import conv2d, conv2d_plain


@dataclass(frozen=True)
class Case:
    id: str
    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    args: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("odd-primes", (2, 3, 13, 11), (5, 3, 3, 3)),
    Case("odd-primes-padded-strided", (2, 5, 13, 11), (7, 5, 3, 3), {"stride": 2, "padding": 1}),
    Case("one-pixel", (1, 3, 1, 1), (4, 3, 1, 1)),
    Case("one-pixel-padded", (2, 3, 1, 1), (4, 3, 3, 3), {"padding": 1}),
    Case("kernel-larger-than-input", (1, 2, 3, 2), (3, 2, 5, 7), {"padding": (1, 3)}),
    Case("kernel-fills-input", (2, 3, 4, 5), (6, 3, 4, 5)),
    Case("stride-over-kernel", (1, 3, 11, 12), (4, 3, 2, 2), {"stride": (3, 5)}),
    Case("pointwise", (3, 17, 5, 6), (8, 17, 1, 1)),
    Case("pointwise-strided", (2, 17, 9, 6), (8, 17, 1, 1), {"stride": (2, 3)}),
    Case("pointwise-padded", (2, 3, 4, 5), (2, 3, 1, 1), {"padding": (2, 1)}),
    Case("one-channel", (2, 1, 8, 9), (6, 1, 5, 5), {"padding": 2}),
    Case("channels-64", (1, 64, 7, 7), (64, 64, 3, 3), {"padding": 1}),
    Case("stem-7x7", (1, 3, 20, 21), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    Case("row-kernel", (1, 4, 9, 9), (4, 4, 1, 7), {"padding": (0, 3)}),
    Case("column-kernel", (1, 4, 9, 9), (4, 4, 7, 1), {"padding": (3, 0), "stride": (1, 2)}),
    Case("dilated", (1, 3, 11, 13), (4, 3, 3, 2), {"dilation": (2, 3), "padding": (2, 1)}),
    Case("dilated-strided", (2, 2, 12, 12), (3, 2, 3, 3), {"dilation": 2, "stride": 3, "padding": 4}),
    Case("grouped", (2, 6, 7, 5), (9, 2, 3, 3), {"groups": 3, "padding": 1}),
    Case("grouped-pointwise", (2, 8, 7, 5), (4, 2, 1, 1), {"groups": 4}),
    Case("grouped-dilated", (1, 4, 9, 9), (6, 2, 3, 2), {"groups": 2, "dilation": 2, "stride": 2}),
    Case("depthwise", (2, 17, 7, 8), (17, 1, 3, 3), {"groups": 17, "padding": 1}),
    Case("depthwise-strided", (2, 5, 9, 8), (5, 1, 5, 3), {"groups": 5, "padding": 2, "stride": 2}),
    Case("depthwise-multiplier", (2, 3, 7, 8), (12, 1, 3, 3), {"groups": 3, "padding": 1, "dilation": 2}),
    Case("batch-0", (0, 3, 5, 5), (4, 3, 3, 3), {"padding": 1}),
    Case("batch-0-empty-map", (0, 3, 0, 5), (4, 3, 1, 3), {"padding": 1}),
    Case("same-odd", (1, 3, 6, 7), (4, 3, 3, 5), {"padding": "same"}),
    Case("same-even", (1, 3, 6, 7), (4, 3, 4, 2), {"padding": "same"}),
    Case("same-even-dilated", (1, 3, 6, 7), (4, 3, 2, 4), {"padding": "same", "dilation": (3, 1)}),
    Case("valid", (1, 3, 6, 7), (4, 3, 3, 3), {"padding": "valid", "stride": 2}),
    Case("one-element-tuples", (1, 3, 9, 9), (4, 3, 3, 3), {"padding": (1,), "stride": (2,), "dilation": (1,)}),
]

# torch warns that it copies the input for an even kernel's padding.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def tensors(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(case.x), rng.standard_normal(case.w), rng.standard_normal(case.w[0])


def torch_conv2d(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **args: Any) -> np.ndarray:
    x, w, b = (None if a is None else torch.from_numpy(a) for a in (x, w, b))
    return F.conv2d(x, w, b, **args).numpy()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_as_torch(case: Case) -> None:
    x, w, b = tensors(case)
    expected = torch_conv2d(x, w, b, **case.args)
    for form in (conv2d, conv2d_plain) if expected.size < 3000 else (conv2d,):
        y = form(x, w, b, **case.args)
        assert y.dtype == np.float64
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_exact_on_small_integers(case: Case) -> None:
    rng = np.random.default_rng(1)
    x, w = (rng.integers(-3, 4, shape).astype(np.float32) for shape in (case.x, case.w))
    expected = torch_conv2d(x.astype(np.float64), w.astype(np.float64), **case.args)
    np.testing.assert_array_equal(conv2d(x, w, **case.args), expected)
    if expected.size < 3000:
        np.testing.assert_array_equal(conv2d_plain(x, w, **case.args), expected)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_float32(case: Case) -> None:
    x, w, b = (a.astype(np.float32) for a in tensors(case))
    y = conv2d(x, w, b, **case.args, dtype=np.float32)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, conv2d(x, w, b, **case.args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pads", [((0, 1), (0, 1)), ((2, 0), (1, 3)), ((1, 1), (0, 2))], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_asymmetric_padding_is_pad_then_conv(pads: tuple, stride: int) -> None:
    (top, bottom), (left, right) = pads
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 7, 6)), rng.standard_normal((4, 3, 3, 2))
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom)).numpy()
    expected = torch_conv2d(padded, w, stride=stride)
    for form in (conv2d, conv2d_plain):
        np.testing.assert_allclose(form(x, w, stride=stride, padding=pads), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("form", [conv2d, conv2d_plain])
def test_epilogue_adds_bias_and_residual_before_the_activation(form: Any, activation: str | None) -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 3, 6, 5)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    residual = 4 * rng.standard_normal((2, 4, 4, 3))
    act = {None: lambda t: t, "relu": torch.relu, "relu6": F.relu6}[activation]
    expected = act(torch.from_numpy(torch_conv2d(x, w, b) + residual)).numpy()
    np.testing.assert_allclose(
        form(x, w, b, activation=activation, residual=residual), expected, rtol=1e-12, atol=1e-12
    )


def test_blocks_of_rows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4, 9, 7)), rng.standard_normal((6, 2, 3, 3))
    whole = conv2d(x, w, padding=1, groups=2)
    module = sys.modules["convatlas.reference.conv2d"]  # the package's attribute of that name is the function
    for size in (1, 4 * 9 * 7 * 8 * 2):  # one row at a time, two rows at a time
        monkeypatch.setattr(module, "BLOCK_BYTES", size)
        np.testing.assert_allclose(conv2d(x, w, padding=1, groups=2), whole, rtol=1e-12, atol=1e-12)


def test_memory_beyond_the_output_is_one_image_and_one_block() -> None:
    x, w = np.ones((8, 16, 64, 64), np.float32), np.ones((16, 16, 3, 3), np.float32)
    tracemalloc.start()
    y = conv2d(x, w, padding=1, dtype=np.float32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    block = sys.modules["convatlas.reference.conv2d"].BLOCK_BYTES
    image = 4 * 16 * 66 * 66
    assert peak < y.nbytes + 2 * image + 2 * block  # im2col of all of it at once would be 9 * x.nbytes
    assert 9 * x.nbytes > 3 * (y.nbytes + 2 * image + 2 * block)


def test_strided_and_integer_inputs() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-4, 5, (2, 6, 5, 3)), rng.integers(-4, 5, (2, 3, 2, 3))
    nhwc, krsc = x.transpose(0, 3, 1, 2), w.transpose(0, 3, 1, 2)
    expected = torch_conv2d(*(np.ascontiguousarray(a, np.float64) for a in (nhwc, krsc)))
    np.testing.assert_array_equal(conv2d(nhwc, krsc), expected)


# Padding is a zero times a weight, so infinite and NaN weights make NaN at the border too. torch's float64 convolution
# does the same; its float32 depthwise one (oneDNN) skips the padding instead.
SPECIAL_CASES = [
    Case("dense", (2, 3, 5, 6), (4, 3, 3, 3), {"padding": 1}),
    Case("pointwise", (2, 4, 5, 6), (4, 4, 1, 1)),
    Case("grouped", (2, 4, 5, 6), (6, 2, 3, 3), {"padding": 1, "groups": 2}),
    Case("depthwise", (2, 4, 5, 6), (8, 1, 3, 3), {"padding": 1, "groups": 4}),
    Case("strided", (2, 3, 7, 6), (4, 3, 3, 3), {"padding": 1, "stride": 2, "dilation": 2}),
]


@pytest.mark.parametrize("case", SPECIAL_CASES, ids=lambda c: c.id)
@pytest.mark.parametrize("where", ["input", "weight", "both", "bias"])
@pytest.mark.filterwarnings("error")
def test_nan_and_infinity_go_where_torch_sends_them(case: Case, where: str) -> None:
    for seed, special in enumerate((np.nan, np.inf, -np.inf)):
        rng = np.random.default_rng(seed)
        x, w, b = tensors(case, seed)
        for a, hit in ((x, where in ("input", "both")), (w, where in ("weight", "both")), (b, where == "bias")):
            if hit:
                places = rng.choice(a.size, max(2, a.size // 20), replace=False)
                a.flat[places] = np.resize([special, -special], places.size)
        if where == "both":
            x.flat[rng.choice(x.size, 5, replace=False)] = 0  # infinity times zero
        expected = torch_conv2d(x, w, b, **case.args)
        assert not np.isfinite(expected).all()
        for form in (conv2d, conv2d_plain):
            np.testing.assert_allclose(form(x, w, b, **case.args), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shapes", "args", "message"),
    [
        (((3, 4, 4), (2, 3, 1, 1)), {}, r"input of shape \(3, 4, 4\), expected \(N, C, H, W\)"),
        (((1, 3, 4, 4), (2, 4, 1, 1)), {}, r"C=3 channels.*expects 4"),
        (((1, 3, 4, 4), (2, 3, 5, 1)), {}, r"5x1 kernel.*4x4 input"),
        (((1, 3, 4, 4), (2, 3, 1, 1)), {"stride": True}, r"stride=True, expected an int"),
        (((1, 3, 4, 4), (2, 3, 1, 1)), {"bias": np.zeros(3)}, r"bias of shape \(3,\), expected \(2,\)"),
        (
            ((1, 3, 4, 4), (2, 3, 1, 1)),
            {"residual": np.zeros((1, 2, 4, 5))},
            r"residual of shape \(1, 2, 4, 5\), expected \(1, 2, 4, 4\)",
        ),
        (
            ((1, 3, 4, 4), (2, 3, 1, 1)),
            {"activation": "tanh"},
            r"unknown activation 'tanh', expected one of None, relu",
        ),
    ],
    ids=["rank", "channels", "kernel", "bool", "bias", "residual", "activation"],
)
@pytest.mark.parametrize("form", [conv2d, conv2d_plain])
def test_errors_show_both_sides(form: Any, shapes: tuple, args: dict, message: str) -> None:
    with pytest.raises((ShapeError, ArgumentError), match=message):
        form(*(np.zeros(shape) for shape in shapes), **args)
