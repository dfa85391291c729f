"""Any op by its name and spec: the table that truth, the NumPy backend and whatever walks a network share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convatlas.errors import ArgumentError
from convatlas.reference.activation import activate, relu, relu6, softmax
from convatlas.reference.concat import concat
from convatlas.reference.conv2d import correlate
from convatlas.reference.norm import batch_norm, local_response_norm
from convatlas.reference.pool import adaptive_mean, average, max_pool
from convatlas.specs import Epilogue, Spec
from convatlas.specs.arguments import known

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def evaluate(
    op: str,
    spec: Spec | None,
    epilogue: Epilogue | None,
    arrays: Arrays,
    params: Params | None = None,
    *,
    dtype: Any = np.float64,
) -> np.ndarray:
    """The value of `op` on `arrays`, computed in `dtype`.

    op                    spec                    arrays                                               params
    conv2d                Conv2dSpec              input, weight, bias?, residual?
    linear                LinearSpec              input, weight, bias?
    max_pool2d            Pool2dSpec              input
    avg_pool2d            Pool2dSpec              input
    adaptive_avg_pool2d   AdaptivePool2dSpec      input
    residual_add          ResidualAddSpec         x, shortcut
    batch_norm            NormSpec                input, running_mean, running_var, weight?, bias?     eps
    local_response_norm   LocalResponseNormSpec   input                                                alpha, beta, k
    softmax               ElementwiseSpec         input                                                dim
    relu, relu6           ElementwiseSpec         input
    concat                ConcatSpec              "0", "1", ...

    The epilogue's activation is applied; bias and residual are added when they are among `arrays`. A parameter left out
    has PyTorch's default. The shapes must be the spec's: whoever made it has validated them. Raises ArgumentError for an
    unknown op, operand or parameter, and for an operand that is missing.
    """
    arrays = as_arrays(arrays, dtype)
    with np.errstate(all="ignore"):
        value = before_activation(op, spec, arrays, params or {})
        return activate(value, epilogue.activation if epilogue else None)


def as_arrays(arrays: Arrays, dtype: Any) -> Arrays:
    """Those that are given, in `dtype`."""
    return {name: np.asarray(a, dtype) for name, a in arrays.items() if a is not None}


def before_activation(op: str, spec: Any, a: Arrays, params: Params) -> np.ndarray:
    """The value to which the epilogue's activation is still to be applied. Raises ArgumentError for names that `op` has not."""
    known(op, tuple(VALUES), "op")
    needed, optional = OPERANDS[op] if op != "concat" else (tuple(map(str, range(len(spec.shapes)))), ())
    if not set(needed) <= set(a) <= {*needed, *optional}:
        given = ", ".join(a) or "none"
        also = f", and if need be {', '.join(optional)}" if optional else ""
        raise ArgumentError(f"{op}: arrays {given}, expected {', '.join(needed)}{also}")
    if not set(params) <= set(PARAMS.get(op, ())):
        raise ArgumentError(f"{op}: params {', '.join(params)}, expected {' or '.join(PARAMS.get(op, ('none',)))}")
    return VALUES[op](spec, a, params)


def _conv2d(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    y = correlate(a["input"], a["weight"], spec)
    if "bias" in a:
        y = y + a["bias"][:, None, None]
    return y + a["residual"] if "residual" in a else y


def _linear(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    y = a["input"] @ a["weight"].T
    return y + a["bias"] if "bias" in a else y


def _batch_norm(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    given = (a["input"], a["running_mean"], a["running_var"], a.get("weight"), a.get("bias"))
    return batch_norm(*given, params.get("eps", 1e-5), dtype=a["input"].dtype)


def _local_response_norm(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    numbers = {name: params[name] for name in ("alpha", "beta", "k") if name in params}
    return local_response_norm(a["input"], spec.size, **numbers, dtype=a["input"].dtype)


def _concat(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    return concat([a[str(i)] for i in range(len(a))], spec.dim, dtype=a["0"].dtype)


# Operands by op: those it needs, those it may have.
OPERANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "conv2d": (("input", "weight"), ("bias", "residual")),
    "linear": (("input", "weight"), ("bias",)),
    "residual_add": (("x", "shortcut"), ()),
    "batch_norm": (("input", "running_mean", "running_var"), ("weight", "bias")),
    **dict.fromkeys(
        ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "local_response_norm", "softmax", "relu", "relu6"),
        (("input",), ()),
    ),
}
PARAMS = {
    "batch_norm": ("eps",),
    "local_response_norm": ("alpha", "beta", "k"),
    "softmax": ("dim",),
    "max_pool2d": ("return_indices",),
}
VALUES: dict[str, Callable[[Any, Arrays, Params], np.ndarray]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "max_pool2d": lambda spec, a, params: max_pool(a["input"], spec, return_indices=False),
    "avg_pool2d": lambda spec, a, params: average(a["input"], spec),
    "adaptive_avg_pool2d": lambda spec, a, params: adaptive_mean(a["input"], spec),
    "residual_add": lambda spec, a, params: a["x"] + a["shortcut"],
    "batch_norm": _batch_norm,
    "local_response_norm": _local_response_norm,
    "softmax": lambda spec, a, params: softmax(a["input"], params.get("dim", -1), dtype=a["input"].dtype),
    "relu": lambda spec, a, params: relu(a["input"], dtype=a["input"].dtype),
    "relu6": lambda spec, a, params: relu6(a["input"], dtype=a["input"].dtype),
    "concat": _concat,
}
