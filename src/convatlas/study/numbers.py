"""Numbers for reading: short forms that tables and pictures share."""

from __future__ import annotations


def short(n: float, unit: str = "") -> str:
    """Four digits and a power of a thousand: 118.0M, 3.630G, 17; with a unit "1.926 MB"."""
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= power:
            value = n / power
            digits = 3 if value < 10 else 2 if value < 100 else 1
            return f"{value:.{digits}f}{' ' if unit else ''}{letter}{unit}"
    return f"{n:g}{' ' if unit else ''}{unit}"


def percent(share: float) -> str:
    """A share of 0 to 1 as a whole number of percent, so that a column is narrow; "" for none at all."""
    return "" if not share else "<1" if share < 0.005 else f"{100 * share:.0f}"
