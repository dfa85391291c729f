"""The error bound holds for right arithmetic of every kind and finds what a wrong kernel does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convatlas import DtypeError
from convatlas.reference import Truth, check, round_to, truth
from convatlas.reference.error_bound import DRIFT, TF32_CUT, C
from convatlas.specs import Conv2dSpec, Epilogue, LinearSpec

HALVES = ("float16", "bfloat16")
DTYPES = ("float32", *HALVES)


# ---- simulated kernels: each takes the products (outputs, L), in float64, and sums them its own way


def in_order(products: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """One after the other, every partial sum rounded to `dtype`."""
    total = np.zeros(products.shape[:-1], dtype)
    for i in range(products.shape[-1]):
        total = (total + products[..., i].astype(dtype)).astype(dtype)
    return total.astype(np.float64)


def cut(x: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """To a multiple of `unit`, towards zero."""
    return np.trunc(x / unit) * unit


def unit_of(x: np.ndarray, bits: int) -> np.ndarray:
    """The spacing of numbers of `bits` bits around x."""
    return 2.0 ** (np.frexp(x)[1] - bits)


@dataclass(frozen=True)
class TensorCore:
    """Adds `block` products at a time to a float32 sum, keeping `extra` bits beyond float32's and cutting off the rest."""

    id: str
    block: int
    extra: int

    def __call__(self, products: np.ndarray) -> np.ndarray:
        total = np.zeros(products.shape[:-1])
        for i in range(0, products.shape[-1], self.block):
            terms = np.concatenate([total[..., None], products[..., i : i + self.block]], axis=-1)
            total = cut(terms, unit_of(np.abs(terms).max(axis=-1, keepdims=True), 24 + self.extra)).sum(axis=-1)
            total = cut(total, unit_of(total, 24))
        return total


# Khattak, Mikaitis 2025, "Accurate models of NVIDIA tensor cores".
A100, A100_TF32 = TensorCore("A100", 8, 1), TensorCore("A100-tf32", 4, 1)
H100, H100_TF32 = TensorCore("H100", 16, 2), TensorCore("H100-tf32", 8, 2)


def to_tf32(x: np.ndarray) -> np.ndarray:
    """The last 13 bits of a float32 dropped."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def problem(
    L: int, signs: str, dtype: str = "float16", M: int = 24, K: int = 16
) -> tuple[np.ndarray, np.ndarray, Truth]:
    """(the products in random order, inputs, truth) of a linear layer: both factors mixed, or x or both positive."""
    rng = np.random.default_rng(L)
    x, w = rng.standard_normal((M, L)), rng.standard_normal((K, L))
    x = np.abs(x) if signs != "mixed" else x
    w = np.abs(w) if signs == "positive" else w
    x, w = round_to(x, dtype), round_to(w, dtype)
    order = rng.permutation(L)
    return x[:, order], w[:, order], truth("linear", LinearSpec.of(x.shape, w.shape), None, {"input": x, "weight": w})


SIZES = pytest.mark.parametrize("L", [1, 27, 576, 4608])
SIGNS = pytest.mark.parametrize("signs", ["mixed", "relu-input", "positive"])


def products(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return x[:, None] * w[None]


@SIZES
@SIGNS
@pytest.mark.parametrize("dtype", DTYPES)
def test_float32_sums_pass(L: int, signs: str, dtype: str) -> None:
    x, w, expected = problem(L, signs)
    report = check(round_to(in_order(products(x, w)), dtype), expected, dtype=dtype)
    assert report.ok, report.detail
    assert report.count == 24 * 16


@SIZES
@SIGNS
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("core", [A100, H100], ids=lambda c: c.id)
def test_tensor_core_sums_pass(core: TensorCore, L: int, signs: str, dtype: str) -> None:
    x, w, expected = problem(L, signs, dtype)
    report = check(round_to(core(products(x, w)), dtype), expected, dtype=dtype)
    assert report.ok, report.detail


@SIZES
@SIGNS
@pytest.mark.parametrize("core", [A100_TF32, H100_TF32], ids=lambda c: c.id)
def test_tf32_passes_only_where_it_is_announced(core: TensorCore, L: int, signs: str) -> None:
    x, w, expected = problem(L, signs, "float32")
    y = core(products(to_tf32(x), to_tf32(w)))
    report = check(y, expected, dtype="float32", tf32=True)
    assert report.ok, report.detail
    assert check(y, expected, dtype="float32").rms > 20


@SIZES
@SIGNS
def test_torch_passes(L: int, signs: str) -> None:
    x, w, expected = problem(L, signs, "float32")
    y = F.linear(torch.from_numpy(x).float(), torch.from_numpy(w).float()).numpy()
    report = check(y, expected, dtype="float32")
    assert report.ok, report.detail


@pytest.mark.parametrize("L", [27, 576, 4608])
@SIGNS
@pytest.mark.parametrize("accumulator", ["float16", "bfloat16"])
def test_an_accumulator_of_half_precision_is_found(L: int, signs: str, accumulator: str) -> None:
    x, w, expected = problem(L, signs)
    if accumulator == "float16":
        y = in_order(products(x, w), np.float16)
    else:
        y = np.zeros((24, 16))
        for i in range(L):
            y = round_to(y + x[:, i][:, None] * w[:, i], "bfloat16")
    assert not check(round_to(y, "float16"), expected, dtype="float16").ok


@SIGNS
@pytest.mark.parametrize("dtype", HALVES)
def test_a_store_that_cuts_off_is_found(signs: str, dtype: str) -> None:
    *_, expected = problem(64, signs, dtype)
    exact = expected.value
    y = round_to(exact, dtype)
    step = np.abs(exact) * 2.0 ** (-7 if dtype == "bfloat16" else -10)
    y = np.where(np.abs(y) > np.abs(exact), round_to(exact - np.copysign(step / 2, exact), dtype), y)
    assert (np.abs(y) <= np.abs(exact)).all()
    assert not check(y, expected, dtype=dtype).ok


# ---- a convolution with bias and residual, and one mistake at a time

SHAPE, WEIGHT, ARGS = (2, 9, 8, 7), (6, 9, 3, 3), {"stride": 2, "padding": 1}


def convolution(dtype: str, activation: str | None = "relu") -> tuple[dict[str, np.ndarray], Truth]:
    rng = np.random.default_rng(0)
    spec = Conv2dSpec.of(SHAPE, WEIGHT, **ARGS)
    shapes = {"input": SHAPE, "weight": WEIGHT, "bias": (6,), "residual": spec.output_shape}
    arrays = {name: round_to(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    return arrays, truth("conv2d", spec, Epilogue(True, activation, True), arrays)


def computed(arrays: dict[str, np.ndarray], dtype: str, **changed: Any) -> np.ndarray:
    """torch's float32 convolution, with `changed` arrays or parameters, stored in `dtype`."""
    a = {name: torch.from_numpy(np.ascontiguousarray(changed.get(name, x))).float() for name, x in arrays.items()}
    args = {name: changed.get(name, value) for name, value in ARGS.items()}
    y = torch.relu(F.conv2d(a["input"], a["weight"], a["bias"], **args) + a["residual"])
    return round_to(y.double().numpy(), dtype)


def without_tap(w: np.ndarray) -> np.ndarray:
    w = w.copy()
    w[:, 4, 1, 2] = 0
    return w


def swapped(w: np.ndarray) -> np.ndarray:
    return w[:, [1, 0, *range(2, w.shape[1])]]


MISTAKES: dict[str, Callable[[dict[str, np.ndarray]], dict[str, Any]]] = {
    "missing-tap": lambda a: {"weight": without_tap(a["weight"])},
    "swapped-input-channels": lambda a: {"weight": swapped(a["weight"])},
    "swapped-output-channels": lambda a: {"bias": a["bias"][::-1]},
    "transposed-kernel": lambda a: {"weight": a["weight"].transpose(0, 1, 3, 2)},
    "flipped-kernel": lambda a: {"weight": a["weight"][..., ::-1]},
    "no-bias": lambda a: {"bias": 0 * a["bias"]},
    "no-residual": lambda a: {"residual": 0 * a["residual"]},
    "image-of-another-batch": lambda a: {"input": a["input"][::-1]},
    "shifted-by-a-pixel": lambda a: {"input": np.roll(a["input"], 1, axis=3)},
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_convolution_passes(dtype: str) -> None:
    arrays, expected = convolution(dtype)
    report = check(computed(arrays, dtype), expected, dtype=dtype)
    assert report.ok, report.detail
    assert 0 < report.worst <= 1
    assert 0 < report.rms <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, dtype: str) -> None:
    arrays, expected = convolution(dtype)
    report = check(computed(arrays, dtype, **MISTAKES[mistake](arrays)), expected, dtype=dtype)
    assert report.worst > 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_element_is_found_and_named(dtype: str) -> None:
    _, expected = convolution(dtype, activation=None)
    y = expected.value.copy()
    where = (1, 3, 2, 1)
    y[where] += 1e-6
    bound = 1e-6 / check(y, expected, dtype=dtype).worst
    y[where] = expected.value[where] + 8 * bound
    report = check(y, expected, dtype=dtype)
    assert not report.ok
    assert report.worst == pytest.approx(8, rel=1e-6)
    assert report.where == where
    assert (report.got, report.expected) == (y[where], expected.value[where])
    assert report.detail.startswith("conv2d: y[1, 3, 2, 1] = ")
    assert report.detail.endswith("(8 x the bound)")


def test_a_library_that_stores_between_its_steps_needs_its_stores_counted() -> None:
    """The convolution rounded to float16, then the bias added and rounded, then the residual."""
    rng = np.random.default_rng(0)
    spec = Conv2dSpec.of((4, 16, 9, 9), (32, 16, 3, 3))
    shapes = {"input": spec.input_shape, "weight": spec.weight_shape, "bias": (32,), "residual": spec.output_shape}
    arrays = {name: round_to(rng.standard_normal(shape), "float16") for name, shape in shapes.items()}
    expected = truth("conv2d", spec, Epilogue(True, None, True), arrays)
    conv = truth("conv2d", spec, None, {name: arrays[name] for name in ("input", "weight")}).value
    y = round_to(round_to(conv, "float16") + arrays["bias"][:, None, None], "float16")
    y = round_to(y + arrays["residual"], "float16")
    assert not check(y, expected, dtype="float16").ok
    assert check(y, expected, dtype="float16", stores=3).ok


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_integers_must_be_exact(dtype: str) -> None:
    rng = np.random.default_rng(0)
    spec = Conv2dSpec.of(SHAPE, WEIGHT, **ARGS)
    arrays = {"input": rng.integers(-2, 3, SHAPE), "weight": rng.integers(-1, 2, WEIGHT)}
    expected = truth("conv2d", spec, None, arrays)
    y = round_to(expected.value, dtype)
    assert check(y, expected, dtype=dtype, exact=True).ok
    y[0, 1, 2, 3] += 2.0**-8
    report = check(y, expected, dtype=dtype, exact=True)
    assert report.worst == np.inf
    assert report.where == (0, 1, 2, 3)
    assert report.detail.endswith("exactly (1 of 192 elements differ)")


# ---- NaN, infinity, overflow, empty


def one(value: float, magnitude: float | None = None) -> Truth:
    A = np.array([abs(value) if magnitude is None else magnitude])
    return Truth("conv2d", np.array([value]), A, A, 9, 0, products=True)


inf, nan = np.inf, np.nan


@pytest.mark.parametrize(
    ("got", "value", "ok"),
    [
        (nan, nan, True),
        (inf, inf, True),
        (-inf, -inf, True),
        (0.0, nan, False),
        (inf, nan, False),
        (nan, inf, False),
        (-inf, inf, False),
        (65504.0, inf, False),
        (nan, 1.0, False),
        (inf, 1.0, False),
        (-inf, 1.0, False),
        (inf, 65520.0, True),  # the middle between 65504 and what would come next rounds to infinity
        (-inf, -65520.0, True),
        (-inf, 65520.0, False),
        (inf, 65519.9, True),  # within the bound of overflow
        (65504.0, 65519.9, True),
        (inf, 65000.0, False),
        (inf, 1e6, True),
        (65504.0, 1e6, False),
    ],
)
def test_nan_and_infinity_in_float16(got: float, value: float, ok: bool) -> None:
    report = check(np.array([got]), one(value, 0.0 if not np.isfinite(value) else None), dtype="float16")
    assert report.ok is ok
    assert ok or report.worst > 1
    assert bool(report.detail) is not ok


def test_one_nan_among_many_is_found() -> None:
    arrays, expected = convolution("float32")
    y = computed(arrays, "float32")
    y[1, 5, 3, 3] = nan
    report = check(y, expected, dtype="float32")
    assert report.worst == inf
    assert report.where == (1, 5, 3, 3)
    assert report.rms < 1  # of the rest


@pytest.mark.filterwarnings("error")
def test_infinite_inputs_leave_the_other_elements_checked() -> None:
    arrays, _ = convolution("float32")
    arrays["input"][0, 0, 0, 0] = inf
    expected = truth("conv2d", Conv2dSpec.of(SHAPE, WEIGHT, **ARGS), Epilogue(True, "relu6", True), arrays)
    assert set(expected.value[0, :, 0, 0]) <= {0.0, 6.0}  # infinity times a weight, through relu6
    assert not np.isnan(expected.value).any()
    y = expected.value.astype(np.float32)
    assert check(y, expected, dtype="float32").ok
    y[0, 0, 0, 0] += 2.0**-20
    assert check(y, expected, dtype="float32").where == (0, 0, 0, 0)


def test_empty_and_wrong_shapes() -> None:
    empty = Truth("linear", *[np.zeros((0, 3))] * 3, 5, 0, products=True)
    report = check(np.zeros((0, 3), np.float32), empty, dtype="float32")
    assert report.ok
    assert (report.worst, report.count, report.where) == (0, 0, None)
    report = check(np.zeros((3, 2)), one(1.0), dtype="float32")
    assert not report.ok
    assert report.detail == "conv2d: y of shape (3, 2), expected (1,)"
    with pytest.raises(DtypeError, match="dtype 'int8' is not one of"):
        check(np.zeros(1), one(1.0), dtype="int8")


def test_subnormal_outputs_have_the_spacing_of_subnormals() -> None:
    tiny = 2.0**-24  # float16's smallest
    assert check(np.array([tiny]), one(0.6 * tiny), dtype="float16").ok
    assert check(np.array([0.0]), one(0.4 * tiny), dtype="float16").ok
    assert not check(np.array([2 * tiny]), one(0.6 * tiny), dtype="float16").ok


def test_float64_is_checked_as_float64() -> None:
    arrays, expected = convolution("float64")
    a = {name: torch.from_numpy(x) for name, x in arrays.items()}
    y = torch.relu(F.conv2d(a["input"], a["weight"], a["bias"], **ARGS) + a["residual"]).numpy()
    assert check(y, expected, dtype="float64").ok
    assert not check(y * (1 + 1e-9), expected, dtype="float64").ok


def test_the_document_names_the_constants() -> None:
    text = (Path(__file__).parents[2] / "docs" / "numerics.md").read_text(encoding="utf-8")
    assert f"| C | {C:g} |" in text
    assert f"| DRIFT | {Fraction(DRIFT)} |" in text
    assert TF32_CUT == 2.0**-10
    assert "| TF32_CUT | 2⁻¹⁰ |" in text
