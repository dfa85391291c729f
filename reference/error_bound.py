"""The one error bound, and the one function that holds a kernel's output to it. docs/numerics.md derives every term.

Elementwise, with A the truth's magnitude and S its spread:

    |y - ref| <= inner + u_out * (|ref| + inner) + (stores - 1) * u_out * A + eta
    inner and A times the activation's Lipschitz constant, and inner plus what the activation itself rounds
    inner = u_acc * (C * sqrt(L) + roundings) * A        the accumulator's roundings, a random walk of L steps
          + u_acc * DRIFT * L * S                        tensor cores only: they cut off, and so drift towards zero
          + 2 * 2^-10 * A                                tf32 only: both factors cut to 10 explicit mantissa bits
          + inherited                                    of a block's last part: what its operands are off by (reference/block.py)
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

CHUNK = 1 << 18  # elements at a time: what is computed of them stays in the cache

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
        exact: y must be the truth rounded once to dtype, as the store rounds it. For inputs that are small integers, so that the
            accumulator holds every sum exactly. An activation that rounds (silu) may err by what it rounds, and no more.
        stores: how often the result is rounded to dtype, where a library stores the convolution and adds the bias later.

    Where the truth is NaN, y must be NaN; where it is an infinity, y must be the same one. An infinity is also right where the
    truth plus its bound overflows the output dtype. Raises DtypeError for an unknown dtype.
    """
    y = np.asarray(y)
    law = Law(truth, dtype, accumulate or ("float64" if dtype == "float64" else "float32"), tf32, stores, exact)
    if y.shape != truth.value.shape:
        detail = f"{truth.op}: y of shape {y.shape}, expected {truth.value.shape}"
        return Report(False, np.inf, np.inf, None, np.nan, np.nan, detail, y.size)
    if y.size == 0:
        return Report(True, 0.0, 0.0, None, np.nan, np.nan, "", 0)
    if (exact and truth.activation is None) or truth.exact:
        return _exactly(y.astype(np.float64), truth, dtype)

    flat_y, flat_ref = y.reshape(-1), truth.value.reshape(-1)
    worst, at, limit = -1.0, 0, 0.0
    squares, T1, T2, Tmax = 0.0, 0.0, 0.0, 0.0
    for start in range(0, y.size, CHUNK):
        part = slice(start, start + CHUNK)
        got, ref = flat_y[part].astype(np.float64), flat_ref[part]
        bound, sigma = law(part)
        ratio, error = _ratios(got, ref, bound, dtype)
        i = int(np.argmax(ratio))
        if ratio[i] > worst:
            worst, at, limit = float(ratio[i]), start + i, float(bound[i])
        usual = np.isfinite(error)
        error, variance = error[usual], sigma[usual] ** 2
        squares, T1, T2 = squares + error @ error, T1 + variance.sum(), T2 + variance @ variance
        Tmax = max(Tmax, variance.max(initial=0.0))
    t = C * C / 2
    allowed = T1 + 2 * np.sqrt(T2 * t) + 2 * Tmax * t  # Hsu, Kakade, Zhang 2012
    rms = float(np.sqrt(squares / allowed)) if allowed > 0 else 0.0

    where = tuple(int(k) for k in np.unravel_index(at, y.shape))
    got, expected = float(flat_y[at]), float(flat_ref[at])
    detail = ""
    if worst > 1:
        detail = _line(truth.op, where, got, f"{expected:.9g} +- {limit:.3g}", f"{worst:.3g} x the bound")
    elif rms > 1:
        detail = f"{truth.op}: root mean square error {rms:.3g} x its bound, over {y.size} elements"
    return Report(not detail, worst, rms, where, got, expected, detail, y.size)


class Law:
    """The bounds of the elements of one truth, a flat slice at a time."""

    def __init__(self, truth: Truth, dtype: str, accumulate: str, tf32: bool, stores: int, exact: bool) -> None:
        self.ref, self.A, self.S = (a.reshape(-1) for a in (truth.value, truth.magnitude, truth.spread))
        self.L, self.roundings, self.stores = truth.length, truth.roundings, stores
        out, acc = format_of(dtype), format_of(accumulate)
        self.activation, self.lipschitz = truth.activation, 0.0 if exact else truth.lipschitz
        self.before = None if truth.before is None else truth.before.reshape(-1)
        self.u_activation, self.tiny = acc.unit_roundoff, 2.0**acc.emin
        # Tensor cores multiply matrices; every other op adds in plain float32 arithmetic, which rounds to nearest.
        tensor_core = truth.products and accumulate == "float32" and (tf32 or dtype in ("float16", "bfloat16"))
        self.u_acc = acc.unit_roundoff * (2 if tensor_core else 1)
        # What is selected has been rounded before, and rounds to itself.
        self.u_out = 0.0 if truth.selects else out.unit_roundoff
        self.drift = DRIFT * self.L if tensor_core else 0.0
        self.cut = TF32_CUT if tf32 else 0.0
        self.eta = 0.0 if truth.selects else out.smallest_subnormal / 2 + self.L * acc.smallest_subnormal / 2
        # Partial sums hold what the operands are off by as well.
        self.inherited, self.inherited_sigma = np.ravel(truth.inherited), np.ravel(truth.inherited_sigma)

    def __call__(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """(what an error may be, its standard deviation where the terms come in no particular order)."""
        inherited, sigma = (x[part] if len(x) > 1 else x for x in (self.inherited, self.inherited_sigma))
        A, S, ref = self.A[part] + inherited, self.S[part] + sigma, np.abs(self.ref[part])
        ref = np.where(np.isfinite(ref), ref, 0.0)
        root, cut = np.sqrt(self.L), self.cut

        own, lip = self._activation(part), self.lipschitz
        summed = self.u_acc * ((C * root + self.roundings) * A + self.drift * S)
        inner = lip * (summed + (2 + cut) * cut * A + inherited) + own
        bound = inner + self.u_out * (ref + inner + lip * (self.stores - 1) * A) + self.eta

        inner = lip * (self.u_acc * ((root + self.drift) * S + self.roundings * A) + 2 * cut * S + sigma) + own
        sigma = inner + self.u_out * (ref + inner + lip * (self.stores - 1) * np.minimum(A, 2 * S)) + self.eta
        return bound, sigma

    def _activation(self, part: slice) -> np.ndarray | float:
        """What the activation itself may add: its roundings, and underflow, or e^-v's overflow, which makes 0 of what is tiny."""
        if self.activation is None:
            return 0.0
        v, y = self.before[part], self.ref[part]
        with np.errstate(invalid="ignore", over="ignore"):
            own = self.u_activation * self.activation.roundings(v, y) + (1 + np.abs(v)) * self.tiny
        return np.where(np.isfinite(own), own, 0.0)


def _ratios(y: np.ndarray, ref: np.ndarray, bound: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(|error| / bound, |error|). Where y or ref is not finite: (0 if y is right, else infinity, NaN)."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(y - ref)
        ratio = error / bound
        special = ~np.isfinite(error)
        if special.any():
            overflow = (y == round_to(ref + np.copysign(bound, ref), dtype)) & np.isinf(y)
            right = (y == ref) | (np.isnan(y) & np.isnan(ref)) | overflow
            ratio[special] = np.where(right[special], 0.0, np.inf)
            error[special] = np.nan
    return ratio, error


def _exactly(y: np.ndarray, truth: Truth, dtype: str) -> Report:
    """Compares y with the truth rounded to dtype, to the last bit but for the sign of a zero."""
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
