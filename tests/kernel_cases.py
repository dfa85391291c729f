"""The named cases that every backend's kernels are held to, and the function that holds them to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

import convatlas
from convatlas.call import Call
from convatlas.kernels.common.precision import tf32
from convatlas.layout import taps_first
from convatlas.ops.backend_numpy import as_array
from convatlas.ops.observe import observe
from convatlas.reference.error_bound import check
from convatlas.reference.truth import truth
from convatlas.verify.probes import STEP, UNIT, WHOLE, integers, largest_integer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One convolution or pooling: a readable id, an input shape, the op's arguments."""

    id: str
    input: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    weight: tuple[int, ...] | None = None
    bias: bool = True
    residual: bool = False

    def __str__(self) -> str:
        return self.id


def conv(id: str, input: tuple, weight: tuple, bias: bool = True, residual: bool = False, **arguments: Any) -> Case:
    return Case(id, input, arguments, weight, bias, residual)


CONVOLUTIONS = [
    # dense, on the gather kernel
    conv("3x3", (2, 32, 9, 9), (32, 32, 3, 3), padding=1),
    conv("3x3-odd-primes", (3, 17, 13, 11), (19, 17, 3, 3), stride=2, padding=1, activation="relu"),
    conv("3x3-residual-relu", (2, 64, 7, 7), (64, 64, 3, 3), padding=1, residual=True, activation="relu"),
    conv("5x5-relu6", (1, 24, 10, 10), (40, 24, 5, 5), padding=2, activation="relu6"),
    conv("1x7-then-wide", (1, 20, 17, 17), (24, 20, 1, 7), padding=(0, 3)),
    conv("one-pixel", (2, 32, 1, 1), (16, 32, 3, 3), padding=1),
    conv("one-pixel-out", (2, 48, 5, 5), (17, 48, 5, 5)),
    conv("kernel-larger-than-input", (1, 16, 3, 2), (8, 16, 7, 7), padding=3),
    conv("stride-larger-than-kernel", (2, 16, 11, 13), (16, 16, 2, 2), stride=3),
    conv("stride-differs", (1, 16, 12, 15), (16, 16, 3, 3), stride=(1, 3), padding=(2, 0)),
    conv("dilation", (1, 32, 15, 15), (32, 32, 3, 3), padding=2, dilation=2),
    conv("3x3-residual-silu", (2, 32, 7, 7), (48, 32, 3, 3), padding=1, residual=True, activation="silu"),
    conv("dilation-differs", (2, 17, 16, 14), (8, 17, 3, 2), dilation=(3, 2), padding=(1, 2), stride=2),
    conv("asymmetric-padding", (1, 16, 14, 14), (24, 16, 3, 3), stride=2, padding=((0, 1), (2, 1))),
    conv("same-even-kernel", (1, 16, 9, 8), (8, 16, 4, 2), padding="same"),
    conv("wide-window", (1, 16, 3, 40), (4, 16, 1, 33), padding=(0, 1)),
    conv("1x1-padded", (1, 32, 5, 5), (16, 32, 1, 1), padding=1),
    conv("no-bias", (1, 64, 8, 8), (96, 64, 3, 3), bias=False, padding=1),
    conv("batch-0", (0, 32, 8, 8), (16, 32, 3, 3), padding=1),
    # few channels, on the stem kernel
    conv("stem-7x7", (2, 3, 29, 27), (64, 3, 7, 7), stride=2, padding=3, activation="relu"),
    conv("stem-3x3-same", (1, 3, 16, 16), (32, 3, 3, 3), stride=2, padding=((0, 1), (0, 1)), activation="relu6"),
    conv("stem-11x11", (1, 3, 35, 35), (20, 3, 11, 11), stride=4, padding=2),
    conv("stem-3x3-hardswish", (1, 3, 17, 17), (16, 3, 3, 3), stride=2, padding=1, activation="hardswish"),
    conv("stem-one-channel", (2, 1, 12, 12), (6, 1, 5, 5), dilation=2, residual=True),
    conv("stem-13-channels", (1, 13, 9, 9), (11, 13, 3, 3), padding=1),
    # pointwise
    conv("1x1", (2, 64, 7, 9), (128, 64, 1, 1), activation="relu"),
    conv("1x1-17-to-3", (3, 17, 5, 5), (3, 17, 1, 1), activation=("leaky_relu", 0.2)),
    conv("1x1-sigmoid", (2, 40, 1, 1), (96, 40, 1, 1), activation="sigmoid"),
    conv("1x1-strided", (2, 32, 9, 10), (64, 32, 1, 1), stride=2),
    conv("1x1-residual", (1, 96, 6, 6), (24, 96, 1, 1), residual=True),
    conv("1x1-one-channel", (1, 1, 4, 4), (5, 1, 1, 1)),
    conv("1x1-one-pixel", (1, 640, 1, 1), (10, 640, 1, 1)),
    # depthwise
    conv("depthwise-3x3", (2, 32, 14, 14), (32, 1, 3, 3), padding=1, groups=32, activation="relu6"),
    conv("depthwise-5x5-stride-2", (1, 17, 15, 13), (17, 1, 5, 5), stride=2, padding=2, groups=17),
    conv("depthwise-7x7", (1, 24, 9, 9), (24, 1, 7, 7), padding=3, groups=24, residual=True),
    conv("depthwise-9x9", (1, 8, 12, 12), (8, 1, 9, 9), padding=4, groups=8, activation="hardsigmoid"),
    conv("depthwise-3x3-hardswish", (2, 16, 9, 9), (16, 1, 3, 3), padding=1, groups=16, activation="hardswish"),
    conv("depthwise-multiplier", (2, 6, 8, 8), (18, 1, 3, 3), padding=1, groups=6, dilation=2),
    conv("depthwise-same", (1, 16, 10, 11), (16, 1, 3, 3), stride=2, padding=((0, 1), (1, 1)), groups=16),
    conv("depthwise-1x1", (1, 16, 5, 5), (16, 1, 1, 1), groups=16),
    # grouped
    conv("grouped-32x4d", (1, 128, 8, 8), (128, 4, 3, 3), padding=1, groups=32, activation="relu"),
    conv("grouped-32x8d-strided", (1, 256, 7, 7), (256, 8, 3, 3), padding=1, groups=32, stride=2),
    conv("grouped-2", (1, 96, 7, 7), (64, 48, 5, 5), padding=2, groups=2),
    conv("grouped-3-of-5", (2, 15, 6, 6), (21, 5, 3, 3), padding=1, groups=3, residual=True),
    conv("grouped-1x1", (1, 64, 6, 6), (32, 16, 1, 1), groups=4),
    conv("grouped-uneven", (1, 8, 6, 6), (40, 2, 3, 3), groups=4, dilation=2),
]

TRANSPOSED = [
    conv("4x4-stride-2", (2, 32, 5, 7), (32, 24, 4, 4), stride=2, padding=1, activation="relu"),
    conv("3x3-stride-2-odd", (1, 17, 6, 5), (17, 19, 3, 3), stride=2, padding=1, output_padding=1),
    conv("3x3-stride-1", (2, 16, 6, 6), (16, 16, 3, 3), padding=1, activation="relu6"),
    conv("2x2-stride-2", (2, 48, 5, 4), (48, 17, 2, 2), stride=2, activation="leaky_relu"),
    conv("1x1-stride-2-empty-phases", (2, 32, 3, 3), (32, 16, 1, 1), stride=2, output_padding=1, activation="relu"),
    conv("empty-phases-no-bias", (1, 16, 3, 4), (16, 8, 2, 3), bias=False, stride=(3, 5), output_padding=(1, 2)),
    conv("dilation-shares-a-factor", (1, 16, 4, 4), (16, 8, 3, 3), stride=2, dilation=4, output_padding=(3, 0)),
    conv("dilation-differs", (2, 16, 5, 4), (16, 8, 3, 2), stride=(3, 2), dilation=(2, 1), padding=(2, 0)),
    conv("padding-beyond-the-kernel", (1, 16, 9, 9), (16, 8, 3, 2), stride=2, padding=(5, 3)),
    conv("outside-every-window", (1, 16, 1, 1), (16, 8, 1, 1), dilation=3, padding=1, output_padding=2),
    conv("few-channels", (1, 3, 7, 6), (3, 8, 5, 5), stride=2, padding=2, output_padding=1),
    conv("to-3-channels", (1, 64, 6, 6), (64, 3, 4, 4), stride=2, padding=1),
    conv("one-pixel", (2, 100, 1, 1), (100, 16, 4, 4)),
    conv("grouped", (1, 32, 5, 5), (32, 6, 4, 3), stride=2, groups=8, padding=1),
    conv("depthwise", (2, 16, 6, 5), (16, 1, 3, 3), stride=2, groups=16, padding=1, output_padding=1),
    conv("depthwise-multiplier", (1, 8, 4, 4), (8, 3, 5, 5), stride=2, groups=8, padding=1),
    conv("batch-0", (0, 16, 4, 4), (16, 8, 3, 3), stride=2),
]

POOLS = [
    Case("max-3x3-stride-2", (2, 64, 13, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
    Case("max-2x2", (1, 17, 8, 8), {"kernel_size": 2}),
    Case("max-ceil", (1, 3, 7, 8), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    Case("max-ceil-padded", (2, 5, 6, 6), {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}),
    Case("max-dilated", (1, 33, 15, 15), {"kernel_size": 3, "dilation": 2, "stride": 1, "padding": 1}),
    Case("max-rectangular", (1, 8, 9, 12), {"kernel_size": (2, 5), "stride": (3, 1), "padding": (1, 2)}),
    Case("max-one-pixel", (2, 64, 1, 1), {"kernel_size": 3, "padding": 1}),
    Case("max-batch-0", (0, 8, 6, 6), {"kernel_size": 2}),
    Case("avg-3x3", (2, 64, 9, 9), {"kernel_size": 3, "stride": 1, "padding": 1}),
    Case("avg-inside-only", (1, 17, 9, 7), {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
    Case("avg-ceil", (1, 3, 8, 7), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    Case(
        "avg-ceil-inside-only",
        (1, 4, 6, 6),
        {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    ),
    Case("avg-divisor", (1, 8, 8, 8), {"kernel_size": (2, 4), "divisor_override": 3}),
    Case("avg-negative-divisor", (1, 8, 8, 8), {"kernel_size": 2, "divisor_override": -2}),
    Case("adaptive-global", (3, 65, 7, 7), {"output_size": 1}),
    Case("adaptive-global-odd", (2, 3, 13, 5), {"output_size": (1, 1)}),
    Case("adaptive-6x6", (1, 32, 13, 13), {"output_size": 6}),
    Case("adaptive-larger", (1, 5, 3, 4), {"output_size": (7, 6)}),
    Case("adaptive-keeps-width", (2, 16, 9, 8), {"output_size": (2, 8)}),
    Case("adaptivemax-global", (3, 65, 7, 7), {"output_size": 1}),
    Case("adaptivemax-global-vectors", (2, 64, 5, 9), {"output_size": 1}),
    Case("adaptivemax-6x6", (1, 32, 13, 13), {"output_size": 6}),
    Case("adaptivemax-larger", (1, 5, 3, 4), {"output_size": (7, 6)}),
]
POOL_OPS = {
    "max": "max_pool2d",
    "avg": "avg_pool2d",
    "adaptive": "adaptive_avg_pool2d",
    "adaptivemax": "adaptive_max_pool2d",
}


def random(shape: tuple, dtype: torch.dtype, device: str, data: str, seed: int) -> Tensor:
    """Normal numbers, or small integers of which half are zero: their products and sums are exact in every dtype here."""
    generator = torch.Generator().manual_seed(seed)
    if data == "normal":
        x = torch.randn(shape, generator=generator)
    else:
        x = torch.randint(-2, 3, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator)
    return x.to(dtype).to(device)


def layout(x: Tensor, name: str) -> Tensor:
    """x with other strides: "nchw", "nhwc", or "sliced": every second row and column, and a slice, of a larger NHWC tensor."""
    if name == "nchw":
        return x.contiguous()
    if name == "nhwc":
        return x.contiguous(memory_format=torch.channels_last)
    N, C, H, W = x.shape
    wide = torch.full((N, 2 * H, 2 * W, C + 3), float("nan"), dtype=x.dtype, device=x.device)
    view = wide[:, ::2, ::2, 2 : 2 + C].permute(0, 3, 1, 2)
    view.copy_(x)
    return view


def guarded(shape: tuple, dtype: torch.dtype, device: str, kind: str) -> tuple[Tensor, Callable[[], None]]:
    """(out, check): an out of `shape`, poisoned with NaN, between bands that `check` holds to be untouched.

    kind "nhwc" is a channel slice of a wider channels_last buffer, "nchw" a slice of rows of a larger contiguous one.
    """
    N, K, P, Q = shape
    sentinel = 777.0
    if kind == "nhwc":
        whole = torch.full((N + 2, P, Q, K + 10), sentinel, dtype=dtype, device=device)
        out = whole[1 : N + 1, :, :, 3 : 3 + K].permute(0, 3, 1, 2)
    else:
        whole = torch.full((N + 2, K, P, Q + 5), sentinel, dtype=dtype, device=device)
        out = whole[1 : N + 1, :, :, 2 : 2 + Q]
    out.fill_(float("nan"))

    def unchanged() -> None:
        left = whole.clone()
        inside = left[1 : N + 1, :, :, 3 : 3 + K] if kind == "nhwc" else left[1 : N + 1, :, :, 2 : 2 + Q]
        inside.fill_(sentinel)
        wrong = int((left != sentinel).sum())
        assert wrong == 0, f"{wrong} elements outside the output were written"

    return out, unchanged


def hold(run: Callable[[], Any], *, exact: bool = False) -> Call:
    """Runs one op and holds its output to the reference by the error bound; returns the Call that ran."""
    seen: list[Call] = []

    def compare(call: Call, tensors: dict[str, Tensor], output: Tensor) -> None:
        arrays = {name: as_array(x) for name, x in tensors.items()}
        expected = truth(call.op, call.spec, call.epilogue, arrays, call.params)
        report = check(as_array(output), expected, dtype=call.dtype, tf32=tensor_float(call, output), exact=exact)
        assert report.ok, report.detail
        seen.append(call)

    with observe(compare), torch.no_grad():
        run()
    assert len(seen) == 1, "the op did not run"
    return seen[0]


def tensor_float(call: Call, output: Tensor) -> bool:
    """Whether the op may have multiplied in TF32: float32 on a GPU, where torch's setting for the op allows it."""
    return output.is_cuda and tf32(call)


def run_convolution(
    case: Case, dtype: str, device: str, form: str, data: str, backend: str, out: Tensor | None = None
) -> Any:
    """The case's convolution on random data; "probes" are those of verify: integers whose sums no half precision holds."""
    kind = DTYPES[dtype]
    B = largest_integer(case.weight[1] * case.weight[2] * case.weight[3])

    def draw(shape: tuple, seed: int, largest: int, unit: float) -> Tensor:
        if data != "probes":
            return random(shape, kind, device, data, seed)
        return integers(shape, largest, unit, torch.Generator().manual_seed(seed)).to(device, kind)

    x = layout(draw(case.input, 0, B, 1.0), form)
    # He et al. 2015: products of variance 2 / L keep outputs near 1, so that float16 does not overflow.
    w = draw(case.weight, 1, B, UNIT) if data == "probes" else random(case.weight, torch.float32, device, data, 1)
    if data == "normal":
        w = w * (2.0 / (case.weight[1] * case.weight[2] * case.weight[3])) ** 0.5
    w = w.to(kind).contiguous(memory_format=torch.channels_last if form == "nhwc" else torch.contiguous_format)
    if form == "nhwc" and case.weight[1] == 1:  # as nets.folding lays a depthwise filter out: R, S, K
        w = taps_first(w)
    bias = draw((case.weight[0],), 2, WHOLE, STEP) if case.bias else None
    arguments = dict(case.arguments)
    if case.residual:
        shape = torch.nn.functional.conv2d(
            x.to("meta"), w.to("meta"), stride=arguments.get("stride", 1), padding=arguments.get("padding", 0),
            dilation=arguments.get("dilation", 1), groups=arguments.get("groups", 1),
        ).shape  # fmt: skip
        arguments["residual"] = layout(draw(tuple(shape), 3, WHOLE, STEP), form)
    return convatlas.conv2d(x, w, bias, **arguments, out=out, backend=backend)


def run_transposed(
    case: Case, dtype: str, device: str, form: str, data: str, backend: str | None, out: Tensor | None = None
) -> Any:
    """The case's transposed convolution on random data or probes; its filters are (C, K/groups, R, S)."""
    kind, reduction = DTYPES[dtype], case.weight[0] // case.arguments.get("groups", 1) * prod(case.weight[2:])
    K = case.weight[1] * case.arguments.get("groups", 1)
    if data == "probes":
        B, shapes = largest_integer(reduction), (case.input, case.weight, (K,))
        x, w, bias = (
            integers(shape, largest, unit, torch.Generator().manual_seed(seed)).to(device, kind)
            for seed, (shape, largest, unit) in enumerate(zip(shapes, (B, B, WHOLE), (1.0, UNIT, STEP)))
        )
    else:
        x, bias = random(case.input, kind, device, data, 0), random((K,), kind, device, data, 2)
        w = (random(case.weight, torch.float32, device, data, 1) * (2.0 / reduction) ** 0.5).to(kind)
    bias = bias if case.bias else None
    return convatlas.conv_transpose2d(layout(x, form), w, bias, **case.arguments, out=out, backend=backend)


def run_pool(case: Case, dtype: str, device: str, form: str, data: str, backend: str, out: Tensor | None = None) -> Any:
    """The case's pooling on random data."""
    x = layout(random(case.input, DTYPES[dtype], device, data, 0), form)
    return getattr(convatlas, pool_op(case))(x, **case.arguments, out=out, backend=backend)


def pool_op(case: Case) -> str:
    """The op of a case of POOLS, as its id says: a public name of ours and of torch.nn.functional."""
    return POOL_OPS[case.id.split("-")[0]]
