"""Pool2dSpec and AdaptivePool2dSpec, with the window arithmetic of PyTorch (ATen/native/Pool.h)."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

from convatlas.errors import ShapeError
from convatlas.specs.arguments import (
    Pair,
    at_least,
    at_most,
    flag,
    image,
    integer,
    known,
    output_sizes,
    pair,
    shape_of,
    stride_or,
)
from convatlas.specs.common import ImageSpec, reads

NAMES = {"avg": "average", "max": "maximum"}


def pooled(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    """Outputs along one axis. In ceil mode a last window that would start beyond the input and its left padding is dropped."""
    span = size + 2 * pad - dilation * (kernel - 1) - 1
    out = -(-span // stride) + 1 if ceil_mode else span // stride + 1
    if ceil_mode and (out - 1) * stride >= size + pad:
        out -= 1
    return out


class PoolSpec(ImageSpec):
    """Base of the poolings: output N C P Q."""

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.P, self.Q

    @property
    def layer_kind(self) -> str:
        return "pooling"


@dataclass(frozen=True)
class Pool2dSpec(PoolSpec):
    """Max or average pooling over R x S windows, as torch.nn.functional.max_pool2d and avg_pool2d compute it.

        max:      y[n, c, p, q] = max over r, s of  x[n, c, p*u - t + r*d, q*v - l + s*e],   -inf outside x
        average:  y[n, c, p, q] = sum over the window of x, 0 outside, / divisor

    The divisor is `divisor_override`, else the window's pixels inside the padded input (`count_include_pad`), else those inside
    the input itself.
    """

    kind: str
    N: int
    C: int
    H: int
    W: int
    R: int
    S: int
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    @classmethod
    def of(
        cls,
        kind: str,
        input: tuple,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Pool2dSpec:
        """From an input shape (N, C, H, W) and the arguments of F.max_pool2d / F.avg_pool2d. Raises ShapeError."""
        op = f"{known(kind, ('max', 'avg'), 'kind of pooling')}_pool2d"
        input = shape_of(input, "input", op)
        if len(input) != 4:
            raise ShapeError(f"{op}: input of shape {tuple(input)}, expected (N, C, H, W) or (C, H, W)")
        N, C, H, W = input
        if C < 1 or H < 1 or W < 1:
            raise ShapeError(f"{op}: input of shape {tuple(input)}, expected C, H and W of at least 1")
        kernel = pair(kernel_size, "kernel_size", op)
        stride = stride_or(kernel, stride, op)
        padding, dilation = pair(padding, "padding", op), pair(dilation, "dilation", op)
        at_least(kernel, 1, "kernel_size", op)
        at_least(stride, 1, "stride", op)
        at_least(dilation, 1, "dilation", op)
        at_least(padding, 0, "padding", op)
        if any(2 * p > k for p, k in zip(padding, kernel)):
            raise ShapeError(f"{op}: padding={padding}, expected at most half of kernel_size={kernel}")
        if divisor_override is not None:
            expected = "an int other than 0"
            divisor_override = integer(divisor_override, "divisor_override", op, expected)
            if divisor_override == 0:
                raise ShapeError(f"{op}: divisor_override=0, expected {expected}")
        spec = cls(
            kind,
            N,
            C,
            H,
            W,
            *kernel,
            stride,
            padding,
            dilation,
            flag(ceil_mode, "ceil_mode", op),
            flag(count_include_pad, "count_include_pad", op),
            divisor_override,
        )
        if spec.P < 1 or spec.Q < 1:
            raise ShapeError(
                f"{op}: a window of {kernel} with dilation {dilation}, stride {stride} and padding {padding} fits nowhere in "
                f"{H}x{W} pixels: the output would be {spec.P}x{spec.Q}"
            )
        at_most((C,), "C", op)
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
        ends = [
            (out - 1) * u + r for out, u, r in zip((spec.P, spec.Q), stride, reach)
        ]  # ceil mode may pass the padding
        if all(isinstance(v, int) for v in (H, W)):
            image(tuple(max(v + 2 * p, end) for v, p, end in zip((H, W), padding, ends)), "a padded image", op)
        return spec

    @property
    def P(self) -> int:
        return pooled(self.H, self.R, self.stride[0], self.padding[0], self.dilation[0], self.ceil_mode)

    @property
    def Q(self) -> int:
        return pooled(self.W, self.S, self.stride[1], self.padding[1], self.dilation[1], self.ceil_mode)

    def live(self, axis: int) -> Pair:
        """The window's rows (axis 0) or columns (axis 1) [first, stop) that lie inside the image for any output at all.

        In every usual layer these are all. But PyTorch pads by up to half of a kernel of any size: of the 2^20 rows of a window
        over an image of one row, only a few ever lie inside.
        """
        size, out, kernel = ((self.H, self.P, self.R), (self.W, self.Q, self.S))[axis]
        stride, dilation, pad = self.stride[axis], self.dilation[axis], self.padding[axis]
        first = max(-(-(pad - (out - 1) * stride) // dilation), 0)  # the last window reaches highest
        stop = (size - 1 + pad) // dilation + 1  # the first window starts lowest
        return min(first, kernel), max(min(stop, kernel), min(first, kernel))

    @property
    def arguments(self) -> dict[str, Any]:
        window = dict(kernel_size=(self.R, self.S), stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode)
        if self.kind == "max":
            return {**window, "dilation": self.dilation}
        return {**window, "count_include_pad": self.count_include_pad, "divisor_override": self.divisor_override}

    @property
    def reduction(self) -> int:
        """L, the elements of one window."""
        return self.R * self.S

    @property
    def elements(self) -> dict[str, int]:
        rows = reads(self.H, self.R, self.stride[0], self.dilation[0], self.padding[0], self.P)
        columns = reads(self.W, self.S, self.stride[1], self.dilation[1], self.padding[1], self.Q)
        return {"input": self.N * self.C * rows * columns, "output": self.N * self.C * self.P * self.Q}

    @property
    def flops(self) -> int:
        """One comparison or addition per window element: N * C * P * Q * R * S."""
        return self.N * self.C * self.P * self.Q * self.R * self.S

    def __str__(self) -> str:
        sizes = f"{self.N}x{self.C}x{self.H}x{self.W} -> {self.C}x{self.P}x{self.Q}"
        return f"{sizes}, {self.kind} {self.R}x{self.S} stride{self.stride[0]}"


@dataclass(frozen=True)
class AdaptivePool2dSpec(PoolSpec):
    """Pooling to a given P x Q, as torch.nn.functional.adaptive_avg_pool2d and adaptive_max_pool2d compute it.

    Output (p, q) is the mean or the maximum over rows floor(p*H/P) .. ceil((p+1)*H/P) - 1 and the columns likewise; neighbouring
    windows overlap where P does not divide H. P = Q = 1 is global pooling (its average: Lin et al. 2013, section 3.2).
    """

    N: int
    C: int
    H: int
    W: int
    P: int
    Q: int
    kind: str = "avg"

    @classmethod
    def of(cls, input: tuple, output_size: Any, kind: str = "avg") -> AdaptivePool2dSpec:
        """From an input shape (N, C, H, W), an int or a pair, where None keeps that size, and "avg" or "max". Raises ShapeError."""
        op = f"adaptive_{known(kind, ('max', 'avg'), 'kind of pooling')}_pool2d"
        input = shape_of(input, "input", op)
        if len(input) != 4:
            raise ShapeError(f"{op}: input of shape {tuple(input)}, expected (N, C, H, W) or (C, H, W)")
        N, C, H, W = input
        if H < 1 or W < 1 or (kind == "max" and C < 1):
            least = "C, H and W" if kind == "max" else "H and W"
            raise ShapeError(f"{op}: input of shape {tuple(input)}, expected {least} of at least 1")
        P, Q = (size if given is None else given for given, size in zip(output_sizes(output_size, op), (H, W)))
        at_least((P, Q), 0, "output_size", op)
        image((H, W), "an image", op)
        image((P, Q), "an output", op)
        at_most((C, H, W, P, Q), "(C, H, W, P, Q)", op)
        return cls(N, C, H, W, P, Q, kind)

    def window(self, axis: int, i: int) -> Pair:
        """The input rows (axis 0) or columns (axis 1) [start, stop) that output i pools."""
        size, out = (self.H, self.P) if axis == 0 else (self.W, self.Q)
        return i * size // out, -(-(i + 1) * size // out)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"output_size": (self.P, self.Q)}

    def largest(self, axis: int) -> int:
        """Rows (axis 0) or columns (axis 1) of the largest window; 1 where there are no outputs.

        With size = a*out + b and g = gcd(b, out), windows start at multiples of g into an output's share: one that starts late
        enough (g < b) meets a + 2 rows, else a + 1 if b is not 0.
        """
        size, out = (self.H, self.P) if axis == 0 else (self.W, self.Q)
        if out == 0:
            return 1
        a, b = divmod(size, out)
        return a + (b > 0) + (b > gcd(b, out))

    @property
    def reduction(self) -> int:
        """L, the elements of the largest window."""
        return self.largest(0) * self.largest(1)

    @property
    def elements(self) -> dict[str, int]:
        outputs = self.N * self.C * self.P * self.Q
        return {"input": self.N * self.C * self.H * self.W if outputs else 0, "output": outputs}

    @property
    def flops(self) -> int:
        """One addition or comparison per window element, the windows counted as they overlap."""
        # Neighbours share a row wherever the border between them, p*H/P, is no whole number.
        rows = self.H + self.P - gcd(self.H, self.P) if self.P else 0
        columns = self.W + self.Q - gcd(self.W, self.Q) if self.Q else 0
        return self.N * self.C * rows * columns

    def __str__(self) -> str:
        return f"{self.N}x{self.C}x{self.H}x{self.W} -> {self.C}x{self.P}x{self.Q}, adaptive {NAMES[self.kind]}"


def meeting(out: int, size: int) -> int:
    """The most of `out` adaptive windows over `size` pixels of an axis that hold one pixel.

    Where one size divides the other windows meet nowhere, or lie whole within a pixel; else one more begins, and ends, within it.
    """
    if 0 in (out % size, size % max(out, 1)):
        return max(out // size, 1)
    return -(-out // size) + 1
