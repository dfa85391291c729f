"""Backend "numpy": the reference, computed in float64 and rounded once to the output's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from convatlas.layout import allocate_extra, allocate_result
from convatlas.reference.conv2d_grad import sum_of_pixels
from convatlas.reference.evaluate import evaluate
from convatlas.reference.grad import before
from convatlas.reference.loss import log_sum_exp
from convatlas.reference.pool import adaptive_max, max_pool, tap_numbers
from convatlas.reference.rounding import round_to
from convatlas.specs import dtype_name

if TYPE_CHECKING:
    from convatlas.call import Call


def as_array(x: Tensor) -> np.ndarray:
    """A NumPy array that holds x's values exactly: half types in float32 (NumPy has no bfloat16), any other in its own."""
    x = x.detach()
    return (x.float() if x.is_floating_point() and x.dtype != torch.float64 else x).cpu().numpy()


def run(call: Call, tensors: dict[str, Tensor], out: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Computes `call` by the reference, and rounds by its own rule, since torch casts float64 to a half type through float32."""
    first = next(iter(tensors.values()))
    arrays = {name: as_array(x) for name, x in tensors.items()}
    if out is None:
        out = allocate_result(call.spec, first)
    extra = allocate_extra(call, first)
    if "indices" in extra or "winners" in extra:
        find = max_pool if call.op == "max_pool2d" else adaptive_max
        value, where = find(arrays["input"], call.spec, return_indices=True)
        if "winners" in extra:
            where = tap_numbers(where, call.spec)
        (second,) = extra.values()
        return out.copy_(torch.from_numpy(value)), second.copy_(torch.from_numpy(where))
    _store(out, evaluate(call.op, call.spec, call.epilogue, arrays, call.params))
    if "bias_grad" in extra:
        _store(extra["bias_grad"], sum_of_pixels(arrays["grad_output"].astype(np.float64)))
    if "lse" in extra:
        _store(extra["lse"], log_sum_exp(arrays["input"].astype(np.float64)))
    if "masked" in extra:
        wide = {name: a.astype(np.float64) for name, a in arrays.items()}
        _store(extra["masked"], before(wide, call.params)[0])
    return (out, *extra.values()) if extra else out


def _store(out: Tensor, value: np.ndarray) -> None:
    out.copy_(torch.from_numpy(np.array(round_to(value, dtype_name(out.dtype)), order="C")))
