"""Which of PyTorch's ops is which op of ours: one row an op. What has no row, or whose row says None, stays PyTorch's.

A row turns PyTorch's arguments, by the names of its schema, into the arguments that the op of ours has in ops/library.py, whose
`describe` then validates them and makes the Call: what it refuses stays PyTorch's as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from convatlas.call import Call
from convatlas.errors import ConvAtlasError
from convatlas.ops.library import BY_NAME
from convatlas.specs.activations import FLOPS
from convatlas.specs.arguments import sides
from convatlas.specs.common import dtype_name

Args = dict[str, Any]
Converted = tuple[str, Args]  # the name of an op of ours, and its arguments

# What computes nothing at inference: its result is its first argument.
IDENTITIES = frozenset(
    ["dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias", "lift_fresh", "lift"]
)


def bound(target: Any, args: tuple, keywords: Args) -> Args:
    """The arguments of a call of `target` by name, defaults included."""
    schema = target._schema.arguments
    found = {argument.name: argument.default_value for argument in schema}
    found.update(zip((argument.name for argument in schema), args))
    found.update(keywords)
    return found


def is_identity(target: Any, a: Args) -> bool:
    """Whether the op gives its first argument back, at most laid out anew."""
    name = target._schema.name.split("::")[-1]
    if name in ("_to_copy", "to"):
        x = a["self"]
        return a.get("dtype") in (None, x.dtype) and a.get("device") in (None, x.device)
    return name in IDENTITIES and not a.get("train", False)


def converted(target: Any, a: Args) -> tuple[Call, Args] | None:
    """(Call, operands by name) of the op of ours that does what `target` does on arguments `a`; None where there is none.

    Tensors among the arguments may be anything that has a shape and a dtype.
    """
    namespace, name = target._schema.name.split("::")
    found = (name, a) if namespace == "convatlas" else TABLE[name](a) if name in TABLE else None
    if found is None or found[0] not in BY_NAME:
        return None
    op = BY_NAME[found[0]]
    given = dict.fromkeys(op.arguments) | {k: v for k, v in found[1].items() if k in op.arguments}
    try:
        call = op.describe(given)
        operands = {k: v for k, v in given.items() if hasattr(v, "dtype")}
        operands.update((str(i), x) for i, x in enumerate(given.get("tensors", ())))
        kinds = {x.dtype for x in operands.values()}
        if len(kinds) != 1 or op.returns != "Tensor":
            return None
        return replace(call, dtype=dtype_name(kinds.pop())), operands
    except ConvAtlasError:  # PyTorch's op of that name takes more than ours
        return None


def _pair(value: Any, default: Any = None) -> list[int]:
    value = default if not value and value != 0 else value
    return [value] * 2 if isinstance(value, int) else list(value) * (2 // len(value))


def _convolution(a: Args) -> Converted | None:
    if a.get("transposed"):
        return _transposed(a)
    x, w = a["input"], a["weight"]
    if len(w.shape) != 4 or len(x.shape) != 4:
        return None
    stride, dilation = _pair(a["stride"]), _pair(a["dilation"])
    pads = a["padding"] if isinstance(a["padding"], str) else tuple(_pair(a["padding"]))
    (top, bottom), (left, right) = sides(pads, tuple(w.shape[2:]), tuple(stride), tuple(dilation), "conv2d")
    return "conv2d", {
        **a,
        "stride": stride,
        "padding": [top, bottom, left, right],
        "dilation": dilation,
        "activation": None,
        "residual": None,
    }


def _transposed(a: Args) -> Converted | None:
    if len(a["weight"].shape) != 4 or len(a["input"].shape) != 4:
        return None
    pairs = {name: _pair(a[name]) for name in ("stride", "padding", "output_padding", "dilation")}
    return "conv_transpose2d", {**a, **pairs, "activation": None}


def _batch_norm(a: Args) -> Converted | None:
    if a.get("training") or a.get("running_mean") is None:
        return None
    return "batch_norm", {**a, "activation": None, "residual": None}


def _pool(op: str) -> Callable[[Args], Converted | None]:
    def row(a: Args) -> Converted | None:
        x = a["self"]
        if len(x.shape) != 4:
            return None
        kernel = _pair(a["kernel_size"])
        rest = {"kernel_size": kernel, "stride": _pair(a["stride"], kernel), "padding": _pair(a["padding"])}
        if op == "max_pool2d":
            rest["dilation"] = _pair(a["dilation"])
        return op, {**a, "input": x, **rest}

    return row


def _adaptive(kind: str) -> Callable[[Args], Converted | None]:
    def row(a: Args) -> Converted | None:
        x, size = a["self"], _pair(a["output_size"])
        return (f"adaptive_{kind}_pool2d", {"input": x, "output_size": size}) if len(x.shape) == 4 else None

    return row


def _over_pixels(kind: str) -> Callable[[Args], Converted | None]:
    """The mean or maximum over H and W; the plan sees a result without those two dimensions as a view of the pooled one."""

    def row(a: Args) -> Converted | None:
        x = a["self"]
        if len(x.shape) != 4 or {d % 4 for d in a.get("dim") or ()} != {2, 3} or a.get("dtype") not in (None, x.dtype):
            return None
        return f"adaptive_{kind}_pool2d", {"input": x, "output_size": [1, 1]}

    return row


def _add(a: Args) -> Converted | None:
    if a.get("alpha", 1) != 1 or not hasattr(a["other"], "dtype"):
        return None
    return "residual_add", {"x": a["self"], "shortcut": a["other"], "activation": None}


def _mul(a: Args) -> Converted | None:
    """An image times a number a channel, in either order."""
    for x, scale in ((a["self"], a["other"]), (a["other"], a["self"])):
        shapes = tuple(getattr(x, "shape", ())), tuple(getattr(scale, "shape", ()))
        if len(shapes[0]) == 4 and shapes[0] != shapes[1] and shapes[1][-2:] == (1, 1):
            return "channel_scale", {"x": x, "scale": scale, "gate": None, "activation": None, "residual": None}
    return None


def _clamp(low: str, high: str) -> Callable[[Args], Converted | None]:
    def row(a: Args) -> Converted | None:
        bounds = a.get(low), a.get(high)
        if bounds == (0, 6):
            return "relu6", {"input": a["self"]}
        return ("relu", {"input": a["self"]}) if bounds == (0, None) else None

    return row


def _softmax(a: Args) -> Converted | None:
    return ("softmax", {"input": a["self"], "dim": a["dim"]}) if a.get("dtype") in (None, a["self"].dtype) else None


def _element_wise(op: str) -> Callable[[Args], Converted]:
    return lambda a: (op, {**a, "input": a["self"]})


TABLE: dict[str, Callable[[Args], Converted | None]] = {
    "conv2d": _convolution,
    "convolution": _convolution,
    "conv_transpose2d": _transposed,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "linear": lambda a: ("linear", {**a, "activation": None}),
    "max_pool2d": _pool("max_pool2d"),
    "avg_pool2d": _pool("avg_pool2d"),
    "adaptive_avg_pool2d": _adaptive("avg"),
    "_adaptive_avg_pool2d": _adaptive("avg"),
    "adaptive_max_pool2d": _adaptive("max"),
    "mean": _over_pixels("avg"),
    "amax": _over_pixels("max"),
    "add": _add,
    "mul": _mul,
    "cat": lambda a: ("concat", a),
    "softmax": _softmax,
    "_softmax": _softmax,
    **{name: _element_wise(name) for name in FLOPS},
    "hardtanh": _clamp("min_val", "max_val"),
    "clamp": _clamp("min", "max"),
    "clamp_min": _clamp("min", "max"),
}
