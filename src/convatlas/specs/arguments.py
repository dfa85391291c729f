"""Turns arguments as users give them into the values that specs hold (integers, pairs, numbers, flags, names), or raises one
clear error.

A size may be symbolic (torch.SymInt, while torch.compile or torch.export traces with dynamic shapes): it is taken as it is.
"""

from __future__ import annotations

import operator
from math import prod
from typing import Any

from convatlas.errors import ArgumentError, ShapeError

INT64 = 2**63 - 1  # the largest integer that torch can hold
# The most that a size of one image or a parameter may be: kernels count pixels in 32 bits, with room for the last tile to overhang.
LARGEST = 2**31 - 2**12

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, and short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _as_integer(value: Any) -> int | None:
    """The int, symbolic int, or what counts as an int (NumPy's, a tensor of one element); None for all else, bools included."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    if isinstance(value, int) or type(value).__name__ == "SymInt":
        return value
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def integer(value: Any, name: str, op: str, expected: str = "an int", low: int = -INT64) -> int:
    """The int that `value` is. Raises ShapeError where it is none, below `low`, or too large for 64 bits."""
    found = _as_integer(value)
    if found is None or (type(found) is int and abs(found) > INT64) or found < low:
        raise ShapeError(f"{op}: {name}={shown(value)}, expected {expected}")
    return found


def pair(value: Any, name: str, op: str) -> Pair:
    """An int, a one-element or a two-element sequence of ints -> (h, w), as torch.nn.functional takes them. Raises ShapeError."""
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    found = tuple(map(_as_integer, items))
    if len(found) not in (1, 2) or any(v is None or (type(v) is int and abs(v) > INT64) for v in found):
        raise ShapeError(f"{op}: {name}={shown(value)}, expected an int or a pair of ints")
    at_most(found, name, op)
    return found if len(found) == 2 else (found[0], found[0])


def sides(padding: Any, kernel: Pair, stride: Pair, dilation: Pair, op: str) -> Pads:
    """A convolution's padding -> ((top, bottom), (left, right)). Raises ShapeError for another form; the spec checks the numbers.

    int, pair (one number each side), "valid", "same" (PyTorch's: total = dilation * (kernel - 1), the odd pixel at the
    end, stride 1 only), or ((top, bottom), (left, right)).
    """
    if isinstance(padding, str) and padding == "valid":
        return (0, 0), (0, 0)
    if isinstance(padding, str) and padding == "same":
        if stride != (1, 1):
            raise ShapeError(
                f'{op}: padding="same" with stride={stride}, expected stride 1; give ((top, bottom), (left, right)), '
                f"which convatlas.specs.tf_same_padding computes, for TensorFlow's SAME"
            )
        totals = [d * (k - 1) for d, k in zip(dilation, kernel)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if isinstance(padding, str):
        raise ShapeError(f'{op}: padding={padding!r}, expected "same", "valid" or numbers')
    if isinstance(padding, (tuple, list)) and len(padding) == 2 and any(isinstance(v, (tuple, list)) for v in padding):
        if any(not isinstance(side, (tuple, list)) or len(side) != 2 for side in padding):
            raise ShapeError(f"{op}: padding={shown(padding)}, expected ((top, bottom), (left, right))")
        return tuple(pair(side, "padding", op) for side in padding)
    return tuple((v, v) for v in pair(padding, "padding", op))


def stride_or(kernel: Pair, stride: Any, op: str) -> Pair:
    """A pooling's stride; None or an empty sequence means the window's size."""
    empty = stride is None or (isinstance(stride, (tuple, list)) and not stride)
    return kernel if empty else pair(stride, "stride", op)


def output_sizes(value: Any, op: str) -> tuple[int | None, int | None]:
    """An int or a pair, in which None keeps a size. Raises ShapeError."""
    items = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(items) == 2 and value is not None:
        found = tuple(None if v is None else _as_integer(v) for v in items)
        if all(v is None or (f is not None and (type(f) is not int or abs(f) <= INT64)) for v, f in zip(items, found)):
            return found
    raise ShapeError(
        f"{op}: output_size={shown(value)}, expected an int or a pair of ints (None in a pair keeps a size)"
    )


def at_least(values: tuple, low: int, name: str, op: str) -> None:
    """Raises ShapeError when one of `values` is below `low`."""
    if any(v < low for v in values):
        raise ShapeError(f"{op}: {name}={values}, expected each to be at least {low}")


def at_most(values: tuple, name: str, op: str) -> None:
    """Raises ShapeError when one of `values` is beyond LARGEST. Symbolic ones pass: a comparison would bound them for a tracer."""
    if any(abs(v) > LARGEST for v in values if isinstance(v, int)):
        raise ShapeError(
            f"{op}: {name}={shown(values[0] if len(set(values)) == 1 else values)}, expected at most {LARGEST}"
        )


def image(sizes: tuple, what: str, op: str) -> None:
    """Raises ShapeError for more pixels of one image than LARGEST; `what` names the image."""
    if all(isinstance(v, int) for v in sizes) and prod(sizes) > LARGEST:
        raise ShapeError(f"{op}: {'x'.join(map(str, sizes))} pixels of {what}, expected at most {LARGEST}")


def shape_of(value: Any, name: str, op: str) -> tuple[int, ...]:
    """A shape as a tuple of ints from 0 on. Raises ShapeError."""
    if isinstance(value, (tuple, list)):
        found = tuple(map(_as_integer, value))
        if all(v is not None and v >= 0 for v in found):
            return found
    raise ShapeError(f"{op}: {name} of shape {shown(value)}, expected a tuple of ints of at least 0")


def number(value: Any, name: str, op: str) -> float:
    """The float that `value` is. Raises ArgumentError where it is none."""
    if not isinstance(value, (str, bytes, bytearray)):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
    raise ArgumentError(f"{op}: {name}={shown(value)}, expected a number")


def flag(value: Any, name: str, op: str) -> bool:
    """True or False. Raises ArgumentError for all else, since a 0 or a None here mostly belongs to another argument."""
    if isinstance(value, bool):
        return value
    raise ArgumentError(f"{op}: {name}={shown(value)}, expected True or False")


def known(value: Any, names: tuple, what: str, op: str = "") -> Any:
    """`value` if it is one of `names`. Else raises ArgumentError, which lists them."""
    if (value is None or isinstance(value, str)) and value in names:
        return value
    listed = ", ".join(map(str, names))
    raise ArgumentError(f"{op}{': ' * bool(op)}unknown {what} {shown(value)}, expected one of {listed}")
