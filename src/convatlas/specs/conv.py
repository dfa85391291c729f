"""Conv2dSpec: everything that follows from the shapes and parameters of a 2-D convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from convatlas.errors import ShapeError
from convatlas.specs.arguments import Pads, Pair, at_least, at_most, image, integer, pair, shape_of, sides
from convatlas.specs.common import ConvolutionSpec, reads

# An MMA multiplies 16 channels at once: below that many, a tap alone cannot fill one. Such a first layer is called a stem.
STEM_CHANNELS = 16


def geometry_text(stride: Pair, dilation: Pair, groups: int) -> str:
    """What of them is not 1, for a line in a table: " stride2 dilation1x2 groups4"."""
    text = "".join(
        f" {name}{value[0]}" if value[0] == value[1] else f" {name}{value[0]}x{value[1]}"
        for name, value in (("stride", stride), ("dilation", dilation))
        if value != (1, 1)
    )
    return text + f" groups{groups}" * (groups > 1)


@dataclass(frozen=True)
class Conv2dSpec(ConvolutionSpec):
    """A 2-D cross-correlation, as torch.nn.functional.conv2d computes it.

        y[n, k, p, q] = sum over c, r, s of  x[n, g*C/G + c, p*u - t + r*d, q*v - l + s*e] * w[k, c, r, s]

    with g = k // (K/G) the group of k, (u, v) the stride, (d, e) the dilation, (t, l) the padding at the top and left, and
    x zero outside its H x W. Names are CUTLASS's and cuDNN's: input N C H W, filter K R S, output P Q.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: Pair = (1, 1)
    padding: Pads = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    optional: ClassVar[tuple[str, ...]] = ("bias", "residual")

    @classmethod
    def of(
        cls, input: tuple, weight: tuple, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
        op: str = "conv2d",
    ) -> Conv2dSpec:  # fmt: skip
        """From an input shape (N, C, H, W) and a weight shape (K, C/groups, R, S), arguments as F.conv2d takes them.

        Raises ShapeError, showing both sides and the op's name, for whatever does not fit.
        """
        input, weight = shape_of(input, "input", op), shape_of(weight, "weight", op)
        if len(input) != 4:
            raise ShapeError(f"{op}: input of shape {tuple(input)}, expected (N, C, H, W) or (C, H, W)")
        if len(weight) != 4:
            raise ShapeError(f"{op}: weight of shape {tuple(weight)}, expected (K, C/groups, R, S)")
        groups = integer(groups, "groups", op, "a positive int", 1)
        stride, dilation = pair(stride, "stride", op), pair(dilation, "dilation", op)
        at_least(stride, 1, "stride", op)
        at_least(dilation, 1, "dilation", op)
        N, C, H, W = input
        K, Cg, R, S = weight
        at_least((R, S), 1, "kernel size", op)
        if C != Cg * groups:
            raise ShapeError(
                f"{op}: input has C={C} channels, but weight of shape {tuple(weight)} with groups={groups} "
                f"expects {Cg * groups}"
            )
        if K < 1 or C < 1:
            raise ShapeError(f"{op}: K={K} output and C={C} input channels, expected at least 1 of each")
        if K % groups:
            raise ShapeError(f"{op}: weight has K={K} output channels, expected a multiple of groups={groups}")
        if N != 0 and (H < 1 or W < 1):
            raise ShapeError(f"{op}: input of shape {tuple(input)}, expected H and W of at least 1 unless N is 0")
        pads = sides(padding, (R, S), stride, dilation, op)
        at_least((*pads[0], *pads[1]), 0, "padding", op)
        at_most((C, K, Cg * R * S), "(C, K, C/groups*R*S)", op)
        image((H + sum(pads[0]), W + sum(pads[1])), "a padded image", op)
        spec = cls(N, C, H, W, K, R, S, stride, pads, dilation, groups)
        if spec.H + sum(pads[0]) < spec.reach[0] or spec.W + sum(pads[1]) < spec.reach[1]:
            raise ShapeError(
                f"{op}: a {R}x{S} kernel with dilation {dilation} spans {spec.reach[0]}x{spec.reach[1]} pixels, more than "
                f"the {H}x{W} input with padding {pads}: {H + sum(pads[0])}x{W + sum(pads[1])}"
            )
        return spec

    @property
    def reach(self) -> Pair:
        """Input pixels that one output spans: dilation * (kernel - 1) + 1."""
        return self.dilation[0] * (self.R - 1) + 1, self.dilation[1] * (self.S - 1) + 1

    @property
    def P(self) -> int:
        """Output rows: floor((H + top + bottom - reach) / stride) + 1."""
        return (self.H + sum(self.padding[0]) - self.reach[0]) // self.stride[0] + 1

    @property
    def Q(self) -> int:
        """Output columns."""
        return (self.W + sum(self.padding[1]) - self.reach[1]) // self.stride[1] + 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    @property
    def reduction(self) -> int:
        """L, the products that one output sums: C/groups * R * S."""
        return self.C // self.groups * self.R * self.S

    @property
    def gemm(self) -> tuple[int, int, int]:
        """(M, N, K) of the implicit GEMM of one group: N*P*Q x K/groups x C/groups*R*S."""
        return self.N * self.P * self.Q, self.K // self.groups, self.reduction

    @property
    def kind(self) -> str:
        """One of "depthwise" (one input channel a group, groups > 1), "grouped", "pointwise" (1x1, no padding), "stem" (an input
        of fewer than STEM_CHANNELS channels) or "dense".
        """
        if self.groups > 1:
            return "depthwise" if self.groups == self.C else "grouped"
        if (self.R, self.S) == (1, 1) and self.padding == ((0, 0), (0, 0)):
            return "pointwise"
        return "stem" if self.C < STEM_CHANNELS else "dense"

    @property
    def tensor_cores(self) -> bool:
        return self.kind != "depthwise"

    @property
    def layer_kind(self) -> str:
        window = "3x3" if (self.R, self.S) == (3, 3) else "other"
        return {"pointwise": "1x1", "dense": f"{window} dense"}.get(self.kind, self.kind)

    @property
    def elements(self) -> dict[str, int]:
        (top, _), (left, _) = self.padding
        rows = reads(self.H, self.R, self.stride[0], self.dilation[0], top, self.P)
        columns = reads(self.W, self.S, self.stride[1], self.dilation[1], left, self.Q)
        return {
            "input": self.N * self.C * rows * columns,
            "weight": self.parameters,
            "output": self.N * self.K * self.P * self.Q,
        }

    @property
    def macs(self) -> int:
        """N * K * P * Q * C/groups * R * S, the products with padding's zeros included (as every paper counts)."""
        return self.N * self.K * self.P * self.Q * self.reduction

    @property
    def parameters(self) -> int:
        return self.K * self.reduction

    def __str__(self) -> str:
        sizes = f"{self.N}x{self.C}x{self.H}x{self.W} -> {self.K}x{self.P}x{self.Q}, {self.R}x{self.S}"
        return sizes + geometry_text(self.stride, self.dilation, self.groups)
