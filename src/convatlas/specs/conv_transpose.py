"""ConvTranspose2dSpec: a transposed 2-D convolution, and how it falls apart into dense ones by the phases of its stride."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any, ClassVar

from convatlas.errors import ShapeError
from convatlas.specs.arguments import Pair, at_least, at_most, image, integer, pair, shape_of
from convatlas.specs.common import ConvolutionSpec
from convatlas.specs.conv import Conv2dSpec, geometry_text


@dataclass(frozen=True)
class Phase:
    """Outputs start, start + stride, ... along one axis: a convolution of stride 1 of the input's rows [begin, end).

    Attributes:
        start: the first output.
        outputs: how many there are.
        taps: the filter's taps that it multiplies, flipped: the last one meets the first row.
        dilation: rows between the inputs that neighbouring taps meet.
        begin, end: the input rows from the first to the last that it meets.
        before, after: rows of zeros around them; `after` is negative where the last rows meet no tap.
    """

    start: int
    outputs: int
    taps: range
    dilation: int
    begin: int
    end: int
    before: int
    after: int


@dataclass(frozen=True)
class ConvTranspose2dSpec(ConvolutionSpec):
    """A transposed 2-D convolution, as torch.nn.functional.conv_transpose2d computes it.

        y[n, k, p, q] = sum over c, r, s of  x[n, c, h, i] * w[c, k', r, s],    h = (p + t - r*d) / u,    i = (q + l - s*e) / v

    over the taps r, s of which h and i are whole numbers, and the channels c of k's group; with k' = k mod (K/G), (u, v) the
    stride, (d, e) the dilation, (t, l) the padding, and x zero outside its H x W. It is the gradient of a convolution: the weight
    has that one's shape, (C, K/G, R, S). Source: Dumoulin, Visin 2016, "A guide to convolution arithmetic", section 4.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    groups: int = 1
    dilation: Pair = (1, 1)
    optional: ClassVar[tuple[str, ...]] = ("bias",)

    @classmethod
    def of(
        cls, input: tuple, weight: tuple, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1,
        dilation: Any = 1,
    ) -> ConvTranspose2dSpec:  # fmt: skip
        """From an input shape (N, C, H, W) and a weight shape (C, K/groups, R, S), arguments as F.conv_transpose2d takes them.

        Raises ShapeError, showing both sides, for whatever does not fit.
        """
        op = "conv_transpose2d"
        input, weight = shape_of(input, "input", op), shape_of(weight, "weight", op)
        if len(input) != 4:
            raise ShapeError(f"{op}: input of shape {input}, expected (N, C, H, W) or (C, H, W)")
        if len(weight) != 4:
            raise ShapeError(f"{op}: weight of shape {weight}, expected (C, K/groups, R, S)")
        groups = integer(groups, "groups", op, "a positive int", 1)
        stride, dilation = pair(stride, "stride", op), pair(dilation, "dilation", op)
        padding, extra = pair(padding, "padding", op), pair(output_padding, "output_padding", op)
        N, C, H, W = input
        K, R, S = weight[1] * groups, *weight[2:]
        for name, values, low in (
            ("stride", stride, 1), ("dilation", dilation, 1), ("kernel size", (R, S), 1), ("padding", padding, 0),
            ("output_padding", extra, 0),
        ):  # fmt: skip
            at_least(values, low, name, op)
        if C != weight[0]:
            raise ShapeError(f"{op}: input has C={C} channels, but weight of shape {weight} expects {weight[0]}")
        if K < 1 or C < 1:
            raise ShapeError(f"{op}: K={K} output and C={C} input channels, expected at least 1 of each")
        if C % groups:
            raise ShapeError(f"{op}: input has C={C} channels, expected a multiple of groups={groups}")
        if N != 0 and (H < 1 or W < 1):
            raise ShapeError(f"{op}: input of shape {input}, expected H and W of at least 1 unless N is 0")
        if any(e >= max(u, d) for e, u, d in zip(extra, stride, dilation)):
            raise ShapeError(
                f"{op}: output_padding={extra}, expected it to be smaller than stride={stride} or dilation={dilation}"
            )
        at_most((C, K, C // groups * R * S), "(C, K, C/groups*R*S)", op)
        spec = cls(N, C, H, W, K, R, S, stride, padding, extra, groups, dilation)
        least = 1 if N != 0 else 0
        if spec.P < least or spec.Q < least:
            raise ShapeError(
                f"{op}: an output of {spec.P}x{spec.Q} pixels from an input of {H}x{W}, kernel {R}x{S}, stride {stride}, padding "
                f"{padding}, output_padding {extra} and dilation {dilation}, expected at least {least}x{least}"
            )
        image((H, W), "an image", op)
        image((spec.P + 2 * padding[0], spec.Q + 2 * padding[1]), "an output with its padding", op)
        return spec

    @property
    def P(self) -> int:
        """Output rows: (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1."""
        u, t, e, d = self.stride[0], self.padding[0], self.output_padding[0], self.dilation[0]
        return (self.H - 1) * u - 2 * t + d * (self.R - 1) + e + 1

    @property
    def Q(self) -> int:
        """Output columns."""
        v, t, e, d = self.stride[1], self.padding[1], self.output_padding[1], self.dilation[1]
        return (self.W - 1) * v - 2 * t + d * (self.S - 1) + e + 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.C, self.K // self.groups, self.R, self.S

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(
            stride=self.stride, padding=self.padding, output_padding=self.output_padding, groups=self.groups,
            dilation=self.dilation,
        )  # fmt: skip

    @property
    def layer_kind(self) -> str:
        return "transposed"

    @property
    def tensor_cores(self) -> bool:
        return self.groups == 1 or self.groups != self.C

    def phases(self, axis: int) -> tuple[Phase, ...]:
        """Along rows (axis 0) or columns (1) the phases that have outputs and taps; all other outputs are sums of nothing.

        Output p meets tap r where u divides p + t - r*d. With g = gcd(d, u) the taps of one phase lie u/g apart, and what two
        neighbours of them meet lies d/g input rows apart.
        """
        size, out, kernel = ((self.H, self.P, self.R), (self.W, self.Q, self.S))[axis]
        u, d, t = self.stride[axis], self.dilation[axis], self.padding[axis]
        g, found = gcd(d, u), []
        for first in range(min(u // g, kernel)):
            start, taps = (first * d - t) % u, range(first, kernel, u // g)
            if start >= out:
                continue
            outputs, dilation, reach = -(-(out - start) // u), d // g, d // g * (len(taps) - 1)
            before = reach - (start + t - first * d) // u  # the first output meets rows -before to reach - before
            after = outputs - 1 + reach - before - (size - 1)
            begin = min(max(-before, 0), max(size - 1, 0))
            end = max(size + min(after, 0), begin + 1)
            found.append(Phase(start, outputs, taps, dilation, begin, end, before + begin, after + size - end))
        return tuple(found)

    def part(self, rows: Phase, columns: Phase) -> Conv2dSpec:
        """The dense convolution of stride 1 that gives the outputs of two phases."""
        pads = (rows.before, rows.after), (columns.before, columns.after)
        return Conv2dSpec(
            self.N, self.C, rows.end - rows.begin, columns.end - columns.begin, self.K, len(rows.taps), len(columns.taps),
            (1, 1), pads, (rows.dilation, columns.dilation), self.groups,
        )  # fmt: skip

    @property
    def whole(self) -> bool:
        """Whether every output is a sum of products: no phase is without taps."""
        sizes = zip((0, 1), self.stride, (self.P, self.Q))
        return all(len(self.phases(axis)) == min(u, out) for axis, u, out in sizes)

    @property
    def reduction(self) -> int:
        """L, the most products that one output sums."""
        rows, columns = (max((len(phase.taps) for phase in self.phases(axis)), default=0) for axis in (0, 1))
        return self.C // self.groups * rows * columns

    @property
    def elements(self) -> dict[str, int]:
        def met(size: int, out: int, kernel: int, axis: int) -> int:
            u, d, t = self.stride[axis], self.dilation[axis], self.padding[axis]
            return sum(any(0 <= h * u - t + r * d < out for r in range(kernel)) for h in range(size))

        rows, columns = met(self.H, self.P, self.R, 0), met(self.W, self.Q, self.S, 1)
        return {
            "input": self.N * self.C * rows * columns,
            "weight": self.parameters,
            "output": self.N * self.K * self.P * self.Q,
        }

    @property
    def macs(self) -> int:
        """N * C * H * W * K/groups * R * S: each input meets each tap, those that padding cuts off included (as torch counts)."""
        return self.N * self.H * self.W * self.parameters

    @property
    def parameters(self) -> int:
        return self.C * (self.K // self.groups) * self.R * self.S

    def __str__(self) -> str:
        sizes = f"{self.N}x{self.C}x{self.H}x{self.W} -> {self.K}x{self.P}x{self.Q}, {self.R}x{self.S} transposed"
        return sizes + geometry_text(self.stride, self.dilation, self.groups)
