"""The float64 value of an op, with the companions that its error bound is made of (docs/numerics.md derives them)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convatlas.reference.activation import activate
from convatlas.reference.companions import Arrays, Params
from convatlas.reference.evaluate import as_arrays, before_activation
from convatlas.reference.rows import ROWS
from convatlas.specs import Epilogue, Spec


@dataclass(frozen=True)
class Truth:
    """What a kernel's output is held to.

    Attributes:
        op: its name, for messages.
        value: the exact result, in float64.
        magnitude: A, at least the absolute value of every intermediate that is rounded: for a convolution, the convolution
            of |x| and |w| plus |bias| plus |residual|.
        spread: S, the root mean square of those intermediates where the terms come in no particular order.
        length: L, the terms summed, whose roundings add up like a random walk; 0 where nothing is summed.
        roundings: further roundings in the accumulator's precision, counted one by one, each of at most A.
        products: what is summed are products, which tensor cores may have multiplied and added.
    """

    op: str
    value: np.ndarray
    magnitude: np.ndarray
    spread: np.ndarray
    length: int
    roundings: int
    products: bool = False

    @property
    def exact(self) -> bool:
        """Nothing is rounded: maxima, relu, concatenation."""
        return self.length == 0 and self.roundings == 0


def truth(op: str, spec: Spec, epilogue: Epilogue | None, arrays: Arrays, params: Params | None = None) -> Truth:
    """The Truth of `op` on `arrays`, which hold exact values in any float dtype (bfloat16 comes as float32).

    Arguments and errors are those of convatlas.reference.evaluate. Magnitude and spread are taken before the activation, which
    makes no error larger: relu and relu6 move no two numbers apart.
    """
    params = params or {}
    arrays = as_arrays(arrays, np.float64)
    with np.errstate(all="ignore"):
        value = before_activation(op, spec, arrays, params)
        parts = ROWS[op].companions(spec, arrays, params, value)
        value = activate(value, epilogue.activation if epilogue else None)
        # Where an infinity went into a finite result (relu6 of inf, 1 / inf), nothing was rounded.
        magnitude, spread = np.asarray(parts.magnitude), np.asarray(parts.spread)
        for companion in (magnitude, spread):
            companion[~np.isfinite(companion)] = 0.0
    return Truth(op, value, magnitude, spread, parts.length, parts.roundings, spec.products)
