"""Where torch is not followed, on purpose: each with a case that shows it, so that a test keeps the list true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any

from torch import Tensor, tensor

from convatlas.errors import DtypeError
from fuzz.cases import Case, T


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


def _given(case: Case, name: str, kind: type = T) -> Any:
    """The argument of that name if it is a `kind`, else None."""
    value = case.args.get(name)
    return value if isinstance(value, kind) else None


def _float64(case: Case, expected: Any, error: Any) -> bool:
    return isinstance(error, DtypeError) and "float64" in _dtypes(case) and case.backend in ("triton", "cuda")


def _many_dtypes(case: Case, expected: Any, error: Any) -> bool:
    return isinstance(error, DtypeError) and len(_dtypes(case)) > 1


def _no_floats(case: Case, expected: Any, error: Any) -> bool:
    return isinstance(error, DtypeError) and bool(_dtypes(case) & {"int64", "bool"})


def _bias_broadcast(case: Case, expected: Any, error: Any) -> bool:
    weight, bias = _given(case, "weight"), _given(case, "bias")
    return case.op == "linear" and bool(error and weight and bias) and bias.shape != weight.shape[:1]


def _weight_of_one_dimension(case: Case, expected: Any, error: Any) -> bool:
    weight = _given(case, "weight")
    return case.op == "linear" and bool(error and weight) and len(weight.shape) == 1


def _no_channels(case: Case, expected: Any, error: Any) -> bool:
    x = _given(case, "input")
    return case.op == "conv2d" and bool(error and x) and len(x.shape) >= 3 and x.shape[-3] == 0


def _empty(case: Case, expected: Any, error: Any) -> bool:
    x = _given(case, "input")
    return bool(error and x) and 0 in x.shape


def _training(case: Case, expected: Any, error: Any) -> bool:
    return case.op == "batch_norm" and bool(error) and "training" in str(error)


def _five_dimensions(case: Case, expected: Any, error: Any) -> bool:
    x = _given(case, "input")
    return case.op == "adaptive_avg_pool2d" and bool(error and x) and len(x.shape) not in (3, 4)


def _beyond_32_bits(case: Case, expected: Any, error: Any) -> bool:
    return bool(error) and "expected at most 21474" in str(error)


def _no_dim(case: Case, expected: Any, error: Any) -> bool:
    return case.op == "softmax" and bool(error) and case.args.get("dim", -1) is None


def _bool_in_a_pair(case: Case, expected: Any, error: Any) -> bool:
    return bool(error) and any(isinstance(v, (tuple, list)) and any(b is True for b in v) for v in case.args.values())


def _unbatched_reference(case: Case, expected: Any, error: Any) -> bool:
    x = _given(case, "input")
    return case.backend == "reference" and bool(error and x) and len(x.shape) == 3


def _integer_tensor(case: Case, expected: Any, error: Any) -> bool:
    return error is None and any(
        isinstance(v, Tensor) and v.dim() == 0 and not v.is_floating_point() for v in case.args.values()
    )


def _flag(case: Case, expected: Any, error: Any) -> bool:
    return case.op == "max_pool2d" and "return_indices=" in str(error or "")


def _not_a_number(case: Case, expected: Any, error: Any) -> bool:
    return case.op == "batch_norm" and "eps=nan" in str(error or "")


def _unseen_bias(case: Case, expected: Any, error: Any) -> bool:
    x = _given(case, "input")
    return bool(x) and x.layout == "meta" and "bias of shape" in str(error or "")


def _legacy_empty(case: Case, expected: Any, error: Any) -> bool:
    parts = case.args.get("tensors")
    return bool(error) and isinstance(parts, list) and any(isinstance(t, T) and t.shape == (0,) for t in parts)


DIFFERENCES = (
    Difference(
        "A bias has one number a filter, on the meta device too: torch does not look at it there.",
        _unseen_bias,
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
        "Batch norm's eps is a number of at least 0: for NaN torch returns NaN.",
        _not_a_number,
        Case("batch_norm", "numpy", {"input": T((2, 3)), "running_mean": T((3,)), "running_var": T((3,)), "eps": nan}),
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
        "A linear layer's bias is (K,): torch broadcasts any that fits.",
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
        "Batch norm normalises with running statistics only: training needs a backward.",
        _training,
        Case(
            "batch_norm",
            "numpy",
            {"input": T((2, 3)), "running_mean": T((3,)), "running_var": T((3,), data="positive"), "training": True},
        ),
    ),
    Difference(
        "Adaptive pooling takes (N, C, H, W) or (C, H, W): torch takes more dimensions where the output is one pixel.",
        _five_dimensions,
        Case("adaptive_avg_pool2d", "numpy", {"input": T((1, 2, 3, 2, 2)), "output_size": 1}),
    ),
    Difference(
        "The mean of nothing is an error: torch's path for a global average gives NaN, its general path raises.",
        _empty,
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
