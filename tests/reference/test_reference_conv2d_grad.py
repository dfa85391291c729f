"""The reference's gradients of a convolution against torch's float64 autograd and their plain form, and their specs by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_cases import CONVOLUTIONS, Case

from convatlas import ShapeError
from convatlas.reference import conv2d_input_grad, conv2d_weight_grad
from convatlas.reference.conv2d_grad import conv2d_grads_plain
from convatlas.specs import Conv2dInputGradSpec, Conv2dSpec, Conv2dWeightGradSpec

GEOMETRY = ("stride", "padding", "dilation", "groups")


def described(case: Case) -> tuple[Conv2dSpec, dict]:
    """The case's convolution, with few channels a group, since the plain form is slow; and its geometry."""
    geometry = {name: value for name, value in case.arguments.items() if name in GEOMETRY}
    groups = min(case.arguments.get("groups", 1), 4)
    per_group, filters = min(case.weight[1], 3), min(case.weight[0] // case.arguments.get("groups", 1), 2)
    if "groups" in geometry:
        geometry["groups"] = groups
    shapes = (case.input[0], groups * per_group, *case.input[2:]), (groups * filters, per_group, *case.weight[2:])
    return Conv2dSpec.of(*shapes, **geometry), geometry


def by_autograd(f: Conv2dSpec, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """The gradients by input, weight and bias."""
    (top, bottom), (left, right) = f.padding
    given = [torch.from_numpy(a).requires_grad_() for a in (x, w, np.zeros(f.K))]
    padded = F.pad(given[0], (left, right, top, bottom))
    y = F.conv2d(padded, *given[1:], f.stride, 0, f.dilation, f.groups)
    return [g.numpy() for g in torch.autograd.grad(y, given, torch.from_numpy(dy))]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_like_torch_and_like_the_plain_form(case: Case) -> None:
    f, geometry = described(case)
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(shape) for shape in (f.input_shape, f.weight_shape, f.output_shape))
    got = conv2d_input_grad(dy, w, x.shape, **geometry), *conv2d_weight_grad(dy, x, w.shape, **geometry, bias_grad=True)
    for ours, theirs in zip(got, by_autograd(f, x, w, dy)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    if f.macs < 40_000:
        for ours, plain in zip(got, conv2d_grads_plain(dy, x, w, f)):
            np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_where_torch_sends_it(value: float) -> None:
    """From a gradient, and for the weight from a pixel too, by every product, also those with the zeros of the padding."""
    f = Conv2dSpec.of((2, 2, 5, 6), (3, 2, 3, 3), 2, ((1, 0), (2, 1)))
    rng = np.random.default_rng(0)
    for place in ("x", "dy"):
        x, w, dy = (rng.standard_normal(shape) for shape in (f.input_shape, f.weight_shape, f.output_shape))
        (x if place == "x" else dy)[1, 1, 0, 0] = value
        dx, (dw, db) = (
            conv2d_input_grad(dy, w, x.shape, **f.arguments),
            conv2d_weight_grad(dy, x, w.shape, **f.arguments, bias_grad=True),
        )
        for ours, theirs in zip((dx, dw, db), by_autograd(f, x, w, dy)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_an_infinite_weight_meets_the_zeros_outside_the_gradient() -> None:
    """As in a transposed convolution (docs/design.md): NaN where torch multiplies nothing, and torch's numbers elsewhere."""
    w, dy = np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3))
    w[0, 0, 0, 0] = np.inf
    got = conv2d_input_grad(dy, w, (1, 1, 5, 5))
    theirs = torch.nn.grad.conv2d_input((1, 1, 5, 5), *map(torch.from_numpy, (w, dy))).numpy()
    assert np.isnan(got[~(got == theirs)]).all() and np.isinf(theirs).any() and np.isnan(got).any()


def test_specs_by_hand() -> None:
    """64 channels of 15x15 to 32 filters of 8x8 by 3x3 windows of stride 2."""
    shapes = (8, 32, 8, 8), (32, 64, 3, 3), (8, 64, 15, 15)
    dy, w, x = shapes
    by_input, by_weight = Conv2dInputGradSpec.of(*shapes, 2, 1), Conv2dWeightGradSpec.of(dy, x, w, 2, 1)
    macs = 8 * 32 * 64 * 64 * 9
    assert (by_input.macs, by_weight.macs) == (macs, macs)
    assert (by_input.output_shape, by_weight.output_shape) == (x, w)
    assert (by_input.reduction, by_weight.reduction) == (32 * 2 * 2, 8 * 64)
    assert by_weight.gemm == (32, 64 * 9, 8 * 64)
    assert by_input.elements == {"grad_output": 8 * 32 * 64, "weight": 32 * 64 * 9, "output": 8 * 64 * 225}
    assert by_weight.elements == {"grad_output": 8 * 32 * 64, "input": 8 * 64 * 225, "output": 32 * 64 * 9}
    assert by_input.inputs == {"grad_output": dy, "weight": w} and by_weight.inputs == {"grad_output": dy, "input": x}
    text = "8x64x15x15 -> 32x8x8, 3x3 stride2"
    assert (str(by_input), str(by_weight)) == (f"input gradient of {text}", f"weight gradient of {text}")
    again = Conv2dInputGradSpec.of(dy, w, **by_input.arguments), Conv2dWeightGradSpec.of(dy, x, **by_weight.arguments)
    assert again == (by_input, by_weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grad_output": (8, 32, 7, 8)}, ["grad_output of shape (8, 32, 7, 8)", "(8, 32, 8, 8)", "(32, 64, 3, 3)"]),
        ({"grad_output": (32, 8, 8)}, ["grad_output of shape (32, 8, 8)", "(8, 32, 8, 8)"]),
        ({"w": (32, 60, 3, 3)}, ["C=64", "(32, 60, 3, 3)"]),
        ({"groups": 3}, ["C=64", "groups=3"]),
        ({"padding": -1}, ["padding=(-1, -1, -1, -1)"]),
    ],
)
def test_messages_show_both_sides_and_name_the_op(change: dict, words: list[str]) -> None:
    given = {
        "grad_output": (8, 32, 8, 8),
        "x": (8, 64, 15, 15),
        "w": (32, 64, 3, 3),
        "stride": 2,
        "padding": 1,
        **change,
    }
    dy, x, w = (given.pop(name) for name in ("grad_output", "x", "w"))
    for op, make in (
        ("conv2d_input_grad", lambda: Conv2dInputGradSpec.of(dy, w, x, **given)),
        ("conv2d_weight_grad", lambda: Conv2dWeightGradSpec.of(dy, x, w, **given)),
    ):
        with pytest.raises(ShapeError, match=f"^{op}: ") as raised:
            make()
        assert all(word in str(raised.value) for word in words), str(raised.value)
