"""The specs that are neither convolution nor pooling, dtypes and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from convatlas import DtypeError, ShapeError
from convatlas.specs import (
    ChannelScaleSpec,
    ConcatSpec,
    ElementwiseSpec,
    Epilogue,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    ResidualAddSpec,
    dtype_name,
    itemsize,
)


@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (0,)], ids=str)
def test_linear_as_torch_counts_it(lead: tuple) -> None:
    spec = LinearSpec.of((*lead, 17), (5, 17))
    x, w = torch.empty(*lead, 17, device="meta"), torch.empty(5, 17, device="meta")
    with FlopCounterMode(display=False) as counter:
        y = F.linear(x, w)
    assert spec.output_shape == tuple(y.shape)
    assert spec.flops == 2 * spec.macs == 2 * x.numel() * 5
    if lead:  # for a vector torch calls a product that its counter does not know
        assert spec.flops == counter.get_total_flops()
    assert spec.bytes("float32", Epilogue(bias=True)) == 4 * (x.numel() + w.numel() + y.numel() + 5)
    assert spec.gemm == (x.numel() // 17, 5, 17)


def test_element_counts_by_hand() -> None:
    shape = (2, 3, 4, 5)
    assert ResidualAddSpec.of(shape, shape).bytes("float16") == 2 * 3 * 120
    assert ResidualAddSpec.of(shape, shape).flops == 120
    scaled = ChannelScaleSpec.of(shape, (2, 3, 1, 1), "sigmoid")
    assert (scaled.bytes("float16"), scaled.flops) == (2 * (120 + 6 + 120), 120 + 4 * 6)
    assert scaled.bytes("float16", Epilogue(residual=True)) == 2 * (120 + 6 + 120 + 120)
    assert ChannelScaleSpec.of(shape, (3, 1, 1)).flops == 120
    assert NormSpec.of(shape, running_mean=(3,), weight=None).bytes("float32") == 4 * (240 + 6)
    assert NormSpec.of(shape).flops == 240
    assert LocalResponseNormSpec.of(shape, 5).flops == 120 * 14
    assert ElementwiseSpec("relu", shape).bytes("bfloat16") == 2 * 240
    assert [ElementwiseSpec(op, shape).flops for op in ("relu", "relu6", "silu", "softmax")] == [120, 240, 480, 600]
    assert ConcatSpec.of([(2, 3, 4), (2, 5, 4)], -2) == ConcatSpec.of([(2, 3, 4), (2, 5, 4)], 1)
    assert ConcatSpec.of([(2, 3, 4), (2, 5, 4)], 1).output_shape == (2, 8, 4)
    assert ConcatSpec.of([(2, 3, 4), (2, 5, 4)], 1).elements == {"input": 64, "output": 64}


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype("float16"), torch.float16], ids=repr)
def test_dtype_by_any_name(dtype: Any) -> None:
    assert dtype_name(dtype) == "float16"
    assert itemsize(dtype) == 2


def test_dtype_that_no_spec_counts() -> None:
    with pytest.raises(DtypeError, match=r"dtype torch\.int8 is not one of float64, float32, float16, bfloat16"):
        itemsize(torch.int8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearSpec.of((2, 3), (4, 5)), r"input of shape \(2, 3\) and weight of shape \(4, 5\), expected"),
        (lambda: LinearSpec.of((), (4, 5)), r"input of shape \(\) and weight of shape \(4, 5\), expected"),
        (lambda: LinearSpec.of((3,), (3,)), r"weight of shape \(3,\), expected \(..., C\) and \(K, C\)"),
        (lambda: ResidualAddSpec.of((2, 3), (2, 1)), r"\(2, 3\) and shortcut of shape \(2, 1\), expected equal"),
        (lambda: NormSpec.of((3,)), r"input of shape \(3,\), expected \(N, C, ...\)"),
        (lambda: NormSpec.of((2, 3), bias=(2,)), r"bias of shape \(2,\), expected \(3,\)"),
        (lambda: NormSpec.of((2, 3), -0.1), r"eps=-0.1, expected a number from 0"),
        (lambda: LocalResponseNormSpec.of((2, 3, 4), True), r"size=True, expected a positive int"),
        (lambda: ConcatSpec.of([], 0), r"no tensors given"),
        (lambda: ConcatSpec.of([(2, 3)], 2), r"dim=2, expected an int from -2 to 1"),
        (lambda: ConcatSpec.of([(2, 3)], True), r"dim=True, expected an int"),
        (lambda: ConcatSpec.of([(2, 3), (2, 3, 1)], 0), r"\(2, 3\), \(2, 3, 1\), expected equal sizes except on dim 0"),
        (
            lambda: ChannelScaleSpec.of((2, 3, 4, 4), (3, 3, 1, 1)),
            r"scale of shape \(3, 3, 1, 1\), expected \(2, 3, 1, 1\) or \(1, 3, 1, 1\) or \(3, 1, 1\), a number a channel",
        ),
        (lambda: ChannelScaleSpec.of((3, 4), (3, 4)), r"x of shape \(3, 4\), expected \(N, C, H, W\)"),
        (lambda: ConcatSpec.of([()], 0), r"a tensor of shape \(\), expected one dimension or more"),
    ],
)
def test_what_does_not_fit_is_refused_and_both_sides_shown(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    ("epilogue", "text"),
    [
        (Epilogue(), "none"),
        (Epilogue(True, "relu6"), "bias + relu6"),
        (Epilogue(True, ("leaky_relu", 0.2)), "bias + leaky_relu(0.2)"),
        (Epilogue(True, "relu", True), "bias + residual + relu"),
    ],
)
def test_epilogue_reads_in_the_order_of_its_steps(epilogue: Epilogue, text: str) -> None:
    assert str(epilogue) == text
