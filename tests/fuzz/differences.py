"""Where torch is not followed, on purpose: each with a case that shows it, so that a test keeps the list true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan
from typing import Any

from torch import Tensor, tensor

from convatlas.errors import DtypeError
from fuzz import like_torch
from fuzz.cases import Case, T, made


@dataclass(frozen=True)
class Difference:
    """A kind of case that torch and convatlas answer differently.

    Attributes:
        why: what each does, and the reason.
        applies: (case, torch's Answer, our error or None) -> whether this is it.
        example: a case that shows it.
    """

    why: str
    applies: Callable[[Case, Any, Any], bool]
    example: Case


def _dtypes(case: Case) -> set[str]:
    return {t.dtype for v in case.args.values() for t in (v if isinstance(v, list) else [v]) if isinstance(t, T)}


def _shape(case: Case, name: str) -> tuple[int, ...] | None:
    """The shape of the argument of that name if it is a tensor."""
    value = case.args.get(name)
    return tuple(value.shape) if isinstance(value, (T, Tensor)) else None


def _float64(case: Case, expected: Any, error: Any) -> bool:
    return isinstance(error, DtypeError) and "float64" in _dtypes(case) and case.backend in ("triton", "cuda")


def _many_dtypes(case: Case, expected: Any, error: Any) -> bool:
    return isinstance(error, DtypeError) and len(_dtypes(case)) > 1


def _no_floats(case: Case, expected: Any, error: Any) -> bool:
    return isinstance(error, DtypeError) and any(name in str(error) for name in ("torch.int64", "torch.bool"))


def _bias_broadcast(case: Case, expected: Any, error: Any) -> bool:
    weight, bias = _shape(case, "weight"), _shape(case, "bias")
    of_linear = case.op == "linear" and None not in (weight, bias) and bias != weight[:1]
    return bool(error) and (of_linear or (case.op == "batch_norm" and bias == ()))


def _weight_of_one_dimension(case: Case, expected: Any, error: Any) -> bool:
    weight = _shape(case, "weight")
    return case.op == "linear" and error is not None and weight is not None and len(weight) == 1


def _no_channels(case: Case, expected: Any, error: Any) -> bool:
    x = _shape(case, "input")
    return case.op.startswith("conv") and error is not None and x is not None and len(x) >= 3 and x[-3] == 0


def _empty(case: Case, expected: Any, error: Any) -> bool:
    """Whether torch, too, refuses the same arguments once no tensor is empty."""

    def full(value: Any) -> Any:
        if isinstance(value, list):
            return [full(v) for v in value]
        return replace(value, shape=tuple(n or 1 for n in value.shape)) if isinstance(value, T) else value

    filled = {name: full(value) for name, value in case.args.items()}
    if error is None or filled == case.args:
        return False
    return like_torch.answer(case.op, {name: made(value) for name, value in filled.items()}).error is not None


def _mean_of_nothing(case: Case, expected: Any, error: Any) -> bool:
    x = _shape(case, "input")
    return case.op == "adaptive_avg_pool2d" and error is not None and x is not None and 0 in x[-2:]


def _five_dimensions(case: Case, expected: Any, error: Any) -> bool:
    x = _shape(case, "input")
    return case.op == "adaptive_avg_pool2d" and error is not None and x is not None and len(x) not in (3, 4)


def _beyond_32_bits(case: Case, expected: Any, error: Any) -> bool:
    return bool(error) and "expected at most 21474" in str(error)


def _no_dim(case: Case, expected: Any, error: Any) -> bool:
    return case.op == "softmax" and bool(error) and case.args.get("dim", -1) is None


def _bool_in_a_pair(case: Case, expected: Any, error: Any) -> bool:
    return bool(error) and any(isinstance(v, (tuple, list)) and any(b is True for b in v) for v in case.args.values())


def _unbatched_reference(case: Case, expected: Any, error: Any) -> bool:
    x = _shape(case, "x" if case.op == "channel_scale" else "input")
    return case.backend == "reference" and error is not None and x is not None and len(x) == 3


def _integer_tensor(case: Case, expected: Any, error: Any) -> bool:
    return error is None and any(
        isinstance(v, Tensor) and v.dim() == 0 and not v.is_floating_point() for v in case.args.values()
    )


def _flag(case: Case, expected: Any, error: Any) -> bool:
    return case.op.endswith("max_pool2d") and "return_indices=" in str(error or "")


def _no_float32(case: Case, expected: Any, error: Any) -> bool:
    return case.op == "batch_norm" and "eps=" in str(error or "")


def _no_slope(case: Case, expected: Any, error: Any) -> bool:
    return "negative_slope=" in str(error or "")


def _unseen_on_meta(case: Case, expected: Any, error: Any) -> bool:
    tensors = [v for v in case.args.values() if isinstance(v, T)]
    return case.op.startswith("conv") and bool(error) and any(t.layout == "meta" for t in tensors)


def _number_by_tensor(case: Case, expected: Any, error: Any) -> bool:
    return case.op == "local_response_norm" and "expected a number" in str(error or "")


def _legacy_empty(case: Case, expected: Any, error: Any) -> bool:
    parts = case.args.get("tensors")
    return bool(error) and isinstance(parts, list) and any(isinstance(t, T) and t.shape == (0,) for t in parts)


DIFFERENCES = (
    Difference(
        "Sizes that do not fit are refused on the meta device too: torch does not look at a bias or at groups there.",
        _unseen_on_meta,
        Case(
            "conv2d",
            "numpy",
            {
                "input": T((1, 1, 2, 2), layout="meta"),
                "weight": T((2, 1, 1, 1), layout="meta"),
                "bias": T((3,), layout="meta"),
            },
        ),
    ),
    Difference(
        "alpha, beta and k are numbers: torch takes tensors of many, too.",
        _number_by_tensor,
        Case("local_response_norm", "numpy", {"input": T((1, 2, 2)), "size": 1, "beta": T((2,))}),
    ),
    Difference(
        "A tensor of shape (0,) is one of one dimension in concat: torch leaves it out, whatever the others and dim are.",
        _legacy_empty,
        Case("concat", "numpy", {"tensors": [T((0,)), T((2, 3))], "dim": 1}),
    ),
    Difference(
        "return_indices is True or False: torch takes whatever has a truth value for this flag alone.",
        _flag,
        Case("max_pool2d", "numpy", {"input": T((1, 1, 4, 4)), "kernel_size": 2, "return_indices": 0}),
    ),
    Difference(
        "Batch norm's eps is a number from 0 to float32's largest; torch computes with any.",
        _no_float32,
        Case("batch_norm", "numpy", {"input": T((2, 3)), "running_mean": T((3,)), "running_var": T((3,)), "eps": nan}),
    ),
    Difference(
        "leaky_relu's slope is a finite float32, and no bool or text; torch computes with any number.",
        _no_slope,
        Case("leaky_relu", "numpy", {"input": T((2, 3)), "negative_slope": nan}),
    ),
    Difference(
        "An integer tensor without dimensions counts as its integer everywhere: torch takes it for some arguments.",
        _integer_tensor,
        Case("adaptive_avg_pool2d", "numpy", {"input": T((1, 1, 4, 4)), "output_size": tensor(2)}),
    ),
    Difference(
        "The functions of convatlas.reference take whole batches; the ops add a missing batch dimension.",
        _unbatched_reference,
        Case("max_pool2d", "reference", {"input": T((2, 3, 3)), "kernel_size": 2}),
    ),
    Difference(
        "Kernels have no float64: numpy and cudnn do.",
        _float64,
        Case("relu", "triton", {"input": T((2,), "float64")}),
    ),
    Difference(
        "Operands of one dtype: torch promotes, or lets statistics be of another.",
        _many_dtypes,
        Case("residual_add", "numpy", {"x": T((2,)), "shortcut": T((2,), "float16")}),
    ),
    Difference(
        "Floating dtypes only: torch takes integers and booleans where the operation happens to have a meaning.",
        _no_floats,
        Case("relu", "numpy", {"input": T((2,), "int64")}),
    ),
    Difference(
        "A linear layer's bias is (K,), as batch norm's is (C,): torch broadcasts any that fits.",
        _bias_broadcast,
        Case("linear", "numpy", {"input": T((2, 3)), "weight": T((4, 3)), "bias": T((1,))}),
    ),
    Difference(
        "A linear layer's weight is (K, C): torch takes (C,) too, and leaves K out.",
        _weight_of_one_dimension,
        Case("linear", "numpy", {"input": T((2, 3)), "weight": T((3,))}),
    ),
    Difference(
        "A convolution has at least one input channel: without any torch returns no output channels, whatever the weight says.",
        _no_channels,
        Case("conv2d", "numpy", {"input": T((1, 0, 3, 3)), "weight": T((2, 0, 1, 1))}),
    ),
    Difference(
        "An argument that is wrong is wrong for an empty input too: torch returns before it looks.",
        _empty,
        Case("conv2d", "numpy", {"input": T((0, 1, 3, 3)), "weight": T((1, 1, 2, 2)), "dilation": 0}),
    ),
    Difference(
        "Adaptive pooling takes (N, C, H, W) or (C, H, W): torch takes more dimensions where the output is one pixel.",
        _five_dimensions,
        Case("adaptive_avg_pool2d", "numpy", {"input": T((1, 2, 3, 2, 2)), "output_size": 1}),
    ),
    Difference(
        "The mean of nothing is an error: torch's path for a global average gives NaN, its general path raises.",
        _mean_of_nothing,
        Case("adaptive_avg_pool2d", "numpy", {"input": T((1, 2, 0, 4)), "output_size": 1}),
    ),
    Difference(
        "What kernels count in 32 bits is refused beyond them, on the meta device too: torch tells the shape there.",
        _beyond_32_bits,
        Case("max_pool2d", "numpy", {"input": T((1, 2**32 + 1, 2, 2), layout="meta"), "kernel_size": 2}),
    ),
    Difference(
        "Softmax is along a given dimension: for None torch guesses one, and warns.",
        _no_dim,
        Case("softmax", "numpy", {"input": T((2, 3)), "dim": None}),
    ),
    Difference(
        "A bool is no size: torch looks for one in the first place of a pair alone.",
        _bool_in_a_pair,
        Case("max_pool2d", "numpy", {"input": T((1, 1, 2, 2)), "kernel_size": (2, True)}),
    ),
)


def difference(case: Case, expected: Any, error: Any) -> Difference | None:
    """The documented difference that the case falls under, if any."""
    return next((d for d in DIFFERENCES if d.applies(case, expected, error)), None)
