"""The specs of everything that is neither a convolution nor a pooling: linear, normalisation, element-wise, concat."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from convatlas.errors import ShapeError
from convatlas.specs.activations import FLOPS, LARGEST_FLOAT32, activation_of, parsed
from convatlas.specs.arguments import at_most, image, integer, known, number, shape_of, shown
from convatlas.specs.common import Shapes, Spec


@dataclass(frozen=True)
class LinearSpec(Spec):
    """y[m, k] = sum over c of x[m, c] * w[k, c], as torch.nn.functional.linear; leading dimensions are folded into M."""

    lead: tuple[int, ...]
    C: int
    K: int
    optional: ClassVar[tuple[str, ...]] = ("bias",)
    products: ClassVar[bool] = True

    @classmethod
    def of(cls, input: tuple, weight: tuple) -> LinearSpec:
        """From an input shape (..., C) and a weight shape (K, C). Raises ShapeError."""
        input, weight = shape_of(input, "input", "linear"), shape_of(weight, "weight", "linear")
        if len(weight) != 2 or len(input) < 1 or input[-1] != weight[1]:
            raise ShapeError(
                f"linear: input of shape {tuple(input)} and weight of shape {tuple(weight)}, expected (..., C) and (K, C)"
            )
        at_most((weight[1], weight[0]), "(C, K)", "linear")
        return cls(tuple(input[:-1]), weight[1], weight[0])

    @property
    def M(self) -> int:
        return prod(self.lead)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.lead, self.K)

    @property
    def inputs(self) -> Shapes:
        return {"input": (*self.lead, self.C), "weight": (self.K, self.C)}

    @property
    def layer_kind(self) -> str:
        return "linear"

    @property
    def gemm(self) -> tuple[int, int, int]:
        return self.M, self.K, self.C

    @property
    def reduction(self) -> int:
        return self.C

    @property
    def elements(self) -> dict[str, int]:
        return {"input": self.M * self.C, "weight": self.parameters, "output": self.M * self.K}

    @property
    def macs(self) -> int:
        return self.M * self.K * self.C

    @property
    def parameters(self) -> int:
        return self.K * self.C

    @property
    def bias_elements(self) -> int:
        return self.K

    def __str__(self) -> str:
        return f"{self.M}x{self.C} -> {self.M}x{self.K}"


@dataclass(frozen=True)
class ResidualAddSpec(Spec):
    """y = activation(x + shortcut), both of one shape (He et al. 2015, equation 1)."""

    shape: tuple[int, ...]

    @classmethod
    def of(cls, input: tuple, shortcut: tuple) -> ResidualAddSpec:
        """Raises ShapeError when the shapes differ: a residual connection does not broadcast."""
        input, shortcut = shape_of(input, "x", "residual_add"), shape_of(shortcut, "shortcut", "residual_add")
        if input != shortcut:
            raise ShapeError(
                f"residual_add: x of shape {tuple(input)} and shortcut of shape {tuple(shortcut)}, expected equal"
            )
        return cls(tuple(input))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def inputs(self) -> Shapes:
        return {"x": self.shape, "shortcut": self.shape}

    @property
    def layer_kind(self) -> str:
        return "residual add"

    @property
    def reduction(self) -> int:
        return 2

    @property
    def elements(self) -> dict[str, int]:
        count = prod(self.shape)
        return {"input": count, "shortcut": count, "output": count}

    @property
    def flops(self) -> int:
        """One addition an element."""
        return prod(self.shape)


@dataclass(frozen=True)
class ChannelScaleSpec(Spec):
    """y = activation(x * gate(scale) + residual), one number a channel of each image (Hu, Shen, Sun 2017: squeeze and excitation).

    Attributes:
        shape: the image's, (N, C, H, W).
        scale: the numbers' shape, (N, C, 1, 1), or (1, C, 1, 1) or (C, 1, 1) where all images have the same ones.
        gate: the activation that makes the factors of them, or None.
    """

    shape: tuple[int, ...]
    scale: tuple[int, ...]
    gate: str | None = None
    optional: ClassVar[tuple[str, ...]] = ("residual",)

    @classmethod
    def of(cls, x: tuple, scale: tuple, gate: Any = None) -> ChannelScaleSpec:
        """From the shapes of image and numbers. Raises ShapeError, ArgumentError for an unknown gate."""
        op = "channel_scale"
        x, scale = shape_of(x, "x", op), shape_of(scale, "scale", op)
        if len(x) != 4:
            raise ShapeError(f"{op}: x of shape {tuple(x)}, expected (N, C, H, W) or (C, H, W)")
        N, C, H, W = x
        expected = (N, C, 1, 1), (1, C, 1, 1), (C, 1, 1)
        if scale not in expected:
            shapes = " or ".join(dict.fromkeys(map(str, expected)))
            raise ShapeError(
                f"{op}: scale of shape {tuple(scale)}, expected {shapes}, a number a channel of x {tuple(x)}"
            )
        at_most((C,), "C", op)
        image((H, W), "an image", op)
        return cls(x, scale, activation_of(gate, op))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def inputs(self) -> Shapes:
        return {"x": self.shape, "scale": self.scale}

    @property
    def arguments(self) -> dict[str, Any]:
        return {"gate": self.gate}

    @property
    def layer_kind(self) -> str:
        return "channel scale"

    @property
    def reduction(self) -> int:
        return 1

    @property
    def elements(self) -> dict[str, int]:
        return {"x": prod(self.shape), "scale": prod(self.scale), "output": prod(self.shape)}

    @property
    def flops(self) -> int:
        """One multiplication an element, and the gate's of each number."""
        return prod(self.shape) + prod(self.scale) * (FLOPS[parsed(self.gate)[0]] if self.gate else 0)

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape)), "x".join(map(str, self.scale))
        return f"{sizes[0]} * {self.gate or ''}({sizes[1]})"


@dataclass(frozen=True)
class NormSpec(Spec):
    """Batch normalisation at inference: y = (x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c] (Ioffe, Szegedy 2015)."""

    shape: tuple[int, ...]
    optional: ClassVar[tuple[str, ...]] = ("weight", "bias", "residual")
    wide: ClassVar[tuple[str, ...]] = ("running_mean", "running_var", "weight", "bias")

    @classmethod
    def of(cls, input: tuple, eps: float = 1e-5, **parameters: tuple | None) -> NormSpec:
        """From an input shape (N, C, ...), eps, and the shapes of running_mean, running_var, weight, bias. Raises ShapeError."""
        input = shape_of(input, "input", "batch_norm")
        if not 0 <= number(eps, "eps", "batch_norm") <= LARGEST_FLOAT32:
            raise ShapeError(f"batch_norm: eps={eps}, expected a number from 0 to {LARGEST_FLOAT32:.4g}")
        if len(input) < 2:
            raise ShapeError(f"batch_norm: input of shape {tuple(input)}, expected (N, C, ...)")
        for name, shape in parameters.items():
            if shape is not None and shape_of(shape, name, "batch_norm") != (input[1],):
                raise ShapeError(
                    f"batch_norm: {name} of shape {tuple(shape)}, expected ({input[1]},), the input's channels"
                )
        return cls(tuple(input))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def inputs(self) -> Shapes:
        numbers = dict.fromkeys(("running_mean", "running_var", "weight", "bias"), (self.shape[1],))
        return {"input": self.shape, **numbers}

    @property
    def reduction(self) -> int:
        return 2

    @property
    def elements(self) -> dict[str, int]:
        count = prod(self.shape)
        return {"input": count, "scale and shift": 2 * self.shape[1], "output": count}

    @property
    def parameters(self) -> int:
        return 2 * self.shape[1]

    @property
    def flops(self) -> int:
        """A multiplication and an addition an element: the four statistics fold into one scale and one shift a channel."""
        return 2 * prod(self.shape)


@dataclass(frozen=True)
class LocalResponseNormSpec(Spec):
    """y = x / (k + alpha/size * sum of x^2 over `size` neighbouring channels)^beta (Krizhevsky et al. 2012, section 3.3).

    PyTorch divides alpha by size, the paper does not: the paper's alpha = 1e-4 with n = 5 is alpha = 5e-4 here.
    """

    shape: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, input: tuple, size: int) -> LocalResponseNormSpec:
        """Raises ShapeError for an input without channels or a size below 1."""
        input = shape_of(input, "input", "local_response_norm")
        if len(input) < 3:
            raise ShapeError(
                f"local_response_norm: input of shape {tuple(input)}, expected (N, C, ...) of 3 dimensions or more"
            )
        return cls(input, integer(size, "size", "local_response_norm", "a positive int", 1))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def arguments(self) -> dict[str, Any]:
        return {"size": self.size}

    @property
    def reach(self) -> tuple[int, int]:
        """Channels before and after a channel that its window can meet: size // 2 and (size - 1) // 2, at most all channels."""
        return min(self.size // 2, self.shape[1]), min((self.size - 1) // 2, self.shape[1])

    @property
    def reduction(self) -> int:
        """The channels of a window that lies inside the input."""
        return min(self.size, self.shape[1])

    @property
    def elements(self) -> dict[str, int]:
        count = prod(self.shape)
        return {"input": count, "output": count}

    @property
    def flops(self) -> int:
        """Per element: size squares and additions, a scale and a shift, the power and the division counted as one each."""
        return prod(self.shape) * (2 * self.size + 4)


@dataclass(frozen=True)
class ElementwiseSpec(Spec):
    """An activation (specs/activations.py), or softmax over one dimension."""

    op: str
    shape: tuple[int, ...]
    reduction: int = 1

    def __post_init__(self) -> None:
        known(self.op, (*FLOPS, "softmax"), "element-wise op")
        shape_of(self.shape, "input", self.op)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def elements(self) -> dict[str, int]:
        count = prod(self.shape)
        return {"input": count, "output": count}

    @property
    def flops(self) -> int:
        """Those of activations.FLOPS; softmax 5 an element (maximum, subtraction, exponential, sum, division)."""
        return prod(self.shape) * {**FLOPS, "softmax": 5}[self.op]


@dataclass(frozen=True)
class ConcatSpec(Spec):
    """Concatenation along `dim`: no arithmetic, every byte read and written once unless producers write in place."""

    shapes: tuple[tuple[int, ...], ...]
    dim: int

    @classmethod
    def of(cls, shapes: list[tuple], dim: int) -> ConcatSpec:
        """Raises ShapeError for an empty list, an axis out of range, or shapes that differ elsewhere than on `dim`."""
        if not isinstance(shapes, (list, tuple)):
            raise ShapeError(f"concat: shapes {shown(shapes)}, expected a list of shapes")
        shapes = [shape_of(shape, f"tensor {i}", "concat") for i, shape in enumerate(shapes)]
        if not shapes:
            raise ShapeError("concat: no tensors given, expected at least one")
        rank = len(shapes[0])
        if rank < 1:
            raise ShapeError("concat: a tensor of shape (), expected one dimension or more")
        expected = f"an int from {-rank} to {rank - 1}"
        dim = integer(dim, "dim", "concat", expected, -rank)
        if dim >= rank:
            raise ShapeError(f"concat: dim={dim}, expected {expected}")
        dim %= rank
        for shape in shapes:
            if len(shape) != rank or any(a != b for i, (a, b) in enumerate(zip(shape, shapes[0])) if i != dim):
                raise ShapeError(
                    f"concat: shapes {', '.join(str(tuple(s)) for s in shapes)}, expected equal sizes except on dim {dim}"
                )
        return cls(tuple(tuple(shape) for shape in shapes), dim)

    @property
    def output_shape(self) -> tuple[int, ...]:
        first = self.shapes[0]
        return (*first[: self.dim], sum(s[self.dim] for s in self.shapes), *first[self.dim + 1 :])

    @property
    def inputs(self) -> Shapes:
        return {str(i): shape for i, shape in enumerate(self.shapes)}

    @property
    def arguments(self) -> dict[str, Any]:
        return {"dim": self.dim}

    @property
    def reduction(self) -> int:
        return 1

    @property
    def elements(self) -> dict[str, int]:
        count = prod(self.output_shape)
        return {"input": count, "output": count}

    @property
    def flops(self) -> int:
        return 0
