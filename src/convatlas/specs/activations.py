"""The activations: their names, what one costs, and how a parameter is written.

An activation is a name, or None for none. leaky_relu has a parameter: a user writes ("leaky_relu", 0.2), and it is kept as the
text "leaky_relu(0.2)", which is hashable and goes through torch's schemas; "leaky_relu" alone has the slope 0.01.
reference/activation.py has a row for each name (value, error), kernels/common the device functions, torch.nn.functional the peers.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from typing import Any

from convatlas.errors import ArgumentError
from convatlas.specs.arguments import shown

# FLOPs of one element, every operation of the formula in reference/activation.py counted as one.
FLOPS = {"relu": 1, "relu6": 2, "leaky_relu": 2, "sigmoid": 4, "hardsigmoid": 4, "silu": 4, "hardswish": 5}
ACTIVATIONS = (None, *FLOPS)
SLOPE = 0.01  # of leaky_relu, where none is given: torch.nn.functional's default
LARGEST_FLOAT32 = (2 - 2.0**-23) * 2.0**127  # kernels compute in float32, in which what lies beyond is infinite
WRITTEN = re.compile(r"leaky_relu\((.+)\)")


def activation_of(value: Any, op: str = "") -> str | None:
    """What a user gives for an activation, as it is kept: None, a name, "leaky_relu(SLOPE)" or ("leaky_relu", SLOPE).

    Raises ArgumentError for an unknown name, and for a slope that is no finite float32.
    """
    if value is None or (isinstance(value, str) and value in FLOPS):
        return value
    name, slope = None, None
    if isinstance(value, str) and (written := WRITTEN.fullmatch(value)):
        name, slope = "leaky_relu", written[1]
    elif isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str):
        name, slope = value
    if name != "leaky_relu":
        listed = ", ".join(map(str, ACTIVATIONS))
        raise ArgumentError(
            f'{op}{": " * bool(op)}unknown activation {shown(value)}, expected one of {listed} or ("leaky_relu", slope)'
        )
    number = None
    if not isinstance(slope, (bool, bytes)) and (isinstance(value, str) or not isinstance(slope, str)):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            number = float(slope)
    if number is None:
        raise ArgumentError(f"{op}{': ' * bool(op)}activation {shown(value)}, expected a slope that is a number")
    return leaky_relu(number, op or name)


def leaky_relu(slope: float, op: str = "leaky_relu") -> str:
    """leaky_relu with a slope below 0, as an activation. Raises ArgumentError unless the slope is a finite float32."""
    if not abs(slope) <= LARGEST_FLOAT32:
        raise ArgumentError(
            f"{op}: negative_slope={shown(slope)}, expected a number of at most {LARGEST_FLOAT32:.4g} in size"
        )
    return "leaky_relu" if slope == SLOPE else f"leaky_relu({float(slope)!r})"


@lru_cache(256)
def parsed(activation: str) -> tuple[str, float]:
    """(name, slope) of an activation as it is kept; the slope is 0 where it has none."""
    if written := WRITTEN.fullmatch(activation):
        return "leaky_relu", float(written[1])
    return activation, SLOPE if activation == "leaky_relu" else 0.0


def own_activation(op: str, params: dict[str, Any] | None) -> str | None:
    """The activation that an op of that name is, with its parameters; None for an op that is none."""
    if op not in FLOPS:
        return None
    return leaky_relu(float((params or {}).get("negative_slope", SLOPE))) if op == "leaky_relu" else op


def exact(activation: str | None) -> bool:
    """Whether it rounds nothing: what it returns is its argument, 0 or 6."""
    return activation in (None, "relu", "relu6")


def tells_nothing(activation: str | None) -> bool:
    """Whether an activation's value does not tell its derivative, which is then computed of its argument.

    silu and hardswish take a value twice; hardsigmoid rounds values near its ends to them; a leaky_relu of negative slope folds.
    """
    if activation is None:
        return False
    name, slope = parsed(activation)
    return name in ("hardsigmoid", "silu", "hardswish") or slope < 0
