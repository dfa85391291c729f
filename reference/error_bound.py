"""The one error bound, and the one function that holds a kernel's output to it. docs/numerics.md derives every term.

Elementwise, with A the truth's magnitude and S its spread:

    |y - ref| <= inner + u_out * (|ref| + inner) + (stores - 1) * u_out * A + eta
    inner = u_acc * (C * sqrt(L) + roundings) * A        the accumulator's roundings, a random walk of L steps
          + u_acc * DRIFT * L * S                        tensor cores only: they cut off, and so drift towards zero
          + 2 * 2^-10 * A                                tf32 only: both factors cut to 10 explicit mantissa bits
    eta   = half the smallest subnormal of the output, and of the accumulator once a term

Over the tensor, where the terms of the sums come in no particular order, the sum of squares, each element's share

    sigma = the same with inner = u_acc * ((sqrt(L) + DRIFT * L) * S + roundings * A) + 2 * 2^-10 * S

    sum |y - ref|^2 <= T1 + 2 * sqrt(T2 * t) + 2 * Tmax * t,     t = C^2 / 2

with T1, T2 and Tmax the sum, the sum of squares and the maximum of sigma^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convatlas.reference.rounding import format_of, round_to
from convatlas.reference.truth import Truth

# lambda of the probabilistic bound: one output breaks it with probability at most 2 * exp(-C^2 / 2) = 2.5e-14, so a billion
# outputs checked give a false alarm with probability 2.5e-5 (Higham, Mary 2019; Connolly, Higham, Mary 2021).
C = 8.0

# A tensor core aligns a block of b products and the running sum to the largest of them, keeps e bits beyond float32's,
# cuts the rest off, adds, and cuts the sum to float32. What is cut off is half a unit on average: of the sum once a block,
# of each product in its 2^-e-th part. (b, e) is (4, 1) for tf32 on the A100, the worst in use; (8, 1) for half precision
# there, (16, 2) on the H100 and B200 (Fasi, Higham, Mikaitis, Pranesh 2021; Khattak, Mikaitis 2025).
DRIFT = (1 / 4 + 2.0**-1) / 2

TF32_CUT = 2.0**-10  # truncation to 10 explicit mantissa bits; rounding to nearest would be half of it


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        ok: every element and the root mean square are within their bounds.
        worst: the largest |error| / bound; infinity for a NaN, an infinity or an inexact element out of place.
        rms: root mean square error / its bound; 0 where all is exact.
        where: index of the worst element, None for an empty tensor or one of the wrong shape.
        got, expected: the output and the truth there.
        detail: one line that says what is wrong; empty when ok.
        count: elements checked.
    """

    ok: bool
    worst: float
    rms: float
    where: tuple[int, ...] | None
    got: float
    expected: float
    detail: str
    count: int


def check(
    y: np.ndarray,
    truth: Truth,
    *,
    dtype: str,
    accumulate: str | None = None,
    tf32: bool = False,
    exact: bool = False,
    stores: int = 1,
) -> Report:
    """Holds a kernel's output y to the truth.

    Args:
        y: the output, in any float dtype that holds it exactly (bfloat16 comes as float32).
        dtype: what the kernel stored: "float32", "float16", "bfloat16" or "float64".
        accumulate: what it summed in; None is "float64" for float64 outputs and "float32" for the rest.
        tf32: the kernel cuts its factors to tf32.
        exact: no rounding but the store's is allowed: y must be the truth rounded to dtype. For inputs that are small
            integers, of which every sum is a number of the accumulator.
        stores: how often the result is rounded to dtype, where a library stores the convolution and adds the bias later.

    A NaN must stand where the truth has one, and an infinity where it has the same, or where the bound reaches so far
    that the output dtype overflows. Raises DtypeError for an unknown dtype.
    """
    y = np.asarray(y, np.float64)
    accumulate = accumulate or ("float64" if dtype == "float64" else "float32")
    bounds = _bounds(truth, dtype, accumulate, tf32, stores)
    if y.shape != truth.value.shape:
        detail = f"{truth.op}: y of shape {y.shape}, expected {truth.value.shape}"
        return Report(False, np.inf, np.inf, None, np.nan, np.nan, detail, y.size)
    if y.size == 0:
        return Report(True, 0.0, 0.0, None, np.nan, np.nan, "", 0)
    if exact or truth.exact:
        return _exactly(y, truth, dtype)

    ref = truth.value
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        bound, deviation = bounds
        error = np.abs(y - ref)
        ratio = error / bound
        ratio[error == 0] = 0.0
        special = ~(np.isfinite(y) & np.isfinite(ref))
        if special.any():
            overflow = (y == round_to(ref + np.copysign(bound, ref), dtype)) & np.isinf(y)
            right = (y == ref) | (np.isnan(y) & np.isnan(ref)) | overflow
            ratio[special] = np.where(right[special], 0.0, np.inf)
            error, deviation = error[~special], deviation[~special]
        rms = _rms_ratio(error, deviation)
    where = tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
    worst, got, expected = float(ratio[where]), float(y[where]), float(ref[where])
    detail = ""
    if worst > 1:
        detail = _line(truth.op, where, got, f"{expected:.9g} +- {bound[where]:.3g}", f"{worst:.3g} x the bound")
    elif rms > 1:
        detail = f"{truth.op}: root mean square error {rms:.3g} x its bound, over {error.size} elements"
    return Report(not detail, worst, rms, where, got, expected, detail, y.size)


def _bounds(truth: Truth, dtype: str, accumulate: str, tf32: bool, stores: int) -> tuple[np.ndarray, np.ndarray]:
    """(what an element's error may be, the standard deviation it may have where the terms come in no particular order)."""
    out, acc = format_of(dtype), format_of(accumulate)
    A, S, L = truth.magnitude, truth.spread, truth.length
    ref = np.where(np.isfinite(truth.value), np.abs(truth.value), 0.0)
    tensor_core = accumulate == "float32" and (tf32 or dtype in ("float16", "bfloat16"))
    u_acc = acc.unit_roundoff * (2 if tensor_core else 1)
    cut = TF32_CUT if tf32 else 0.0
    drift = DRIFT * L if tensor_core else 0.0
    tiny = L * acc.smallest_subnormal / 2
    u = out.unit_roundoff

    inner = u_acc * ((C * np.sqrt(L) + truth.roundings) * A + drift * S) + (2 + cut) * cut * A + tiny
    bound = inner + u * (ref + inner) + (stores - 1) * u * A + out.smallest_subnormal / 2

    inner = u_acc * ((np.sqrt(L) + drift) * S + truth.roundings * A) + 2 * cut * S + tiny
    deviation = inner + u * (ref + inner) + (stores - 1) * u * np.minimum(A, 2 * S) + out.smallest_subnormal / 2
    return bound, deviation


def _rms_ratio(error: np.ndarray, deviation: np.ndarray) -> float:
    """The root of the sum of squared errors over its bound (Hsu, Kakade, Zhang 2012)."""
    variance = deviation * deviation
    t = C * C / 2
    allowed = variance.sum() + 2 * np.sqrt((variance * variance).sum() * t) + 2 * variance.max(initial=0.0) * t
    return float(np.sqrt((error * error).sum() / allowed)) if allowed > 0 else 0.0


def _exactly(y: np.ndarray, truth: Truth, dtype: str) -> Report:
    """y against the truth rounded to dtype, to the last bit (the sign of a zero aside)."""
    expected = round_to(truth.value, dtype)
    wrong = ~((y == expected) | (np.isnan(y) & np.isnan(expected)))
    where = tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
    got, want = float(y[where]), float(expected[where])
    if not wrong[where]:
        return Report(True, 0.0, 0.0, where, got, want, "", y.size)
    detail = _line(truth.op, where, got, f"{want:.9g} exactly", f"{int(wrong.sum())} of {y.size} elements differ")
    return Report(False, np.inf, np.inf, where, got, want, detail, y.size)


def _line(op: str, where: tuple[int, ...], got: float, expected: str, how: str) -> str:
    return f"{op}: y[{', '.join(map(str, where))}] = {got:.9g}, expected {expected} ({how})"
