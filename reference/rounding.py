"""Rounding to the floating-point formats of the kernels, bfloat16 included, in float64 arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convatlas.errors import DtypeError


@dataclass(frozen=True)
class Format:
    """A binary floating-point format (IEEE 754-2019, section 3.3).

    Attributes:
        precision: significand bits, the hidden one included.
        emax: exponent of the largest binade; emin is 1 - emax.
    """

    precision: int
    emax: int

    @property
    def emin(self) -> int:
        return 1 - self.emax

    @property
    def unit_roundoff(self) -> float:
        """u = 2^-p: rounding to nearest is off by at most u relatively, in the normal range (Higham, theorem 2.2)."""
        return 2.0**-self.precision

    @property
    def smallest_subnormal(self) -> float:
        return 2.0 ** (self.emin - self.precision + 1)

    @property
    def largest(self) -> float:
        return (2.0 - 2.0 ** (1 - self.precision)) * 2.0**self.emax


FORMATS = {
    "float64": Format(53, 1023),
    "float32": Format(24, 127),
    "tf32": Format(11, 127),
    "bfloat16": Format(8, 127),
    "float16": Format(11, 15),
}


def format_of(dtype: str) -> Format:
    """The format of that name. Raises DtypeError for an unknown one."""
    if dtype not in FORMATS:
        raise DtypeError(f"dtype {dtype!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[dtype]


def round_to(x: np.ndarray, dtype: str) -> np.ndarray:
    """The float64 array x rounded to `dtype`: to nearest, ties to even, subnormals kept, overflow to infinity.

    One rounding, not two: x is scaled by a power of two, which is exact, so that the format's spacing becomes 1; rint
    rounds; and the scaling is undone. Going through float32 instead would round twice, and a value just above the middle
    of two bfloat16 numbers can fall on the middle first and then to the wrong side. Raises DtypeError.
    """
    fmt = format_of(dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is wanted, and so are signalling NaNs
        x = np.asarray(x, np.float64)
        _, exponent = np.frexp(x)  # x = m * 2^exponent, 1/2 <= |m| < 1
        spacing = np.maximum(exponent - 1, fmt.emin) - (fmt.precision - 1)
        y = np.ldexp(np.rint(np.ldexp(x, -spacing)), spacing)
    return np.where(np.abs(y) > fmt.largest, np.copysign(np.inf, x), y)
