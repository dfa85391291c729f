"""From samples to a verdict: medians, bootstrap intervals, when two runs may be called different, and how sure many verdicts are.

The bootstrap (Efron 1979, "Bootstrap methods: another look at the jackknife") draws as many samples as there are, with
replacement, and takes the statistic of each draw; the middle 99 % of those statistics is the interval. Nothing is assumed about
how times are distributed, which is as well: they are skewed, with a floor and a tail.

An interval speaks of one process. Between processes clocks and memory placement differ too, and no number of samples in one of
them shows by how much; the threshold is what allows for it.

Among hundreds of verdicts at 99 % some are false. Where a verdict has consequences (the exit code of `convatlas compare`), it
must also survive Holm's correction of a rank test: `rank_test` and `holm`. tests/results/test_stats.py measures all rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from convatlas.errors import InputError

CONFIDENCE = 0.99
DRAWS = 2000
# What a difference must be to matter: repeated runs of one kernel in one process differ by 1 to 2 % through clocks alone.
THRESHOLD = 0.03
# Below these no verdict but "unsure". 5 times against 5 lie apart by chance in 2 of 252 orders, less than 1 %, 4 against 4 in 2 of
# 70. Turn by turn, 7 fall on one side in 2 of 128, 5 in 2 of 32.
LEAST_SAMPLES, LEAST_TURNS = 5, 7
FAMILY = 0.01  # chance of any false alarm at all among the corrected verdicts of one comparison
EXACT = 2500  # products of two sample counts up to which the rank test's distribution is counted out
VERDICTS = ("faster", "slower", "same", "unsure")


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
    """Medians of DRAWS resamplings, whatever the number of samples, without making them.

    Of n uniform numbers the k-th smallest is Beta(k, n + 1 - k) distributed, so a resampling's k-th smallest sample is that many
    n-ths up the sorted list. For even n the median needs its successor too: the least of the n - k numbers left above.
    """
    ordered, n = np.sort(samples), len(samples)
    k = (n + 1) // 2
    place = generator.beta(k, n + 1 - k, DRAWS)
    lower = ordered[np.minimum((n * place).astype(int), n - 1)]
    if n % 2:
        return lower
    place = place + (1 - place) * (1 - generator.random(DRAWS) ** (1 / (n - k)))
    return (lower + ordered[np.minimum((n * place).astype(int), n - 1)]) / 2


def _paired_draws(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Ratios of medians over DRAWS resamplings of turns, a turn being one sample of A and its neighbour of B."""
    n, ratios = len(a), []
    for start in range(0, DRAWS, block := max(1, 4_000_000 // n)):
        picks = generator.integers(0, n, (min(block, DRAWS - start), n))
        ratios.append(np.median(a[picks], axis=1) / np.median(b[picks], axis=1))
    return np.concatenate(ratios)


def _middle(draws: np.ndarray) -> tuple[float, float]:
    """The interval of CONFIDENCE."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _checked(name: str, samples: Sequence[float]) -> np.ndarray:
    array = np.asarray(samples, np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all() or (array <= 0).any():
        raise InputError(f"{name}: {list(samples)[:5]}, expected at least one time, each finite and above 0")
    return array


def compare(
    a: Sequence[float], b: Sequence[float], threshold: float = THRESHOLD, seed: int = 0, paired: bool = False
) -> Comparison:
    """Whether A takes less time than B: statistically (the interval) and in practice (the threshold), or it is not said.

        faster   high < 1 and ratio < 1 / (1 + threshold)
        slower   low > 1 and ratio > 1 + threshold
        same     the whole interval lies within 1 / (1 + threshold) to 1 + threshold
        unsure   anything else, and fewer samples than LEAST_SAMPLES or LEAST_TURNS: more samples are needed

    Args:
        paired: the two were timed by turns (timing.race), sample i of one beside sample i of the other. Turns are then drawn
            whole, so that what drifts for both (clocks, temperature) does not widen the interval.

    Raises InputError for no samples, a threshold that is not positive and finite, or pairs of unequal number.
    """
    if not 0 < threshold < math.inf:
        raise InputError(f"threshold={threshold}, expected a fraction above 0, such as 0.03")
    first, second = _checked("a", a), _checked("b", b)
    generator = np.random.default_rng(seed)
    if paired:
        if len(first) != len(second):
            raise InputError(f"{len(first)} samples against {len(second)}, expected as many of both to pair them")
        ratios, least = _paired_draws(first, second, generator), LEAST_TURNS
    else:
        ratios, least = _draws(first, generator) / _draws(second, generator), LEAST_SAMPLES
    low, high = _middle(ratios)
    ratio = float(np.median(first) / np.median(second))
    enough = min(len(first), len(second)) >= least
    return Comparison(ratio, low, high, verdict(ratio, low, high, threshold) if enough else "unsure")


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


def rank_test(a: Sequence[float], b: Sequence[float]) -> float:
    """How probable it is that times of one distribution lie as far apart as A and B do: two-sided p of the rank sum.

    U counts the pairs in which A is the longer, a tie as half (Mann and Whitney 1947); rounding it towards the middle errs on
    the side of no difference. Up to EXACT pairs p is counted out; above, U is taken as normal, which far out again errs on that
    side. A bootstrap of 2000 draws could not tell p = 1 / 1000 from p = 1 / 100,000, which a correction needs. For samples taken
    by turns it is conservative: drift that both share looks like noise.
    """
    first, second = _checked("a", a), np.sort(_checked("b", b))
    n, m = len(first), len(second)
    below, not_above = (np.searchsorted(second, first, side).sum() for side in ("left", "right"))
    u = float(below + not_above) / 2
    u = min(u, n * m - u)
    if n * m <= EXACT:
        return min(1.0, 2 * float(_rank_sums(n, m)[math.floor(u + 0.5)]))
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    return min(1.0, math.erfc((n * m / 2 - u - 0.5) / deviation / math.sqrt(2)))


@cache
def _rank_sums(n: int, m: int) -> np.ndarray:
    """P(U <= u) for u = 0 .. n*m: of the orders of n and m things, the share with at most u inversions.

    Their number by u is the Gaussian binomial coefficient, the product over i of (1 - x^(m+i)) / (1 - x^i).
    """
    counts = np.zeros(n * m + 1)
    counts[0] = 1
    for i in range(1, n + 1):
        if m + i <= n * m:
            counts[m + i :] -= counts[: -(m + i)].copy()
        for start in range(i):  # division by 1 - x^i: each coefficient plus all those i, 2i, ... places before it
            counts[start::i] = np.cumsum(counts[start::i])
    return np.cumsum(counts) / counts.sum()


def holm(chances: Sequence[float], family: float = FAMILY) -> list[bool]:
    """Which of many tests hold when the chance of a single false one among them all is to be at most `family` (Holm 1979).

    The smallest p is held to family / N, the next to family / (N - 1), and so on until one fails; no independence is assumed.
    """
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    held = [False] * len(chances)
    for rank, i in enumerate(order):
        if chances[i] > family / (len(chances) - rank):
            break
        held[i] = True
    return held


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean that treats twice as fast and twice as slow alike (Fleming and Wallace 1986)."""
    return float(np.exp(np.mean(np.log(_checked("ratios", ratios)))))
