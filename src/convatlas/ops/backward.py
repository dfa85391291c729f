"""The ops of the backward pass but for convolutions (library.py has those), and the formulas by which autograd reaches all of them.

A backward op has one result and is named `<op>_grad` after the op whose input's gradient it is. Its row is in GRADS; it has no
public function, as nobody but autograd calls it. A second derivative is refused where it would need one of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from convatlas.call import Call
from convatlas.errors import ShapeError
from convatlas.kernels.common.prepared import requested
from convatlas.ops import library
from convatlas.ops.library import Args, Op, _shape
from convatlas.ops.transforms import FORMULAS, Formula, Gradients, Saved, activated
from convatlas.specs import (
    AdaptivePool2dSpec,
    ElementwiseSpec,
    GradSpec,
    LocalResponseNormSpec,
    NormSpec,
    Pool2dSpec,
    Spec,
)
from convatlas.specs.activations import FLOPS, own_activation, parsed, tells_nothing
from convatlas.specs.grad import require
from convatlas.specs.pool import meeting

_ops = torch.ops.convatlas
NUMBERS = ("running_mean", "running_var", "weight", "sums")


def _grad(op: str, forward: Spec, a: Args, given: dict[str, tuple], shape: tuple, **more: Any) -> GradSpec:
    """The spec of a backward op. Raises ShapeError for an operand of another shape than `given` says."""
    for name, expected in given.items():
        require(op, name, _shape(a.get(name)), expected)
    present = {name: expected for name, expected in given.items() if a.get(name) is not None}
    return GradSpec(op=op, forward=forward, shape=tuple(shape), given=tuple(present.items()), **more)


def _activation_grad(a: Args) -> Call:
    shape, op = _shape(a["grad_output"]), "activation_grad"
    forward = ElementwiseSpec(parsed(a["activation"])[0], shape)
    spec = _grad(op, forward, a, dict.fromkeys(("grad_output", "saved"), shape), shape, flops_each=2)
    return Call(op, spec, None, {"activation": a["activation"]})


def _max_pool2d_grad(a: Args) -> Call:
    window = (tuple(a[name]) for name in ("kernel_size", "stride", "padding", "dilation"))
    s = Pool2dSpec.of("max", tuple(a["input_size"]), *window, a["ceil_mode"])
    op, given = "max_pool2d_grad", dict.fromkeys(("grad_output", "winners"), s.output_shape)
    spec = _grad(op, s, a, given, s.input_shape, reduction=_meeting(s), places=("winners",))
    return Call(op, spec, None, {"taps": True} if a["winners"].dtype == torch.uint8 else {})


def _meeting(s: Pool2dSpec) -> int:
    """The most windows that one pixel lies in: along an axis, taps whose windows are whole strides apart."""
    counts = []
    for kernel, stride, dilation in zip((s.R, s.S), s.stride, s.dilation):
        counts.append(max(sum((r - first) * dilation % stride == 0 for r in range(kernel)) for first in range(kernel)))
    return prod(counts)


def _avg_pool2d_grad(a: Args) -> Call:
    window = (tuple(a[name]) for name in ("kernel_size", "stride", "padding"))
    modes = a["ceil_mode"], a["count_include_pad"], a["divisor_override"]
    s = Pool2dSpec.of("avg", tuple(a["input_size"]), *window, 1, *modes)
    spec = _grad("avg_pool2d_grad", s, a, {"grad_output": s.output_shape}, s.input_shape, reduction=_meeting(s))
    return Call("avg_pool2d_grad", spec)


def _adaptive_avg_pool2d_grad(a: Args) -> Call:
    op, g = "adaptive_avg_pool2d_grad", _shape(a["grad_output"])
    s = AdaptivePool2dSpec.of(tuple(a["input_size"]), g[-2:])
    most = meeting(s.P, s.H) * meeting(s.Q, s.W)
    return Call(op, _grad(op, s, a, {"grad_output": s.output_shape}, s.input_shape, reduction=most))


def _adaptive_max_pool2d_grad(a: Args) -> Call:
    op, g = "adaptive_max_pool2d_grad", _shape(a["grad_output"])
    s = AdaptivePool2dSpec.of(tuple(a["input_size"]), g[-2:], "max")
    most, given = meeting(s.P, s.H) * meeting(s.Q, s.W), dict.fromkeys(("grad_output", "winners"), s.output_shape)
    return Call(op, _grad(op, s, a, given, s.input_shape, reduction=most, places=("winners",)))


def _local_response_norm_grad(a: Args) -> Call:
    op, shape = "local_response_norm_grad", _shape(a["input"])
    s = LocalResponseNormSpec.of(shape, a["size"])
    given = dict.fromkeys(("grad_output", "input"), shape)
    spec = _grad(op, s, a, given, shape, reduction=s.reduction, flops_each=4 * a["size"] + 8)
    return Call(op, spec, None, {name: a[name] for name in ("alpha", "beta", "k")})


def _softmax_grad(a: Args) -> Call:
    shape, op = _shape(a["output"]), "softmax_grad"
    row = shape[a["dim"]] if shape else 1
    forward, given = ElementwiseSpec("softmax", shape, row), dict.fromkeys(("grad_output", "output"), shape)
    return Call(op, _grad(op, forward, a, given, shape, reduction=row, flops_each=4), None, {"dim": a["dim"]})


def _norm(op: str, a: Args, of_sums: bool, **more: Any) -> Call:
    """A part of batch norm: sums, (2, C), or the gradient of its input."""
    shape = _shape(a["input"])
    statistics = {name: _shape(a.get(name)) for name in ("running_mean", "running_var", "weight")}
    s = NormSpec.of(shape, a.get("eps", 0.0), **statistics)
    C, count = shape[1], prod((shape[0], *shape[2:]))
    given = {"grad_output": shape, "input": shape, **dict.fromkeys(statistics, (C,)), "sums": (2, C), "output": shape}
    given = {name: expected for name, expected in given.items() if name in a}
    result = (2, C) if of_sums else shape
    optional = ("weight", "sums", "output")
    spec = _grad(op, s, a, given, result, reduction=count, optional=optional, wide=NUMBERS, sums=of_sums, **more)
    params = {"eps": a["eps"]} if "eps" in a else {}
    return Call(op, spec, None, params | ({"activation": a["activation"]} if a.get("activation") else {}))


def _with_masked(call: Call) -> Call:
    return replace(call, params={**call.params, "return_masked": True})


WINDOW = "SymInt[] input_size, int[] kernel_size, int[] stride, int[] padding"
STATISTICS = "Tensor grad_output, Tensor input, Tensor running_mean, Tensor running_var"
TOLD = "float eps, Tensor? output, str? activation"  # with the activation behind the norm, whose derivative its output tells
GRADS = (
    Op("activation_grad", "Tensor grad_output, Tensor saved, str activation", _activation_grad),
    Op("max_pool2d_with_winners", library.MAX_POOL, library.max_pool2d_with_winners, "(Tensor, Tensor)"),
    Op(
        "max_pool2d_grad",
        f"Tensor grad_output, Tensor winners, {WINDOW}, int[] dilation, bool ceil_mode",
        _max_pool2d_grad,
    ),
    Op(
        "avg_pool2d_grad",
        f"Tensor grad_output, {WINDOW}, bool ceil_mode, bool count_include_pad, int? divisor_override",
        _avg_pool2d_grad,
    ),
    Op("adaptive_avg_pool2d_grad", "Tensor grad_output, SymInt[] input_size", _adaptive_avg_pool2d_grad),
    Op(
        "adaptive_max_pool2d_grad", "Tensor grad_output, Tensor winners, SymInt[] input_size", _adaptive_max_pool2d_grad
    ),
    Op(
        "local_response_norm_grad",
        "Tensor grad_output, Tensor input, int size, float alpha, float beta, float k",
        _local_response_norm_grad,
    ),
    Op("softmax_grad", "Tensor grad_output, Tensor output, int dim", _softmax_grad),
    Op("batch_norm_stats", "Tensor input", lambda a: _norm("batch_norm_stats", a, True, flops_each=4)),
    Op("batch_norm_sums", f"{STATISTICS}, {TOLD}", partial(_norm, "batch_norm_sums", of_sums=True, flops_each=5)),
    Op(
        "batch_norm_sums_with_masked",  # the gradient before the activation comes along, for a residual
        f"{STATISTICS}, {TOLD}",
        lambda a: _with_masked(_norm("batch_norm_sums", a, True, flops_each=5)),
        "(Tensor, Tensor)",
    ),
    Op(
        "batch_norm_input_grad",
        f"{STATISTICS}, Tensor? weight, Tensor? sums, {TOLD}",
        lambda a: _norm("batch_norm_input_grad", a, False, flops_each=7),
    ),
)


def _batch_norm_train(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """(activation(batch norm by the batch's own statistics + residual), the statistics): two ops, each of which reads the input
    once.
    """
    if (count := prod((input.shape[0], *input.shape[2:]))) == 1:
        raise ShapeError(
            f"batch_norm: {count} value a channel in an input of shape {tuple(input.shape)}, expected more while training"
        )
    token = requested.set(None)  # what runs inside is not the whole call, and must not be replayed for it (ops/hot.py)
    try:
        statistics = _ops.batch_norm_stats(input, backend)
        return _ops.batch_norm(input, *statistics, weight, bias, eps, activation, residual, backend), statistics
    finally:
        requested.reset(token)


# Formulas: what a backward pass needs of a call, and what it computes of it.


def _masked(g: Tensor, s: Saved) -> Tensor:
    """The gradient before the epilogue's activation, from that behind it and the output."""
    activation = s.args.get("activation")
    return g if activation is None else _ops.activation_grad(g, s["output"], activation, s.backend)


def _and_output(s: Saved, *names: str) -> tuple[str, ...]:
    return (*names, "output") if s.args.get("activation") else names


def _keep_factors(s: Saved) -> tuple[str, ...]:
    """A product keeps each factor for the other one's gradient."""
    return _and_output(s, *(name for name, other in (("input", "weight"), ("weight", "input")) if other in s.wanted))


def _conv2d(s: Saved, g: Tensor) -> Gradients:
    """Two products: of the gradient with the filters, and with the input; the bias's gradient comes along with the second."""
    g = _masked(g, s)
    geometry = [s.args[name] for name in ("stride", "padding", "dilation", "groups")]
    found: Gradients = {"residual": g}
    if "input" in s.wanted:
        found["input"] = _ops.conv2d_input_grad(g, s["weight"], s.shapes["input"], *geometry, s.backend)
    return found | _filters(s, g, s.tensors.get("input"), g, geometry)


def _filters(s: Saved, g: Tensor, image: Tensor | None, filtered: Tensor | None, geometry: list) -> Gradients:
    """The gradients of a convolution's weight and bias, from the image that its filters meet and the gradient of what they make."""
    given = filtered, image, s.shapes.get("weight"), *geometry, s.backend
    if "weight" in s.wanted and "bias" in s.wanted and filtered is g:
        weight, bias = _ops.conv2d_weight_grad_with_bias(*given)
        return {"weight": weight, "bias": bias}
    found: Gradients = {}
    if "weight" in s.wanted:
        found["weight"] = _ops.conv2d_weight_grad(*given)
    if "bias" in s.wanted:
        found["bias"] = g.sum((0, 2, 3))
    return found


def _conv_transpose2d(s: Saved, g: Tensor) -> Gradients:
    """The same two products with the sides exchanged: dx is a convolution of dy, whose filters meet dy and make dx."""
    g = _masked(g, s)
    a = s.args
    pads, beyond = [], []
    for pad, extra in zip(
        a["padding"], a["output_padding"]
    ):  # rows that output_padding adds meet no window of that convolution
        pads += [pad, max(pad - extra, 0)]
        beyond.append(max(extra - pad, 0))
    met = g[:, :, : g.shape[2] - beyond[0], : g.shape[3] - beyond[1]]
    geometry = [a["stride"], pads, a["dilation"], a["groups"]]
    found: Gradients = {}
    if "input" in s.wanted:
        found["input"] = _ops.conv2d(met, s["weight"], None, *geometry, None, None, s.backend)
    return found | _filters(s, g, met, s.tensors.get("input"), geometry)


def _linear(s: Saved, g: Tensor) -> Gradients:
    """dx = dy W, dW = dy^T x, db = the column sums of dy: products of the same kernel, with matrices as they lie."""
    g = _masked(g, s)
    found: Gradients = {}
    if "input" in s.wanted:
        found["input"] = _ops.linear(g, s["weight"].t(), None, None, s.backend)
    rows = g.reshape(-1, g.shape[-1]).t()
    if "weight" in s.wanted:
        x = s["input"]
        found["weight"] = _ops.linear(rows, x.reshape(-1, x.shape[-1]).t(), None, None, s.backend)
    if "bias" in s.wanted:
        found["bias"] = _ops.linear(rows.new_ones(1, rows.shape[1]), rows, None, None, s.backend).squeeze(0)
    return found


def _max_pool2d(s: Saved, g: Tensor) -> Gradients:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return {"input": _ops.max_pool2d_grad(g, s["winners"], s.shapes["input"], *(s.args[n] for n in names), s.backend)}


def _max_pool2d_forward(s: Saved) -> str:
    """A byte holds the winners of up to 256 taps; torch's own backward takes their places."""
    R, S = s.args["kernel_size"]
    return f"max_pool2d_with_{'winners' if R * S <= 256 and s.backend != 'cudnn' else 'indices'}"


def _avg_pool2d(s: Saved, g: Tensor) -> Gradients:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return {"input": _ops.avg_pool2d_grad(g, s.shapes["input"], *(s.args[n] for n in names), s.backend)}


def _adaptive_avg_pool2d(s: Saved, g: Tensor) -> Gradients:
    return {"input": _ops.adaptive_avg_pool2d_grad(g, s.shapes["input"], s.backend)}


def _adaptive_max_pool2d(s: Saved, g: Tensor) -> Gradients:
    return {"input": _ops.adaptive_max_pool2d_grad(g, s["winners"], s.shapes["input"], s.backend)}


def _channel_scale(s: Saved, g: Tensor) -> Gradients:
    """dx = dy * gate(scale), the same op again; the scale's is the sum of dy * x over the pixels, back through the gate."""
    g, gate = _masked(g, s), s.args["gate"]
    found: Gradients = {"residual": g}
    if "x" in s.wanted:
        found["x"] = _ops.channel_scale(g, s["scale"], gate, None, None, s.backend)
    if "scale" in s.wanted:
        scale = s["scale"]
        by_factor = (g * s["x"]).sum_to_size(scale.shape)
        if gate is not None:
            told = scale if tells_nothing(gate) else activated(scale, gate, s.backend)
            by_factor = _ops.activation_grad(by_factor, told, gate, s.backend)
        found["scale"] = by_factor
    return found


def _residual_add(s: Saved, g: Tensor) -> Gradients:
    g = _masked(g, s)
    return {"x": g, "shortcut": g}


def _local_response_norm(s: Saved, g: Tensor) -> Gradients:
    numbers = (s.args[name] for name in ("size", "alpha", "beta", "k"))
    return {"input": _ops.local_response_norm_grad(g, s["input"], *numbers, s.backend)}


def _softmax(s: Saved, g: Tensor) -> Gradients:
    return {"input": _ops.softmax_grad(g, s["output"], s.args["dim"], s.backend)}


def _concat(s: Saved, g: Tensor) -> Gradients:
    """Views of the gradient: nothing is copied."""
    dim, start, found = s.args["dim"], 0, {}
    for name, shape in s.shapes.items():
        found[name] = g.narrow(dim, start, shape[dim])
        start += shape[dim]
    return found


def _own_activation(s: Saved, g: Tensor) -> Gradients:
    activation = own_activation(s.op, s.args)
    return {
        "input": _ops.activation_grad(g, s["input" if tells_nothing(activation) else "output"], activation, s.backend)
    }


def norm_gradients(
    s: Saved,
    g: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    whole: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Gradients:
    """Two passes: the sums, which are the gradients of bias and weight, and the input's.

    Both find the activation's derivative in the output. Where a residual wants the gradient before the activation, the first pass
    writes it and the second reads it: fewer bytes than a pass of its own. `whole` makes of the sums those of all processes.
    """
    x, weight, eps = s["input"], s["weight"], s.args["eps"]
    activation = s.args["activation"]
    told = (s["output"] if activation else None, activation)
    sums, found = None, Gradients()
    if training or s.wanted & {"weight", "bias"}:
        if activation and "residual" in s.wanted:
            sums, g = _ops.batch_norm_sums_with_masked(g, x, mean, var, eps, *told, s.backend)
            told = (None, None)
        else:
            sums = _ops.batch_norm_sums(g, x, mean, var, eps, *told, s.backend)
        found = {name: sums[row].to(s.dtypes[name]) for row, name in enumerate(("bias", "weight")) if name in s.wanted}
    elif activation and "residual" in s.wanted:
        g, told = _masked(g, s), (None, None)
    if "residual" in s.wanted:
        found["residual"] = g
    if "input" in s.wanted:
        given = whole(sums) if training else None
        found["input"] = _ops.batch_norm_input_grad(g, x, mean, var, weight, given, eps, *told, s.backend)
    return found


def _batch_norm(s: Saved, g: Tensor) -> Gradients:
    return norm_gradients(s, g, s["running_mean"], s["running_var"], False)


def _batch_norm_training(s: Saved, g: Tensor) -> Gradients:
    return norm_gradients(s, g, *s["statistics"], True)


FORMULAS.update(
    {
        "conv2d": Formula(_keep_factors, _conv2d),
        "conv_transpose2d": Formula(_keep_factors, _conv_transpose2d),
        "linear": Formula(_keep_factors, _linear),
        "max_pool2d": Formula(
            lambda s: ("winners",), _max_pool2d, forward=_max_pool2d_forward, results=("output", "winners")
        ),
        "max_pool2d_with_indices": Formula(lambda s: ("winners",), _max_pool2d, results=("output", "winners")),
        "avg_pool2d": Formula(lambda s: (), _avg_pool2d),
        "adaptive_avg_pool2d": Formula(lambda s: (), _adaptive_avg_pool2d),
        "adaptive_max_pool2d": Formula(
            lambda s: ("winners",),
            _adaptive_max_pool2d,
            forward=lambda s: "adaptive_max_pool2d_with_indices",
            results=("output", "winners"),
        ),
        "adaptive_max_pool2d_with_indices": Formula(
            lambda s: ("winners",), _adaptive_max_pool2d, results=("output", "winners")
        ),
        "channel_scale": Formula(lambda s: _and_output(s, "x", "scale"), _channel_scale),
        "residual_add": Formula(_and_output, _residual_add),
        "batch_norm": Formula(
            lambda s: _and_output(s, "input", "running_mean", "running_var", "weight"),
            _batch_norm,
            constants=("running_mean", "running_var"),
        ),
        "batch_norm_train": Formula(
            lambda s: _and_output(s, "input", "weight", "statistics"),
            _batch_norm_training,
            results=("output", "statistics"),
        ),
        "local_response_norm": Formula(lambda s: ("input",), _local_response_norm),
        "softmax": Formula(lambda s: ("output",), _softmax),
        "concat": Formula(lambda s: (), _concat),
        **{
            name: Formula(
                lambda s: ("input" if tells_nothing(own_activation(s.op, s.args)) else "output",), _own_activation
            )
            for name in FLOPS
        },
    }
)

for _op in GRADS:
    library.register(_op)
library.register_composite(
    "batch_norm_train(Tensor input, Tensor? weight, Tensor? bias, float eps, str? activation, Tensor? residual, "
    "str? backend=None) -> (Tensor, Tensor)",
    _batch_norm_train,
)
