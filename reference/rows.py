"""The reference's table of ops: what computes each one's value, what its error bound is made of, and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convatlas.reference import companions, grad, loss
from convatlas.reference.activation import softmax
from convatlas.reference.channel_scale import scaled
from convatlas.reference.companions import Arrays, Companions, Params
from convatlas.reference.concat import concat
from convatlas.reference.conv2d import correlate
from convatlas.reference.conv2d_grad import by_taps
from convatlas.reference.conv_transpose2d import scatter
from convatlas.reference.norm import batch_norm, local_response_norm
from convatlas.reference.pool import adaptive_max, adaptive_mean, average, max_pool
from convatlas.specs.activations import FLOPS


@dataclass(frozen=True)
class Row:
    """One op.

    Attributes:
        value: computes the value before the epilogue's activation, with bias and residual added, from spec, operands and
        parameters.
        companions: computes what the error bound is made of, from the same and the value.
        params: names of its parameters that are no part of a shape; PyTorch's default stands for one left out.
        truth: makes the whole Truth from spec and operands, of what is more than one op (reference/block.py).
    """

    value: Callable[[Any, Arrays, Params], np.ndarray]
    companions: Callable[[Any, Arrays, Params, np.ndarray], Companions] = companions.exact
    params: tuple[str, ...] = ()
    truth: Callable[[Any, Arrays], Any] | None = None


def _conv2d(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    return _finished(correlate(a["input"], a["weight"], spec), a)


def _conv_transpose2d(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    return _finished(scatter(a["input"], a["weight"], spec), a)


def _finished(y: np.ndarray, a: Arrays) -> np.ndarray:
    if "bias" in a:
        y = y + a["bias"][:, None, None]
    return y + a["residual"] if "residual" in a else y


def _linear(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    y = a["input"] @ a["weight"].T
    return y + a["bias"] if "bias" in a else y


def _channel_scale(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    y = scaled(a["x"], a["scale"], spec)
    return y + a["residual"] if "residual" in a else y


def _batch_norm(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    given = (a["input"], a["running_mean"], a["running_var"], a.get("weight"), a.get("bias"))
    y = batch_norm(*given, params.get("eps", 1e-5), dtype=a["input"].dtype)
    return y + a["residual"] if "residual" in a else y


def _local_response_norm(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    numbers = {name: params[name] for name in ("alpha", "beta", "k") if name in params}
    return local_response_norm(a["input"], spec.size, **numbers, dtype=a["input"].dtype)


def _concat(spec: Any, a: Arrays, params: Params) -> np.ndarray:
    return concat([a[str(i)] for i in range(len(a))], spec.dim, dtype=a["0"].dtype)


ROWS: dict[str, Row] = {
    "conv2d": Row(_conv2d, companions.conv2d),
    "conv_transpose2d": Row(_conv_transpose2d, companions.conv_transpose2d),
    "conv2d_input_grad": Row(
        lambda spec, a, params: scatter(a["grad_output"], a["weight"], spec), companions.conv2d_input_grad
    ),
    "conv2d_weight_grad": Row(
        lambda spec, a, params: by_taps(a["grad_output"], a["input"], spec.forward),
        companions.conv2d_weight_grad,
        ("bias_grad",),
    ),
    "linear": Row(_linear, companions.linear),
    "max_pool2d": Row(
        lambda spec, a, params: max_pool(a["input"], spec, return_indices=False),
        params=("return_indices", "return_winners"),
    ),
    "avg_pool2d": Row(lambda spec, a, params: average(a["input"], spec), companions.avg_pool2d),
    "adaptive_avg_pool2d": Row(lambda spec, a, params: adaptive_mean(a["input"], spec), companions.adaptive_avg_pool2d),
    "adaptive_max_pool2d": Row(
        lambda spec, a, params: adaptive_max(a["input"], spec, return_indices=False), params=("return_indices",)
    ),
    "channel_scale": Row(_channel_scale, companions.channel_scale),
    "residual_add": Row(lambda spec, a, params: a["x"] + a["shortcut"], companions.residual_add),
    "batch_norm": Row(_batch_norm, companions.batch_norm, ("eps",)),
    "local_response_norm": Row(_local_response_norm, companions.local_response_norm, ("alpha", "beta", "k")),
    "softmax": Row(
        lambda spec, a, params: softmax(a["input"], params.get("dim", -1), dtype=a["input"].dtype),
        companions.softmax,
        ("dim",),
    ),
    # The activations are applied as an epilogue is (evaluate.py).
    **dict.fromkeys(FLOPS, Row(lambda spec, a, params: a["input"])),
    "leaky_relu": Row(lambda spec, a, params: a["input"], params=("negative_slope",)),
    "concat": Row(_concat),
    **{name: Row(*row) for name, row in (grad.ROWS | loss.ROWS).items()},
}
