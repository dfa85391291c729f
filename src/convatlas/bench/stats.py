"""From samples to a verdict: medians, bootstrap intervals, and when two runs may be called different.

The bootstrap (Efron 1979, "Bootstrap methods: another look at the jackknife") draws as many samples as there are, with
replacement, and takes the statistic of each draw; the middle 99 % of those statistics is the interval. Nothing is assumed about
how times are distributed, which is as well: they are skewed, with a floor and a tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convatlas.errors import InputError

CONFIDENCE = 0.99
DRAWS = 2000
# What a difference must be to matter: repeated runs of one kernel in one process differ by 1 to 2 % through clocks alone.
THRESHOLD = 0.03
VERDICTS = ("faster", "slower", "same", "unsure")


@dataclass(frozen=True)
class Interval:
    """A median and the bootstrap interval around it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A against B.

    Attributes:
        ratio: median of A over median of B; below 1, A takes less time.
        low, high: the ratio's bootstrap interval.
        verdict: on A, one of VERDICTS.
    """

    ratio: float
    low: float
    high: float
    verdict: str


def _draws(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Medians of DRAWS resamplings."""
    picks = generator.integers(0, len(samples), (DRAWS, len(samples)))
    return np.median(samples[picks], axis=1)


def _checked(name: str, samples: Sequence[float]) -> np.ndarray:
    array = np.asarray(samples, np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all() or (array <= 0).any():
        raise InputError(f"{name}: {list(samples)[:5]}, expected at least one time, each finite and above 0")
    return array


def interval(samples: Sequence[float], seed: int = 0) -> Interval:
    """The median with its bootstrap interval. Raises InputError for no samples, or one that is no time."""
    array = _checked("samples", samples)
    low, high = np.quantile(_draws(array, np.random.default_rng(seed)), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.median(array)), float(low), float(high))


def compare(a: Sequence[float], b: Sequence[float], threshold: float = THRESHOLD, seed: int = 0) -> Comparison:
    """Whether A takes less time than B: statistically (the interval) and in practice (the threshold), or it is not said.

        faster   high < 1 and ratio < 1 / (1 + threshold)
        slower   low > 1 and ratio > 1 + threshold
        same     the whole interval lies within 1 / (1 + threshold) to 1 + threshold
        unsure   anything else: more samples are needed

    Raises InputError for no samples or a threshold that is not positive.
    """
    if not threshold > 0:
        raise InputError(f"threshold={threshold}, expected a fraction above 0, such as 0.03")
    first, second = _checked("a", a), _checked("b", b)
    generator = np.random.default_rng(seed)
    ratios = _draws(first, generator) / _draws(second, generator)
    low, high = (float(v) for v in np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    ratio = float(np.median(first) / np.median(second))
    return Comparison(ratio, low, high, verdict(ratio, low, high, threshold))


def verdict(ratio: float, low: float, high: float, threshold: float = THRESHOLD) -> str:
    """The rule of `compare`, for a ratio and its interval."""
    least, most = 1 / (1 + threshold), 1 + threshold
    if high < 1 and ratio < least:
        return "faster"
    if low > 1 and ratio > most:
        return "slower"
    if least <= low and high <= most:
        return "same"
    return "unsure"


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean that treats twice as fast and twice as slow alike (Fleming and Wallace 1986)."""
    return float(np.exp(np.mean(np.log(_checked("ratios", ratios)))))
