"""What all specs share: padding, dtype sizes, the epilogue, and the base class.

Sizes may be Python integers or torch.SymInt (while torch.compile or torch.export traces with dynamic shapes), so
nothing here converts a size with int(); sizes are only compared and calculated with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from convatlas.errors import DtypeError
from convatlas.specs.activations import activation_of
from convatlas.specs.arguments import Pads, Pair, at_least, flag, pair

ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


Shapes = dict[str, tuple[int, ...]]


def dtype_name(dtype: Any) -> str:
    """'float16' for torch.float16, np.float16, np.dtype('float16') or 'float16'.

    Raises DtypeError for a dtype that no spec counts bytes for.
    """
    name = getattr(dtype, "__name__", None) or str(dtype)
    name = name.rsplit(".", 1)[-1]
    if name not in ITEMSIZE:
        raise DtypeError(f"dtype {dtype} is not one of {', '.join(ITEMSIZE)}")
    return name


def itemsize(dtype: Any) -> int:
    """Bytes of one element."""
    return ITEMSIZE[dtype_name(dtype)]


def tf_same_padding(size: Pair, kernel: Any, stride: Any = 1, dilation: Any = 1) -> Pads:
    """TensorFlow's SAME: output = ceil(size / stride), the odd pixel at the bottom and the right.

    Source: TensorFlow, tf.nn.convolution, "padding" ("SAME"): total = max((ceil(i/s) - 1)*s + (k-1)*d + 1 - i, 0).
    Raises ShapeError for what is no int, a size below 0, or a kernel, stride or dilation below 1.
    """
    op = "tf_same_padding"
    size, kernel = pair(size, "size", op), pair(kernel, "kernel", op)
    stride, dilation = pair(stride, "stride", op), pair(dilation, "dilation", op)
    at_least(size, 0, "size", op)
    for name, values in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        at_least(values, 1, name, op)
    totals = [max((-(-i // s) - 1) * s + (k - 1) * d + 1 - i, 0) for i, k, s, d in zip(size, kernel, stride, dilation)]
    return tuple((t // 2, t - t // 2) for t in totals)


def reads(size: int, kernel: int, stride: int, dilation: int, before: int, out: int) -> int:
    """How many of `size` rows (or columns) some output depends on: a stride larger than the kernel skips some."""
    if dilation == 1 and stride <= kernel:  # the windows touch or overlap: every row up to the last one read
        return max(min((out - 1) * stride - before + kernel, size), 0)
    rows = {p * stride - before + r * dilation for p in range(out) for r in range(kernel)}
    return sum(0 <= i < size for i in rows)


@dataclass(frozen=True)
class Epilogue:
    """What a kernel does to its accumulator before it stores: out = activation(accumulator + bias + residual).

    Attributes:
        bias: one number per output channel is added.
        activation: None, or one of specs/activations.py as a user gives it; kept as text.
        residual: a tensor of the output's shape is added, before the activation (He et al. 2015, figure 2).
    """

    bias: bool = False
    activation: str | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        if self.activation is not None:
            object.__setattr__(self, "activation", activation_of(self.activation))
        flag(self.bias, "bias", "epilogue")
        flag(self.residual, "residual", "epilogue")

    def __str__(self) -> str:
        parts = [name for name, on in (("bias", self.bias), ("residual", self.residual)) if on]
        return " + ".join(parts + [self.activation] * bool(self.activation)) or "none"


@dataclass(frozen=True)
class Spec:
    """Base of the specs. A subclass gives `output_shape`, `elements` and `flops`, and what else the defaults do not say.

    Attributes:
        optional: names of operands that a call may leave out.
        products: its work is products with weights: what tensor cores multiply, and what TF32 rounds the factors of.
        wide: operands that may be float32 where the others are half precision, as batch norm's numbers are under autocast.
        places: operands that are whole numbers, of any integer dtype.
        sums: the result is float32 although the operands are half precision.
    """

    optional: ClassVar[tuple[str, ...]] = ()
    products: ClassVar[bool] = False
    wide: ClassVar[tuple[str, ...]] = ()
    places: ClassVar[tuple[str, ...]] = ()
    sums: ClassVar[bool] = False

    @property
    def output_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def inputs(self) -> Shapes:
        """Shapes of the op's own operands, by the names that the public op has for them; one input of the output's shape."""
        return {"input": self.output_shape}

    def operands(self, epilogue: Epilogue | None = None) -> Shapes:
        """Shapes of all operands of a call: the op's own, and the bias and the residual that the epilogue adds."""
        shapes = self.inputs
        if epilogue is not None and epilogue.bias:
            shapes["bias"] = (self.bias_elements,)
        if epilogue is not None and epilogue.residual:
            shapes["residual"] = self.output_shape
        return shapes

    @property
    def arguments(self) -> dict[str, Any]:
        """The public op's arguments, by name, that follow from the spec: all but tensors and a Call's parameters."""
        return {}

    @property
    def reductions(self) -> dict[str, int]:
        """The products that one output sums, by the operand that holds their weights; none where the op has no weights."""
        return {"weight": self.reduction} if self.products else {}

    @property
    def tensor_cores(self) -> bool:
        """Whether tensor cores can multiply it: products of which many share an operand, as in a GEMM."""
        return self.products

    @property
    def layer_kind(self) -> str:
        """The kind of layer, by which benchmarks are chosen and summed up: one of results.kinds.KINDS."""
        return "other"

    def __str__(self) -> str:
        """One short line for tables: the output's shape, where a subclass has nothing better."""
        return "x".join(map(str, self.output_shape))

    @property
    def elements(self) -> dict[str, int]:
        """Elements that must move between DRAM and the chip, by operand name: inputs read once, output written once."""
        raise NotImplementedError

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 1 MAC = 2 FLOPs. 0 for an op that multiplies nothing."""
        return 0

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 a MAC, where a subclass does not say what else counts as one."""
        return 2 * self.macs

    @property
    def parameters(self) -> int:
        """Learned numbers of the op itself, the bias not included (it belongs to the Epilogue)."""
        return 0

    @property
    def bias_elements(self) -> int:
        """Numbers that a bias has: one per output channel."""
        return self.output_shape[1]

    def bytes(self, dtype: Any, epilogue: Epilogue | None = None) -> int:
        """Compulsory bytes: every operand's elements once, in `dtype`, the epilogue's bias and residual included.

        Compulsory as in Hill's three Cs (compulsory, capacity, conflict misses): no caching can move fewer.
        """
        count = sum(self.elements.values())
        if epilogue is not None:
            count += epilogue.bias * self.bias_elements + epilogue.residual * self.elements["output"]
        return count * itemsize(dtype)

    def intensity(self, dtype: Any, epilogue: Epilogue | None = None) -> float:
        """Arithmetic intensity, FLOP per compulsory byte (Williams, Waterman, Patterson 2009, "Roofline")."""
        moved = self.bytes(dtype, epilogue)
        return self.flops / moved if moved else 0.0


class ImageSpec(Spec):
    """Base of the specs of ops that slide a window over an input N C H W."""

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    @property
    def inputs(self) -> Shapes:
        return {"input": self.input_shape}


class ConvolutionSpec(ImageSpec):
    """Base of the convolutions: K filters, output N K P Q."""

    products: ClassVar[bool] = True

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.K, self.P, self.Q

    @property
    def inputs(self) -> Shapes:
        return {"input": self.input_shape, "weight": self.weight_shape}
