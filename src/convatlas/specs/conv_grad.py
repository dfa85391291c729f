"""The gradients of a 2-D convolution: by its input, which is a transposed convolution, and by its weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from convatlas.errors import ShapeError
from convatlas.specs.arguments import Pair, shape_of
from convatlas.specs.common import Shapes, Spec
from convatlas.specs.conv import Conv2dSpec
from convatlas.specs.conv_transpose import ConvTranspose2dSpec


def _forward(op: str, input: Any, weight: Any, grad_output: Any, geometry: tuple) -> Conv2dSpec:
    """The convolution whose gradient is asked for. Raises ShapeError unless the output's gradient has its output's shape."""
    forward, given = Conv2dSpec.of(input, weight, *geometry, op=op), shape_of(grad_output, "grad_output", op)
    if given != forward.output_shape:
        raise ShapeError(
            f"{op}: grad_output of shape {given}, expected {forward.output_shape}, the output's of a convolution of "
            f"{forward.input_shape} with {forward.weight_shape}"
        )
    return forward


@dataclass(frozen=True)
class Conv2dInputGradSpec(ConvTranspose2dSpec):
    """The gradient of a convolution by its input x, from that by its output y (torch.nn.grad.conv2d_input).

        dx[n, c, h, i] = sum over k, r, s of  dy[n, k, p, q] * w[k, c', r, s],    p = (h + t - r*d) / u,    q = (i + l - s*e) / v

    over the taps of which p and q are whole numbers, and the filters k of c's group; with c' = c mod (C/G) and dy zero outside its
    P x Q. That is the transposed convolution of dy with the convolution's own weight. Unlike one that a user asks for, its output
    may end anywhere, as it is the input that was. So the letters are a transposed convolution's: dy is N C H W, dx is N K P Q.

    `end` is the convolution's padding at the bottom and right. output_padding is what the input has beyond the last window, less
    the difference of the paddings, and may be of any size and sign.
    """

    end: Pair = (0, 0)
    optional: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(
        cls, grad_output: tuple, weight: tuple, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Conv2dInputGradSpec:  # fmt: skip
        """From the shapes of dy (N, K, P, Q), weight (K, C/groups, R, S) and x (N, C, H, W), and F.conv2d's other arguments.

        Raises ShapeError, showing both sides, for whatever does not fit.
        """
        f = _forward("conv2d_input_grad", input_size, weight, grad_output, (stride, padding, dilation, groups))
        (top, bottom), (left, right) = f.padding
        sizes = zip((f.H, f.W), (f.P, f.Q), f.stride, (top, left), f.reach)
        extra = tuple(size - ((out - 1) * u - 2 * t + reach) for size, out, u, t, reach in sizes)
        return cls(
            f.N, f.K, f.P, f.Q, f.C, f.R, f.S, f.stride, (top, left), extra, f.groups, f.dilation, (bottom, right)
        )  # fmt: skip

    @property
    def forward(self) -> Conv2dSpec:
        """The convolution whose gradient it is."""
        geometry = {name: value for name, value in self.arguments.items() if name != "input_size"}
        return Conv2dSpec.of(self.output_shape, self.weight_shape, **geometry)

    @property
    def inputs(self) -> Shapes:
        return {"grad_output": self.input_shape, "weight": self.weight_shape}

    @property
    def arguments(self) -> dict[str, Any]:
        padding = tuple(zip(self.padding, self.end))
        return dict(
            input_size=self.output_shape,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    @property
    def elements(self) -> dict[str, int]:
        found = super().elements
        return {"grad_output": found["input"], "weight": found["weight"], "output": found["output"]}

    @property
    def layer_kind(self) -> str:
        return "dgrad"

    def __str__(self) -> str:
        return f"input gradient of {self.forward}"


@dataclass(frozen=True)
class Conv2dWeightGradSpec(Spec):
    """The gradient of a convolution by its weight w, from that by its output y (torch.nn.grad.conv2d_weight).

        dw[k, c, r, s] = sum over n, p, q of  dy[n, k, p, q] * x[n, g*C/G + c, p*u - t + r*d, q*v - l + s*e]

    with g, u, v, t, l, d, e as in Conv2dSpec. As a GEMM it has K rows and C/G*R*S columns, both short, and a long reduction over
    the N*P*Q pixels of the output. The gradient by the bias, db[k] = sum over n, p, q of dy[n, k, p, q], comes along where wanted.
    """

    forward: Conv2dSpec
    products: ClassVar[bool] = True

    @classmethod
    def of(
        cls, grad_output: tuple, input: tuple, weight_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Conv2dWeightGradSpec:  # fmt: skip
        """From the shapes of dy (N, K, P, Q), x (N, C, H, W) and weight (K, C/groups, R, S), and F.conv2d's other arguments.

        Raises ShapeError, showing both sides, for whatever does not fit.
        """
        return cls(_forward("conv2d_weight_grad", input, weight_size, grad_output, (stride, padding, dilation, groups)))

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.forward.weight_shape

    @property
    def inputs(self) -> Shapes:
        return {"grad_output": self.forward.output_shape, "input": self.forward.input_shape}

    @property
    def arguments(self) -> dict[str, Any]:
        return {"weight_size": self.output_shape, **self.forward.arguments}

    # The pixels of the output's gradient, which are what is summed over.
    @property
    def N(self) -> int:
        return self.forward.N

    @property
    def P(self) -> int:
        return self.forward.P

    @property
    def Q(self) -> int:
        return self.forward.Q

    @property
    def reduction(self) -> int:
        """L, the products that one weight's gradient sums: N*P*Q."""
        return self.N * self.P * self.Q

    @property
    def gemm(self) -> tuple[int, int, int]:
        """(M, N, K) of one group's GEMM: K/groups x C/groups*R*S x N*P*Q."""
        return self.forward.K // self.forward.groups, self.forward.reduction, self.reduction

    @property
    def tensor_cores(self) -> bool:
        return self.forward.tensor_cores

    @property
    def layer_kind(self) -> str:
        return "wgrad"

    @property
    def bias_elements(self) -> int:
        return self.forward.K

    @property
    def elements(self) -> dict[str, int]:
        found = self.forward.elements
        return {"grad_output": found["output"], "input": found["input"], "output": found["weight"]}

    @property
    def macs(self) -> int:
        """The forward convolution's: each product of a pixel and a weight is one of a pixel and a gradient."""
        return self.forward.macs

    def __str__(self) -> str:
        return f"weight gradient of {self.forward}"
