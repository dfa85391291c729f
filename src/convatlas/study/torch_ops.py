"""Describes torch's own ops by our specs, so that a net which was not built on convatlas is counted by the same rules.

The ops are read where torch's dispatcher hands them to the device: F.linear, nn.Linear and x @ w.T are all "addmm" or "mm" there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from convatlas.call import Call
from convatlas.errors import ShapeError
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    ConcatSpec,
    Conv2dSpec,
    ConvTranspose2dSpec,
    ElementwiseSpec,
    Epilogue,
    LinearSpec,
    NormSpec,
    Pool2dSpec,
    ResidualAddSpec,
    Spec,
)
from convatlas.specs.activations import FLOPS

Args = dict[str, Any]
Depends = Callable[[Tensor], bool]

# Nothing is computed by these: copies, other ways to look at memory (views are asked of the op itself), and new memory.
_COPIES = frozenset(
    [
        "clone",
        "copy",
        "_to_copy",
        "_unsafe_view",
        "_reshape_alias",
        "as_strided",
        "detach",
        "lift",
        "lift_fresh",
        "resize",
    ]
)
_NEW = frozenset(
    [
        "empty",
        "empty_strided",
        "empty_like",
        "new_empty",
        "new_empty_strided",
        "zeros_like",
        "new_zeros",
        "ones_like",
        "new_ones",
        "full_like",
        "new_full",
    ]
)


@dataclass(frozen=True)
class TorchSpec(Spec):
    """An op of torch that we do not have, but whose products torch counts: bmm, attention, conv1d, conv3d.

    Attributes:
        name: torch's name.
        input_shape, result_shape: shapes of the first operand and the first result.
        moved: elements of all operands, then of the result.
        multiplied: half of the FLOPs that torch.utils.flop_counter counts.
    """

    name: str
    input_shape: tuple[int, ...]
    result_shape: tuple[int, ...]
    moved: tuple[int, int]
    multiplied: int

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.result_shape

    @property
    def elements(self) -> dict[str, int]:
        return {"operands": self.moved[0], "output": self.moved[1]}

    @property
    def macs(self) -> int:
        return self.multiplied

    @property
    def flops(self) -> int:
        return 2 * self.macs


def name_of(function: Any) -> str:
    """ "relu" for aten.relu_.default: the op's name, without the mark of one that writes over its input."""
    return function._schema.name.split("::")[-1].rstrip("_")


def is_free(function: Any) -> bool:
    """Whether the op computes nothing: a view, a copy, new memory."""
    return function.is_view or name_of(function) in _COPIES or is_new(function)


def is_new(function: Any) -> bool:
    """Whether the op's result depends on no tensor's values, only on a shape."""
    return name_of(function) in _NEW


def describe(function: Any, values: tuple, keywords: Args, result: Any, depends: Depends) -> Call | None:
    """What `function` did, or None where no spec describes it.

    `depends` tells whether a tensor depends on the net's input; a tensor that does not is a weight.
    """
    a = {argument.name: argument.default_value for argument in function._schema.arguments}
    a.update(zip(a, values))
    a.update(keywords)
    row = _TABLE.get(name_of(function))
    try:
        found = row(a, depends) if row else None
    except ShapeError:  # torch takes more than our op of that name
        found = None
    return _products(function, values, keywords, result) if found is None else found


def _products(function: Any, values: tuple, keywords: Args, result: Any) -> Call | None:
    formula = flop_registry.get(function.overloadpacket)
    if formula is None:
        return None
    operands = [x for x in tree_leaves((values, keywords)) if isinstance(x, Tensor)]
    first = next(x for x in tree_leaves(result) if isinstance(x, Tensor))
    macs = int(formula(*values, **keywords, out_val=result)) // 2
    moved = sum(x.numel() for x in operands), first.numel()
    name = name_of(function).lstrip("_")
    return Call(name, TorchSpec(name, tuple(operands[0].shape), tuple(first.shape), moved, macs))


def _convolution(a: Args, depends: Depends) -> Call | None:
    x, weight = a["input"], a["weight"]
    if weight.dim() != 4 or depends(weight):
        return None
    op, make, names = ("conv2d", Conv2dSpec, ("stride", "padding", "dilation", "groups"))
    if a.get("transposed"):
        op, make, names = "conv_transpose2d", ConvTranspose2dSpec, (*names, "output_padding")
    geometry = {name: tuple(a[name]) if isinstance(a[name], list) else a[name] for name in names}
    spec = make.of(tuple(x.shape), tuple(weight.shape), **geometry)
    return Call(op, spec, Epilogue(bias=a["bias"] is not None))


def _addmm(a: Args, depends: Depends) -> Call | None:
    """input @ weight.T + bias; a product of two activations is not a linear layer."""
    x, weight, bias = a["mat1"], a["mat2"], a["self"]
    if not depends(x) or depends(weight) or depends(bias) or bias.numel() != weight.shape[1]:
        return None
    return Call("linear", LinearSpec.of(tuple(x.shape), tuple(weight.shape[::-1])), Epilogue(bias=True))


def _mm(a: Args, depends: Depends) -> Call | None:
    if not depends(a["self"]) or depends(a["mat2"]):
        return None
    return Call("linear", LinearSpec.of(tuple(a["self"].shape), tuple(a["mat2"].shape[::-1])), Epilogue())


def _batched(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape) if x.dim() == 4 else (1, *x.shape)


def _max_pool(a: Args, depends: Depends) -> Call:
    window = a["kernel_size"], a["stride"] or None, a["padding"], a["dilation"], a["ceil_mode"]
    return Call("max_pool2d", Pool2dSpec.of("max", _batched(a["self"]), *window))


def _avg_pool(a: Args, depends: Depends) -> Call:
    window = a["kernel_size"], a["stride"] or None, a["padding"], 1, a["ceil_mode"]
    rest = a["count_include_pad"], a["divisor_override"]
    return Call("avg_pool2d", Pool2dSpec.of("avg", _batched(a["self"]), *window, *rest))


def _adaptive_avg_pool(a: Args, depends: Depends) -> Call:
    return Call("adaptive_avg_pool2d", AdaptivePool2dSpec.of(_batched(a["self"]), tuple(a["output_size"])))


def _adaptive_max_pool(a: Args, depends: Depends) -> Call:
    return Call("adaptive_max_pool2d", AdaptivePool2dSpec.of(_batched(a["self"]), tuple(a["output_size"]), "max"))


def _mul(a: Args, depends: Depends) -> Call | None:
    """An image times a number a channel, in either order."""
    for x, scale in ((a["self"], a["other"]), (a["other"], a["self"])):
        if isinstance(x, Tensor) and isinstance(scale, Tensor) and x.dim() == 4 and depends(x):
            with suppress(ShapeError):
                if tuple(scale.shape) != tuple(x.shape):
                    return Call("channel_scale", ChannelScaleSpec.of(tuple(x.shape), tuple(scale.shape)), Epilogue())
    return None


def _mean(a: Args, depends: Depends) -> Call | None:
    """The mean over H and W is global average pooling; adaptive_avg_pool2d(x, 1) arrives as one."""
    x = a["self"]
    if x.dim() != 4 or {d % 4 for d in a.get("dim") or ()} != {2, 3}:
        return None
    return Call("adaptive_avg_pool2d", AdaptivePool2dSpec.of(tuple(x.shape), 1))


def _batch_norm(a: Args, depends: Depends) -> Call:
    return Call("batch_norm", NormSpec.of(tuple(a["input"].shape), a["eps"]), Epilogue(), {"eps": a["eps"]})


def _add(a: Args, depends: Depends) -> Call | None:
    x, other = a["self"], a["other"]
    if not isinstance(other, Tensor) or a.get("alpha", 1) != 1 or not (depends(x) and depends(other)):
        return None
    return Call("residual_add", ResidualAddSpec.of(tuple(x.shape), tuple(other.shape)), Epilogue())


def _cat(a: Args, depends: Depends) -> Call:
    return Call("concat", ConcatSpec.of([tuple(x.shape) for x in a["tensors"]], a["dim"]))


def _softmax(a: Args, depends: Depends) -> Call:
    shape = tuple(a["self"].shape)
    dim = a["dim"] % len(shape) if shape else 0
    return Call("softmax", ElementwiseSpec("softmax", shape, shape[dim] if shape else 1), None, {"dim": dim})


def _activation(name: str) -> Callable[[Args, Depends], Call]:
    def row(a: Args, depends: Depends) -> Call:
        params = {key: a[key] for key in ("negative_slope",) if key in a}
        return Call(name, ElementwiseSpec(name, tuple(a["self"].shape)), None, params)

    return row


def _clamp(low: str, high: str) -> Callable[[Args, Depends], Call | None]:
    def row(a: Args, depends: Depends) -> Call | None:
        if (a[low], a[high]) != (0, 6):
            return None
        return Call("relu6", ElementwiseSpec("relu6", tuple(a["self"].shape)))

    return row


_TABLE: dict[str, Callable[[Args, Depends], Call | None]] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive_avg_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "mul": _mul,
    "mean": _mean,
    # One op with many names: which one a batch norm arrives as depends on the device and on torch's version.
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_batch_norm_with_update": _batch_norm,
    "_batch_norm_no_update": _batch_norm,
    "add": _add,
    "cat": _cat,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    **{name: _activation(name) for name in FLOPS},
    "hardtanh": _clamp("min_val", "max_val"),
    "clamp": _clamp("min", "max"),
}
