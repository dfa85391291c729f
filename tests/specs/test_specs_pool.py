"""Pool2dSpec and AdaptivePool2dSpec: counts by hand and by gradient. Shapes are fuzzed against torch with the reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from convatlas import ShapeError
from convatlas.specs import AdaptivePool2dSpec, Pool2dSpec


def test_resnet_pool_by_hand() -> None:
    spec = Pool2dSpec.of("max", (2, 64, 112, 112), 3, 2, 1)
    assert spec.output_shape == (2, 64, 56, 56)
    assert spec.elements == {"input": 2 * 64 * 112 * 112, "output": 2 * 64 * 56 * 56}
    assert spec.bytes("float16") == 2 * (2 * 64 * 112 * 112 + 2 * 64 * 56 * 56)
    assert spec.flops == 2 * 64 * 56 * 56 * 9
    assert (spec.macs, spec.parameters, spec.reduction) == (0, 0, 9)
    assert str(spec) == "2x64x112x112 -> 64x56x56, max 3x3 stride2"


@pytest.mark.parametrize(
    "args",
    [
        {"kernel_size": 1, "stride": 3},
        {"kernel_size": 2, "stride": 5, "padding": 1},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": (2, 3), "stride": (3, 4), "padding": (1, 0), "ceil_mode": True},
    ],
    ids=str,
)
def test_input_elements_are_the_pixels_that_some_output_reads(args: dict) -> None:
    x = torch.ones(1, 2, 11, 12, requires_grad=True)
    F.avg_pool2d(x, **args).sum().backward()
    assert Pool2dSpec.of("avg", x.shape, **args).elements["input"] == int((x.grad != 0).sum())


def test_stride_defaults_to_the_kernel() -> None:
    specs = {Pool2dSpec.of("max", (1, 1, 8, 8), (2, 3), stride) for stride in (None, (), [], (2, 3))}
    assert len(specs) == 1


def test_global_average_by_hand() -> None:
    spec = AdaptivePool2dSpec.of((4, 2048, 7, 7), 1)
    assert spec.output_shape == (4, 2048, 1, 1)
    assert spec.reduction == 49
    assert spec.flops == 4 * 2048 * 49
    assert spec.elements == {"input": 4 * 2048 * 49, "output": 4 * 2048}
    assert str(spec) == "4x2048x7x7 -> 2048x1x1, adaptive average"


def test_adaptive_windows_overlap_where_the_sizes_do_not_divide() -> None:
    spec = AdaptivePool2dSpec.of((1, 1, 7, 5), (3, 5))
    assert [spec.window(0, p) for p in range(3)] == [(0, 3), (2, 5), (4, 7)]
    assert [spec.window(1, q) for q in range(5)] == [(q, q + 1) for q in range(5)]
    assert spec.reduction == 3
    assert spec.flops == 9 * 5
    assert AdaptivePool2dSpec.of((1, 1, 7, 5), (None, 1)).output_shape == (1, 1, 7, 1)


def test_empty_outputs_move_nothing() -> None:
    spec = AdaptivePool2dSpec.of((1, 3, 7, 7), 0)
    assert spec.output_shape == (1, 3, 0, 0)
    assert spec.bytes("float32") == spec.flops == 0
    assert spec.intensity("float32") == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"kernel_size": 0}, r"kernel_size=\(0, 0\), expected each to be at least 1"),
        ({"kernel_size": True}, r"kernel_size=True, expected an int or a pair"),
        ({"kernel_size": 2, "stride": 0}, r"stride=\(0, 0\), expected each to be at least 1"),
        ({"kernel_size": 3, "padding": 2}, r"padding=\(2, 2\), expected at most half of kernel_size=\(3, 3\)"),
        ({"kernel_size": 3, "dilation": 0}, r"dilation=\(0, 0\), expected each to be at least 1"),
        ({"kernel_size": 9}, r"a window of \(9, 9\).*8x8 pixels: the output would be 0x0"),
        ({"kernel_size": 2, "divisor_override": 0}, r"divisor_override=0, expected an int other than 0"),
        ({"kernel_size": 2, "divisor_override": True}, r"divisor_override=True, expected an int"),
    ],
)
def test_what_does_not_fit_is_refused_and_both_sides_shown(args: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Pool2dSpec.of("avg", (1, 1, 8, 8), **args)


@pytest.mark.parametrize("shape", [(8, 8), (1, 0, 8, 8), (1, 1, 0, 8)], ids=str)
def test_shapes_that_pooling_refuses(shape: tuple) -> None:
    with pytest.raises(ShapeError, match="max_pool2d: input of shape"):
        Pool2dSpec.of("max", shape, 1)


@pytest.mark.parametrize("size", [(1, 2, 3), True, 1.0, None, (1,), (-1, 2)], ids=str)
def test_sizes_that_adaptive_pooling_refuses(size: object) -> None:
    with pytest.raises(ShapeError, match="adaptive_avg_pool2d: output_size="):
        AdaptivePool2dSpec.of((1, 1, 4, 4), size)
