"""The transposed convolution of the reference against torch's float64 one, against its plain form, and its spec by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TRANSPOSED, Case

from convatlas import ShapeError
from convatlas.reference import conv_transpose2d, conv_transpose2d_plain
from convatlas.specs import ConvTranspose2dSpec, Epilogue


def arrays(case: Case) -> list[np.ndarray]:
    """The case's operands, with few channels a group, since the plain form is slow."""
    rng, groups = np.random.default_rng(0), case.arguments.get("groups", 1)
    C = groups * min(case.input[1] // groups, 3)
    shapes = (case.input[0], C, *case.input[2:]), (C, min(case.weight[1], 3), *case.weight[2:])
    return [rng.standard_normal(shape) for shape in (*shapes, (shapes[1][1] * groups,))]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_like_torch_and_like_the_plain_form(case: Case) -> None:
    x, w, b = arrays(case)
    geometry = {name: value for name, value in case.arguments.items() if name != "activation"}
    expected = F.conv_transpose2d(*map(torch.from_numpy, (x, w, b)), **geometry).numpy()
    got = conv_transpose2d(x, w, b, **geometry)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(conv_transpose2d_plain(x, w, b, **geometry), got, rtol=1e-12, atol=1e-12)
    relu = conv_transpose2d(x, w, b, **geometry, activation="relu")
    np.testing.assert_array_equal(relu, np.maximum(got, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_zero_outside_the_input_is_multiplied(value: float) -> None:
    """An infinite or NaN weight makes NaN where its tap meets no pixel, in both forms alike; torch multiplies nothing there."""
    x, w = np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3))
    w[0, 0, 0, 0] = value
    for geometry in ({}, {"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 4}):
        fast, plain = conv_transpose2d(x, w, **geometry), conv_transpose2d_plain(x, w, **geometry)
        np.testing.assert_array_equal(fast, plain)
        wild = F.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w), **geometry).numpy()
        assert (np.isnan(fast) >= np.isnan(wild)).all()
        np.testing.assert_array_equal(fast[~np.isnan(fast)], wild[~np.isnan(fast)])


def test_spec_by_hand() -> None:
    """64 channels of 14x14 to 32 of 28x28 by 4x4 taps."""
    spec = ConvTranspose2dSpec.of((8, 64, 14, 14), (64, 32, 4, 4), 2, 1)
    assert spec.output_shape == (8, 32, 28, 28)
    assert spec.macs == 8 * 64 * 14 * 14 * 32 * 16
    assert spec.reduction == 64 * 2 * 2
    assert spec.elements == {"input": 8 * 64 * 196, "weight": 64 * 32 * 16, "output": 8 * 32 * 784}
    assert spec.operands(Epilogue(bias=True)) == {
        "input": (8, 64, 14, 14), "weight": (64, 32, 4, 4), "bias": (32,),
    }  # fmt: skip
    assert (str(spec), spec.layer_kind) == ("8x64x14x14 -> 32x28x28, 4x4 transposed stride2", "transposed")
    cropped = ConvTranspose2dSpec.of((1, 1, 9, 9), (1, 1, 1, 1), 1, 2)
    assert cropped.elements == {"input": 25, "weight": 1, "output": 25}


@pytest.mark.parametrize(
    ("input", "weight", "geometry", "words"),
    [
        ((1, 4, 5, 5), (3, 2, 3, 3), {}, ["C=4", "(3, 2, 3, 3)", "expects 3"]),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"output_padding": 1}, ["output_padding=(1, 1)", "stride=(1, 1)"]),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"groups": 3}, ["C=4", "groups=3"]),
        ((1, 4, 1, 1), (4, 2, 2, 2), {"padding": 1}, ["0x0", "padding (1, 1)"]),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"padding": "same"}, ["padding='same'"]),
        ((1, 4, 5, 5), (4, 2, 3, 3), {"stride": 0}, ["stride=(0, 0)"]),
        ((1, 4, 2**16, 2**16), (4, 2, 3, 3), {}, ["65536x65536"]),
    ],
)
def test_messages_show_both_sides(input: tuple, weight: tuple, geometry: dict, words: list[str]) -> None:
    with pytest.raises(ShapeError) as raised:
        ConvTranspose2dSpec.of(input, weight, **geometry)
    assert all(word in str(raised.value) for word in words), str(raised.value)
