"""Backend "cudnn" for the ops of the backward pass: PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.specs.activations import parsed

if TYPE_CHECKING:
    from convatlas.call import Call

aten = torch.ops.aten
Tensors = dict[str, Tensor]


def _activation_grad(call: Call, t: Tensors) -> Tensor:
    return _masked(call, t["grad_output"], t["saved"])


def _masked(call: Call, g: Tensor, v: Tensor | None) -> Tensor:
    """g before the activation, of which v tells the derivative; g itself where there is none."""
    if v is None:
        return g
    name, slope = parsed(call.params["activation"])
    if name == "relu":
        return aten.threshold_backward(g, v, 0)
    if name == "relu6":
        return aten.hardtanh_backward(g, v, 0, 6)
    if name == "leaky_relu":
        return aten.leaky_relu_backward(g, v, slope, False)
    return getattr(aten, f"{name}_backward")(g, v)


def _window(call: Call) -> tuple:
    s = call.spec.forward
    return (s.R, s.S), s.stride, s.padding


def _max_pool2d_grad(call: Call, t: Tensors) -> Tensor:
    s, g, where = call.spec.forward, t["grad_output"], t["winners"].long()
    if call.params.get("taps"):
        rows, columns = _corners(s, g.device)
        h, w = rows + where // s.S * s.dilation[0], columns + where % s.S * s.dilation[1]
        where = torch.where((h >= 0) & (h < s.H) & (w >= 0) & (w < s.W), h * s.W + w, 0)
    x = g.new_empty(s.input_shape)
    return aten.max_pool2d_with_indices_backward(g, x, *_window(call), s.dilation, s.ceil_mode, where)


def _corners(s: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The row and the column of the input at which each window begins."""
    rows, columns = (torch.arange(n, device=device) * u - t for n, u, t in zip((s.P, s.Q), s.stride, s.padding))
    return rows[:, None], columns


def max_pool2d(call: Call, t: Tensors) -> Tensor | tuple[Tensor, Tensor]:
    """With the winners' places in the input, or their numbers in the window, where those are asked for."""
    s = call.spec
    found = F.max_pool2d(t["input"], **s.arguments, return_indices=bool(call.extra))
    if "winners" not in call.extra:
        return found
    y, where = found
    rows, columns = _corners(s, y.device)
    r, c = (where // s.W - rows) // s.dilation[0], (where % s.W - columns) // s.dilation[1]
    return y, (r * s.S + c).clamp(0, 255).to(torch.uint8)


def _adaptive_max_pool2d_grad(call: Call, t: Tensors) -> Tensor:
    g = t["grad_output"]
    return aten.adaptive_max_pool2d_backward(g, g.new_empty(call.spec.output_shape), t["winners"].long())


def _avg_pool2d_grad(call: Call, t: Tensors) -> Tensor:
    s, g = call.spec.forward, t["grad_output"]
    modes = s.ceil_mode, s.count_include_pad, s.divisor_override
    return aten.avg_pool2d_backward(g, g.new_empty(s.input_shape), *_window(call), *modes)


def _adaptive_avg_pool2d_grad(call: Call, t: Tensors) -> Tensor:
    g = t["grad_output"]
    return aten._adaptive_avg_pool2d_backward(g, g.new_empty(call.spec.output_shape))


def _local_response_norm_grad(call: Call, t: Tensors) -> Tensor:
    with torch.enable_grad():
        x = t["input"].detach().requires_grad_()
        y = F.local_response_norm(x, call.spec.forward.size, **call.params)
        return torch.autograd.grad(y, x, t["grad_output"])[0]


def _softmax_grad(call: Call, t: Tensors) -> Tensor:
    return aten._softmax_backward_data(t["grad_output"], t["output"], call.params["dim"], t["output"].dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _batch_norm_stats(call: Call, t: Tensors) -> Tensor:
    x = _wide(t["input"])
    var, mean = torch.var_mean(x, (0, *range(2, x.dim())), correction=0)
    return torch.stack([mean, var])


def _norm_grads(call: Call, t: Tensors, g: Tensor, wanted: list[bool]) -> tuple:
    mean, var = _wide(t["running_mean"]), _wide(t["running_var"])
    weight, inverse, training = t.get("weight"), torch.rsqrt(var + call.params["eps"]), "sums" in t
    given = g, t["input"], weight, mean, var, mean, inverse, training, call.params["eps"], wanted
    return aten.native_batch_norm_backward(*given)


def _batch_norm_sums(call: Call, t: Tensors) -> Tensor | tuple[Tensor, Tensor]:
    g = _masked(call, t["grad_output"], t.get("output"))
    _, by_weight, by_bias = _norm_grads(call, t, g, [False, True, True])
    sums = torch.stack([by_bias, by_weight]).to(_wide(t["running_mean"]).dtype)
    return (sums, g) if call.extra else sums


def _batch_norm_input_grad(call: Call, t: Tensors) -> Tensor:
    return _norm_grads(call, t, _masked(call, t["grad_output"], t.get("output")), [True, False, False])[0]


def _cross_entropy_rows(call: Call, t: Tensors) -> tuple[Tensor, Tensor]:
    x = _wide(t["input"])
    losses = F.cross_entropy(x, t["target"], reduction="none", **_options(call))
    return losses, torch.logsumexp(x, 1)


def _cross_entropy_grad(call: Call, t: Tensors) -> Tensor:
    with torch.enable_grad():
        x = t["input"].detach().requires_grad_()
        losses = F.cross_entropy(_wide(x), t["target"], reduction="none", **_options(call))
        return torch.autograd.grad(losses, x, t["grad_output"].to(losses.dtype))[0]


def _options(call: Call) -> dict[str, Any]:
    return {name: call.params[name] for name in ("ignore_index", "label_smoothing")}


OPS: dict[str, Callable[[Call, Tensors], Tensor]] = {
    "activation_grad": _activation_grad,
    "max_pool2d_grad": _max_pool2d_grad,
    "adaptive_max_pool2d_grad": _adaptive_max_pool2d_grad,
    "avg_pool2d_grad": _avg_pool2d_grad,
    "adaptive_avg_pool2d_grad": _adaptive_avg_pool2d_grad,
    "local_response_norm_grad": _local_response_norm_grad,
    "softmax_grad": _softmax_grad,
    "cross_entropy_rows": _cross_entropy_rows,
    "cross_entropy_grad": _cross_entropy_grad,
    "batch_norm_stats": _batch_norm_stats,
    "batch_norm_sums": _batch_norm_sums,
    "batch_norm_input_grad": _batch_norm_input_grad,
}
