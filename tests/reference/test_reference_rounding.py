"""round_to against torch's casts, NumPy's, and the halfway cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convatlas import DtypeError
from convatlas.reference import round_to
from convatlas.reference.rounding import FORMATS

DTYPES = ("float32", "float16", "bfloat16")


def same(a: np.ndarray, b: np.ndarray) -> None:
    """Equal, the signs of zeros included."""
    np.testing.assert_array_equal(a, b)
    numbers = ~np.isnan(b)
    np.testing.assert_array_equal(np.signbit(a[numbers]), np.signbit(b[numbers]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_as_torch_on_random_float32_bits(dtype: str) -> None:
    """From float32, which torch rounds once; from float64 it goes through float32 and rounds twice."""
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, np.uint32)
    x = bits.view(np.float32)
    expected = torch.from_numpy(x).to(getattr(torch, dtype)).double().numpy()
    same(round_to(x, dtype), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_as_numpy_on_random_float64(dtype: str) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**64, 200_000, np.uint64).view(np.float64)
    x = np.concatenate([bits, rng.standard_normal(200_000) * 2.0 ** rng.integers(-160, 130, 200_000)])
    with np.errstate(all="ignore"):
        expected = x.astype(dtype).astype(np.float64)
    same(round_to(x, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_16_bit_number_and_what_lies_between(dtype: str) -> None:
    """Numbers of the format stay; a quarter of the way stays too; halfway goes to the even one; three quarters goes up."""
    fmt = FORMATS[dtype]
    unit, first = fmt.smallest_subnormal, 2 ** (fmt.precision - 1)
    significands = np.arange(first, 2 * first - 1, max(1, first // 1024))
    for scale in (0, 1, 5, fmt.emax - fmt.emin):  # the lowest binade, ..., the highest
        step = unit * 2.0**scale
        low = significands * step
        same(round_to(low, dtype), low)
        same(round_to(low + step / 4, dtype), low)
        same(round_to(-(low + step * 3 / 4), dtype), -(low + step))
        same(round_to(low + step / 2, dtype), np.where(significands % 2 == 0, low, low + step))


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_and_underflow(dtype: str) -> None:
    fmt = FORMATS[dtype]
    half_way = fmt.largest * (1 + 2.0 ** -(fmt.precision + 1) / (1 - 2.0**-fmt.precision))
    tiny = fmt.smallest_subnormal
    x = np.array([fmt.largest, np.nextafter(half_way, 0), half_way, -half_way, tiny / 2, tiny * 0.5000001, -tiny / 2])
    same(round_to(x, dtype), np.array([fmt.largest, fmt.largest, np.inf, -np.inf, 0.0, tiny, -0.0]))
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
    same(round_to(special, dtype), special)


def test_one_rounding_where_float32_between_would_make_two() -> None:
    """1 + 2^-8 is the middle of two bfloat16 numbers; a little above it must round up, though not in float32."""
    x = np.array([1 + 2.0**-8 + 2.0**-40])
    assert round_to(x, "bfloat16") == 1 + 2.0**-7
    assert torch.from_numpy(x).bfloat16().item() == 1.0


def test_float64_is_untouched() -> None:
    x = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64).view(np.float64)
    same(round_to(x, "float64"), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_constants_are_torchs(dtype: str) -> None:
    info, fmt = torch.finfo(getattr(torch, dtype)), FORMATS[dtype]
    assert fmt.unit_roundoff == info.eps / 2
    assert fmt.largest == info.max
    assert fmt.smallest_subnormal == info.smallest_normal * info.eps


def test_unknown_dtype() -> None:
    with pytest.raises(DtypeError, match="dtype 'int8' is not one of"):
        round_to(np.zeros(1), "int8")
