"""Several ops as one (specs.BlockSpec): the chain of its parts' references, and what its error bound is made of.

Every map between two parts is rounded to the block's `stored` dtype. docs/numerics.md ("Blocks") derives how far that carries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from convatlas.reference.activation import activate
from convatlas.reference.companions import Arrays, Params
from convatlas.reference.error_bound import C, Law
from convatlas.reference.evaluate import activation_after, before_activation
from convatlas.reference.rounding import format_of
from convatlas.reference.rows import ROWS, Row
from convatlas.reference.truth import Truth, truth
from convatlas.specs import BlockSpec, Part


@dataclass(frozen=True)
class Error:
    """What a map may be off by. `noise` is a sum of roundings of which each has mean zero given those before it, and of which two
    channels share none; the rest is off by its bound.

    Attributes:
        noise: root of the sum of squares of what each of those roundings is at most.
        linear: the sum of what each of them is at most.
        rest: bound of what is no noise.
        sigma: standard deviation of all.
    """

    noise: np.ndarray
    linear: np.ndarray
    rest: np.ndarray
    sigma: np.ndarray

    @property
    def bound(self) -> np.ndarray:
        """What the noise comes to: all roundings at their worst, or C of its roots (Azuma, Hoeffding)."""
        return np.minimum(self.linear, C * self.noise)


def operands_of(part: Part, a: Arrays, made: Arrays) -> Arrays:
    """A part's operands by its op's names: weights from `a`, maps from `made`, in the shapes that the op expects."""
    given = {}
    for name, (source, shape) in part.operands.items():
        given[name] = (made[source] if source in made else a[source]).reshape(shape)
    return given


def value(spec: BlockSpec, a: Arrays, params: Params) -> np.ndarray:
    """The last part's result, from operands by the block's names; nothing in between is rounded."""
    made: Arrays = {}
    for part in spec.parts:
        before = before_activation(part.op, part.spec, operands_of(part, a, made), {})
        made[part.name] = activate(before, activation_after(part.op, part.epilogue, {}))
    return made[part.name]


def block_truth(spec: BlockSpec, a: Arrays) -> Truth:
    """The Truth of the last part, of operands that are off by what the parts before it round."""
    made, errors = {}, {}
    for part in spec.parts:
        given = operands_of(part, a, made)
        own = truth(part.op, part.spec, part.epilogue, given)
        inherited = _inherited(part, given, errors)
        if inherited is not None:
            own = replace(own, inherited=inherited.bound + inherited.rest, inherited_sigma=inherited.sigma)
        made[part.name] = own.value
        if not own.selects:
            errors[part.name] = _stored(part, own, inherited, spec.stored)
        elif inherited is not None:
            errors[part.name] = inherited
    return replace(own, op=spec.pattern)


def _inherited(part: Part, given: Arrays, errors: dict[str, Error]) -> Error | None:
    """What the part's sums are off by because its operands are; None where these are exact."""
    found = None
    for name, source in part.reads:
        if source not in errors:
            continue
        shape = given[name].shape
        error = Error(*(x.reshape(shape) for x in _fields(errors[source])))
        one = error if name == "residual" else _through(part, given, error)
        found = one if found is None else _plus(found, one)
    return found


def _fields(error: Error) -> tuple[np.ndarray, ...]:
    return error.noise, error.linear, error.rest, error.sigma


def _plus(x: Error, y: Error) -> Error:
    """What a sum of two maps is off by; noise that they share is counted with both."""
    return Error(x.noise + y.noise, x.linear + y.linear, x.rest + y.rest, x.sigma + y.sigma)


def _through(part: Part, given: Arrays, error: Error) -> Error:
    """What the part's main input is off by, behind its op: each term by |weight|, each square by the weight's square."""

    def applied(x: np.ndarray, power: int) -> np.ndarray:
        if part.op == "max_pool2d":  # its result moves by no more than the largest move in the window
            return ROWS[part.op].value(part.spec, {"input": x}, {})
        if "weight" not in given:  # an average: equal weights
            mean = ROWS[part.op].value(part.spec, {"input": x}, {})
            return mean / part.spec.reduction ** (power - 1)
        return ROWS[part.op].value(part.spec, {"input": x, "weight": np.abs(given["weight"]) ** power}, {})

    noise, linear, rest, sigma = _fields(error)
    moved = Error(np.sqrt(applied(noise**2, 2)), applied(linear, 1), applied(rest, 1), np.sqrt(applied(sigma**2, 2)))
    if part.op == "max_pool2d":
        return replace(moved, noise=moved.linear)
    separate = "weight" not in given or getattr(part.spec, "kind", "") == "depthwise"
    if separate:
        return moved
    zero = np.zeros_like(moved.noise)  # channels now share roundings
    return Error(zero, zero, moved.bound + moved.rest, moved.sigma)


def _stored(part: Part, own: Truth, inherited: Error | None, stored: str) -> Error:
    """What a part's map is off by once it is rounded to `stored`: the rounding is new noise, what the sums lost is not."""
    law = Law(own, stored, "float64" if stored == "float64" else "float32", False, 1, False)
    bound, sigma = (x.reshape(own.value.shape) for x in law(slice(None)))
    reference = np.abs(np.where(np.isfinite(own.value), own.value, 0.0))
    u = format_of(stored).unit_roundoff
    inner = (bound - law.eta - u * reference) / (1 + u)
    rounding = bound - inner
    if inherited is None:
        return Error(rounding, rounding, inner, sigma)
    noise, linear = own.lipschitz * inherited.noise, own.lipschitz * inherited.linear
    rest = inner - own.lipschitz * inherited.bound
    return Error(np.hypot(noise, rounding), linear + rounding, np.maximum(rest, 0.0), sigma)


ROWS["block"] = Row(value, truth=block_truth)
