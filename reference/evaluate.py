"""Evaluates any op by its name and spec: what truth, the NumPy backend and all that walks a network share."""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.errors import ArgumentError
from convatlas.reference.activation import activate
from convatlas.reference.companions import Arrays, Params
from convatlas.reference.rows import ROWS
from convatlas.specs import Epilogue, Spec
from convatlas.specs.activations import own_activation
from convatlas.specs.arguments import known


def evaluate(
    op: str,
    spec: Spec,
    epilogue: Epilogue | None,
    arrays: Arrays,
    params: Params | None = None,
    *,
    dtype: Any = np.float64,
) -> np.ndarray:
    """The value of `op` on `arrays`, computed in `dtype`.

    The operands are those that the spec names (`spec.inputs`), with a bias and a residual where the op can add them. A parameter
    left out has PyTorch's default; reference/rows.py lists them. The epilogue's activation is applied; bias and residual are added
    when they are among `arrays`. The shapes must be the spec's, which were validated when it was made. Raises ArgumentError for an
    unknown op, operand or parameter, and for an operand that is missing.
    """
    arrays = as_arrays(arrays, dtype)
    with np.errstate(all="ignore"):
        value = before_activation(op, spec, arrays, params or {})
        return activate(value, activation_after(op, epilogue, params))


def activation_after(op: str, epilogue: Epilogue | None, params: Params | None) -> str | None:
    """The activation behind before_activation's value: the op itself where it is one, else the epilogue's."""
    return own_activation(op, params) or (epilogue.activation if epilogue else None)


def as_arrays(arrays: Arrays, dtype: Any) -> Arrays:
    """Those that are given, in `dtype`."""
    return {name: np.asarray(a, dtype) for name, a in arrays.items() if a is not None}


def before_activation(op: str, spec: Spec, a: Arrays, params: Params) -> np.ndarray:
    """The value to which the epilogue's activation is still to be applied. Raises ArgumentError for names that `op` has not."""
    row = ROWS[known(op, tuple(ROWS), "op")]
    needed = [name for name in spec.inputs if name not in spec.optional]
    if not set(needed) <= set(a) <= {*needed, *spec.optional}:
        given = ", ".join(a) or "none"
        also = f", and if need be {', '.join(spec.optional)}" if spec.optional else ""
        raise ArgumentError(f"{op}: arrays {given}, expected {', '.join(needed)}{also}")
    if not set(params) <= set(row.params):
        raise ArgumentError(f"{op}: params {', '.join(params)}, expected {' or '.join(row.params or ('none',))}")
    return row.value(spec, a, params)
