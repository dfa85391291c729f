"""The loss of a classifier: softmax and cross-entropy as one op, and its backward in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.errors import ArgumentError, DtypeError, ShapeError
from convatlas.ops import library
from convatlas.ops.calling import dispatch, require_dense
from convatlas.ops.library import Args, Op
from convatlas.ops.transforms import FORMULAS, Formula, Gradients, Saved
from convatlas.specs import ElementwiseSpec, GradSpec
from convatlas.specs.arguments import integer, number, shown

REDUCTIONS = ("none", "mean", "sum")


def _spec(op: str, a: Args, given: tuple[str, ...], shape: tuple[int, ...], flops_each: int, sums: bool) -> GradSpec:
    """The spec of a pass over the rows of scores."""
    scores = tuple(a["input"].shape)
    if len(scores) != 2 or scores[1] < 1:
        raise ShapeError(f"cross_entropy: input of shape {scores}, expected (N, C), the scores of C classes")
    for name in given:
        if tuple(a[name].shape) != scores[:1]:
            raise ShapeError(f"cross_entropy: {name} of shape {tuple(a[name].shape)}, expected {scores[:1]}, one a row")
    if a["target"].dtype != torch.int64:
        raise DtypeError(f"cross_entropy: target is {a['target'].dtype}, expected torch.int64, the numbers of classes")
    operands = (("input", scores), *((name, scores[:1]) for name in given))
    return GradSpec(
        op=op, forward=ElementwiseSpec("softmax", scores, scores[1]), shape=shape, given=operands, reduction=scores[1],
        flops_each=flops_each, wide=("grad_output", "lse"), places=("target",), sums=sums,
    )  # fmt: skip


def _rows(a: Args) -> Call:
    spec = _spec("cross_entropy_rows", a, ("target",), tuple(a["input"].shape[:1]), 4, True)
    return Call("cross_entropy_rows", spec, None, {"return_lse": True, **_params(a)})


def _grad(a: Args) -> Call:
    given = "target", "lse", "grad_output"
    return Call(
        "cross_entropy_grad", _spec("cross_entropy_grad", a, given, tuple(a["input"].shape), 4, False), None, _params(a)
    )


def _params(a: Args) -> dict[str, float]:
    return {name: a[name] for name in ("ignore_index", "label_smoothing")}


OPTIONS = "int ignore_index, float label_smoothing"
LOSSES = (
    Op("cross_entropy_rows", f"Tensor input, Tensor target, {OPTIONS}", _rows, "(Tensor, Tensor)"),
    Op("cross_entropy_grad", f"Tensor input, Tensor target, Tensor lse, Tensor grad_output, {OPTIONS}", _grad),
)


def _backward(s: Saved, g: Tensor) -> Gradients:
    options = s.args["ignore_index"], s.args["label_smoothing"], s.backend
    return {"input": torch.ops.convatlas.cross_entropy_grad(s["input"], s["target"], s["lse"], g, *options)}


FORMULAS["cross_entropy_rows"] = Formula(lambda s: ("input", "target", "lse"), _backward, results=("output", "lse"))
for _op in LOSSES:
    library.register(_op)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """The cross-entropy of softmax(input) with the target classes, as torch.nn.functional.cross_entropy of class numbers.

        loss[n] = lse[n] - (1 - e) * input[n, t] - e / C * sum over c of input[n, c],    lse[n] = log of the sum of exp(input[n, c])

    with t = target[n] and e = label_smoothing (Szegedy et al. 2016, section 7). The forward pass keeps lse, a number a row; the
    backward pass is one kernel, which finds softmax again as exp(input - lse).

    Args:
        input: (N, C), the scores of C classes.
        target: (N,), int64.
        ignore_index: rows of this target have loss and gradient 0, and do not count in a mean.
        reduction: "none" is the losses (N,), "sum" their sum, "mean" that divided by the rows that count.
        label_smoothing: from 0 to 1.
        backend: see convatlas.ops.functional.

    The result has the input's dtype, or under autocast float32; half-precision rows are summed in float32. A target that is no
    class has loss NaN, where torch raises on a CPU and stops the GPU. Weights by class and probabilities as targets are torch's
    alone. Raises ArgumentError, ShapeError, DtypeError, BackendError.
    """
    op = "cross_entropy"
    require_dense(op, input=input, target=target)
    smoothing = number(label_smoothing, "label_smoothing", op)
    if not 0.0 <= smoothing <= 1.0:
        raise ArgumentError(f"{op}: label_smoothing={shown(label_smoothing)}, expected a number from 0 to 1")
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"{op}: reduction={shown(reduction)}, expected one of {', '.join(REDUCTIONS)}")
    ignored = integer(ignore_index, "ignore_index", op, "an int")
    losses, _ = dispatch("cross_entropy_rows", (input, target, ignored, smoothing), backend, None)
    if reduction != "none":
        losses = losses.sum()
    if reduction == "mean":
        losses = losses / (target != ignored).sum()
    device = input.device.type
    return losses if device != "meta" and torch.is_autocast_enabled(device) else losses.to(input.dtype)
