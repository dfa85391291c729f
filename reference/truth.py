"""The float64 value of an op, with the companions that its error bound is made of (docs/numerics.md derives them)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from convatlas.reference.activation import ACTIVATIONS, Activation, activate
from convatlas.reference.companions import Arrays, Params
from convatlas.reference.evaluate import activation_after, as_arrays, before_activation
from convatlas.reference.rows import ROWS
from convatlas.specs import Epilogue, Spec
from convatlas.specs.activations import parsed


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
        activation: the activation behind it, where that rounds; value is then the activation of `before`, and magnitude, spread,
            length and roundings are those of `before`.
        before: the value before that activation.
        lipschitz: by how much at most the activation widens an error of `before`.
        inherited, inherited_sigma: by how much `before` may be off, and the standard deviation of that, because operands are
            (reference/block.py); 0 where they are exact.
    """

    op: str
    value: np.ndarray
    magnitude: np.ndarray
    spread: np.ndarray
    length: int
    roundings: int
    products: bool = False
    activation: Activation | None = None
    before: np.ndarray | None = None
    lipschitz: float = 1.0
    inherited: np.ndarray | float = 0.0
    inherited_sigma: np.ndarray | float = 0.0

    @property
    def selects(self) -> bool:
        """The result consists of operands' elements, of 0 or 6, and nothing is rounded: maxima, relu, concatenation."""
        return self.length == 0 and self.roundings == 0 and self.activation is None

    @property
    def exact(self) -> bool:
        """The same, of operands that are exact."""
        return self.selects and not np.any(self.inherited)


def truth(op: str, spec: Spec, epilogue: Epilogue | None, arrays: Arrays, params: Params | None = None) -> Truth:
    """The Truth of `op` on `arrays`, which hold exact values in any float dtype (bfloat16 comes as float32).

    Arguments and errors are those of convatlas.reference.evaluate. Magnitude and spread are taken before the activation.
    """
    params = params or {}
    arrays = as_arrays(arrays, np.float64)
    if op in ROWS and (whole := ROWS[op].truth) is not None:
        return whole(spec, arrays)
    with np.errstate(all="ignore"):
        value = before_activation(op, spec, arrays, params)
        parts = ROWS[op].companions(spec, arrays, params, value)
        name, slope = parsed(activation_after(op, epilogue, params) or "relu")
        activation = ACTIVATIONS[name]
        before, value = value, activate(value, activation_after(op, epilogue, params))
        # Where an infinity went into a finite result (relu6 of inf, 1 / inf), nothing was rounded.
        magnitude, spread = np.asarray(parts.magnitude), np.asarray(parts.spread)
        for companion in (magnitude, spread):
            companion[~np.isfinite(companion)] = 0.0
    found = Truth(op, value, magnitude, spread, parts.length, parts.roundings, spec.products)
    if activation.roundings is None:  # relu and relu6 move no two numbers apart
        return found
    return replace(found, activation=activation, before=before, lipschitz=activation.lipschitz(slope))
