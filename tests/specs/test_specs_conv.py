"""Conv2dSpec: output shapes against torch, counts against torch's counter and by hand, messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from convatlas import ArgumentError, ShapeError
from convatlas.specs import Conv2dSpec, Epilogue, tf_same_padding

CASES = {
    "resnet-stem": ((2, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "bottleneck": ((1, 64, 56, 56), (256, 64, 1, 1), {}),
    "odd-primes": ((3, 17, 13, 11), (19, 17, 3, 5), {"stride": (2, 3), "padding": (1, 2)}),
    "dilated": ((1, 4, 20, 21), (6, 4, 3, 3), {"dilation": (2, 3), "padding": 2}),
    "grouped": ((1, 32, 14, 14), (64, 8, 3, 3), {"groups": 4, "padding": 1}),
    "depthwise": ((1, 32, 14, 14), (64, 1, 3, 3), {"groups": 32, "padding": 1, "stride": 2}),
    "same": ((1, 3, 9, 8), (4, 3, 4, 3), {"padding": "same"}),
    "batch-0": ((0, 3, 9, 8), (4, 3, 3, 3), {"padding": "valid"}),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", CASES)
def test_shape_and_macs_as_torch_counts_them(case: str) -> None:
    shape, weight, args = CASES[case]
    spec = Conv2dSpec.of(shape, weight, **args)
    x, w = torch.empty(shape, device="meta"), torch.empty(weight, device="meta")
    with FlopCounterMode(display=False) as counter:
        y = F.conv2d(x, w, **args)
    assert spec.output_shape == tuple(y.shape)
    assert spec.flops == 2 * spec.macs == counter.get_total_flops()
    assert (spec.input_shape, spec.weight_shape) == (shape, weight)
    assert spec.parameters == w.numel()
    M, K, L = spec.gemm
    assert spec.macs == M * K * L * spec.groups


def test_resnet_stem_by_hand() -> None:
    spec = Conv2dSpec.of((2, 3, 224, 224), (64, 3, 7, 7), 2, 3)
    assert (spec.P, spec.Q) == (112, 112)
    assert spec.reduction == 3 * 7 * 7
    assert spec.macs == 2 * 64 * 112 * 112 * 147
    assert spec.elements == {"input": 2 * 3 * 224 * 224, "weight": 64 * 147, "output": 2 * 64 * 112 * 112}
    halves = spec.bytes("float16")
    assert halves == 2 * (2 * 3 * 224 * 224 + 64 * 147 + 2 * 64 * 112 * 112)
    assert spec.bytes(torch.float16, Epilogue(bias=True, residual=True)) == halves + 2 * (64 + 2 * 64 * 112 * 112)
    assert spec.bytes(np.float32) == 2 * halves
    assert spec.intensity("float16") == spec.flops / halves
    assert str(spec) == "2x3x224x224 -> 64x112x112, 7x7 stride2"


@pytest.mark.parametrize(
    ("shape", "weight", "args"),
    [
        ((1, 2, 9, 10), (3, 2, 1, 1), {"stride": 2}),
        ((1, 2, 9, 10), (3, 2, 2, 3), {"stride": 4, "padding": 1}),
        ((1, 2, 12, 11), (3, 2, 2, 2), {"stride": 5, "dilation": 3, "padding": 2}),
        ((1, 2, 10, 11), (3, 2, 3, 3), {"stride": 2}),
        ((1, 2, 10, 11), (3, 2, 3, 3), {"padding": ((0, 3), (5, 0)), "stride": 3}),
    ],
    ids=["pointwise-strided", "stride-over-kernel", "dilated", "last-row-unread", "asymmetric"],
)
def test_input_elements_are_the_pixels_that_some_output_reads(shape: tuple, weight: tuple, args: dict) -> None:
    """Found by the gradient: a pixel that no output depends on has none."""
    spec = Conv2dSpec.of(shape, weight, **args)
    (top, bottom), (left, right) = spec.padding
    x = torch.ones(shape, requires_grad=True)
    F.conv2d(
        F.pad(x, (left, right, top, bottom)), torch.ones(weight), None, spec.stride, 0, spec.dilation
    ).sum().backward()
    assert spec.elements["input"] == int((x.grad != 0).sum())


@pytest.mark.parametrize("size", [1, 7, 8, 224])
@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_tf_same_gives_ceil_of_size_over_stride(size: int, kernel: int, stride: int, dilation: int) -> None:
    pads = tf_same_padding((size, size + 1), kernel, stride, dilation)
    spec = Conv2dSpec.of((1, 1, size, size + 1), (1, 1, kernel, kernel), stride, pads, dilation)
    assert (spec.P, spec.Q) == (-(-size // stride), -(-(size + 1) // stride))
    assert all(0 <= after - before <= 1 for before, after in pads)


@pytest.mark.parametrize(
    ("weight", "args", "kind"),
    [
        ((8, 4, 1, 1), {}, "pointwise"),
        ((8, 4, 1, 1), {"stride": 2}, "pointwise"),
        ((8, 4, 1, 1), {"padding": 1}, "stem"),
        ((8, 15, 3, 3), {}, "stem"),
        ((8, 16, 1, 1), {"padding": 1}, "dense"),
        ((8, 16, 3, 3), {}, "dense"),
        ((8, 2, 3, 3), {"groups": 2}, "grouped"),
        ((8, 1, 3, 3), {"groups": 4}, "depthwise"),
    ],
)
def test_kind(weight: tuple, args: dict, kind: str) -> None:
    channels = weight[1] * args.get("groups", 1)
    assert Conv2dSpec.of((1, channels, 5, 5), weight, **args).kind == kind


def test_frozen_hashable_and_normalised() -> None:
    a = Conv2dSpec.of((1, 2, 5, 5), (3, 2, 3, 3), 1, "same")
    b = Conv2dSpec.of([1, 2, 5, 5], torch.Size([3, 2, 3, 3]), (1,), ((1, 1), (1, 1)), [1, 1])
    assert a == b
    assert len({a, b}) == 1
    with pytest.raises(AttributeError):
        a.N = 2


@pytest.mark.parametrize(
    ("shapes", "args", "message"),
    [
        (((4, 4), (2, 3, 1, 1)), {}, r"input of shape \(4, 4\), expected \(N, C, H, W\)"),
        (((1, 3, 4, 4), (2, 3)), {}, r"weight of shape \(2, 3\), expected \(K, C/groups, R, S\)"),
        (((1, 3, 4, 4), (2, 3, 0, 1)), {}, r"kernel size=\(0, 1\), expected each to be at least 1"),
        (((1, 3, 4, 4), (2, 2, 1, 1)), {}, r"C=3 channels, but weight of shape \(2, 2, 1, 1\).*expects 2"),
        (((1, 4, 4, 4), (3, 2, 1, 1)), {"groups": 2}, r"K=3 output channels, expected a multiple of groups=2"),
        (((1, 4, 4, 4), (2, 1, 1, 1)), {"groups": 4}, r"K=2 output channels, expected a multiple of groups=4"),
        (((1, 4, 4, 4), (2, 4, 1, 1)), {"groups": 0}, r"groups=0, expected a positive int"),
        (((1, 4, 4, 4), (2, 4, 1, 1)), {"groups": True}, r"groups=True, expected a positive int"),
        (((1, 4, 4, 4), (0, 4, 1, 1)), {}, r"K=0 output and C=4 input channels, expected at least 1"),
        (((1, 0, 4, 4), (2, 0, 1, 1)), {}, r"K=2 output and C=0 input channels, expected at least 1"),
        (((1, 2, 0, 4), (2, 2, 1, 1)), {"padding": 1}, r"\(1, 2, 0, 4\), expected H and W of at least 1 unless N is 0"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"stride": 0}, r"stride=\(0, 0\), expected each to be at least 1"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"stride": False}, r"stride=False, expected an int or a pair"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"stride": (True, 1)}, r"stride=\(True, 1\), expected an int or a pair"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"dilation": 2.0}, r"dilation=2.0, expected an int or a pair"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"dilation": ()}, r"dilation=\(\), expected an int or a pair"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"padding": -1}, r"padding=\(-1, -1, -1, -1\), expected each to be at least 0"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"padding": (1, 1, 1)}, r"padding=\(1, 1, 1\), expected an int or a pair"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"padding": ((1, 1), 1)}, r"expected \(\(top, bottom\), \(left, right\)\)"),
        (((1, 2, 4, 4), (2, 2, 1, 1)), {"padding": "full"}, r"padding='full', expected \"same\", \"valid\" or numbers"),
        (((1, 2, 4, 4), (2, 2, 3, 3)), {"padding": "same", "stride": 2}, r"tf_same_padding computes"),
        (((1, 2, 4, 4), (2, 2, 3, 3)), {"dilation": 2}, r"spans 5x5 pixels, more than the 4x4 input"),
    ],
)
def test_what_does_not_fit_is_refused_and_both_sides_shown(shapes: tuple, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Conv2dSpec.of(*shapes, **args)


def test_unknown_activation() -> None:
    with pytest.raises(ArgumentError, match="unknown activation 'gelu', expected one of None, relu, relu6"):
        Epilogue(activation="gelu")
