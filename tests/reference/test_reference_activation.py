"""The activations: torch's values, NaN and infinities, constants of the error bound, and how leaky_relu's slope is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convatlas import ArgumentError
from convatlas.reference import check, truth
from convatlas.reference.activation import ACTIVATIONS, activate
from convatlas.specs import ElementwiseSpec, Epilogue, ResidualAddSpec
from convatlas.specs.activations import FLOPS, activation_of, parsed

NAMES = list(FLOPS)
LINE = np.concatenate([np.linspace(-120, 120, 24001), [np.nan, np.inf, -np.inf, -0.0, 1e30, -1e30]])


def torchs(name: str, x: torch.Tensor) -> torch.Tensor:
    name, slope = parsed(name)
    return F.leaky_relu(x, slope) if name == "leaky_relu" else getattr(F, name)(x)


def test_there_is_a_row_for_every_name() -> None:
    assert list(ACTIVATIONS) == NAMES


@pytest.mark.parametrize("name", [*NAMES, "leaky_relu(0.2)", "leaky_relu(-2.0)"])
def test_values_are_torchs(name: str) -> None:
    np.testing.assert_allclose(
        activate(LINE, name), torchs(name, torch.from_numpy(LINE)).numpy(), rtol=1e-12, atol=1e-300
    )


@pytest.mark.parametrize("name", [*NAMES, "leaky_relu(-2.0)"])
def test_no_slope_is_steeper_than_the_lipschitz_constant(name: str) -> None:
    row, slope = ACTIVATIONS[parsed(name)[0]], parsed(name)[1]
    x = np.linspace(-20, 20, 400001)
    steepest = np.abs(np.diff(row.value(x, slope)) / np.diff(x)).max()
    assert 0.98 * row.lipschitz(slope) < steepest < 1.0001 * row.lipschitz(slope)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", [name for name in NAMES if ACTIVATIONS[name].roundings])
def test_torchs_own_are_within_the_bound_and_a_wrong_constant_is_not(name: str, dtype: str) -> None:
    x = torch.from_numpy(LINE).to(getattr(torch, dtype))
    expected = truth(name, ElementwiseSpec(name, tuple(x.shape)), None, {"input": x.float().numpy()})
    y = torchs(name, x).float().numpy()
    report = check(y, expected, dtype=dtype)
    assert report.ok and report.worst > 0.01, report.detail
    assert not check(y * np.float32(1.004), expected, dtype=dtype).ok


def test_an_error_before_the_activation_may_grow_as_the_activation_lets_it() -> None:
    """x + shortcut cancels to 0.5 with a rounding of 4: silu may pass it on, and hardsigmoid a sixth of it."""
    a = {"x": np.full((1, 4), 1.0), "shortcut": np.full((1, 4), -0.5)}
    for name in ("silu", "hardsigmoid"):
        found = truth("residual_add", ResidualAddSpec.of((1, 4), (1, 4)), Epilogue(activation=name), a)
        assert found.lipschitz == pytest.approx({"silu": 1.1, "hardsigmoid": 1 / 6}[name]) and not found.exact
        np.testing.assert_array_equal(found.before, np.full((1, 4), 0.5))


@pytest.mark.parametrize(
    "given, kept",
    [
        (("leaky_relu", 0.2), "leaky_relu(0.2)"),
        (["leaky_relu", 1], "leaky_relu(1.0)"),
        ("leaky_relu(0.2)", "leaky_relu(0.2)"),
        (("leaky_relu", 0.01), "leaky_relu"),
        ("silu", "silu"),
        (None, None),
    ],
)
def test_one_activation_is_kept_in_one_way(given: Any, kept: Any) -> None:
    assert activation_of(given) == kept == Epilogue(activation=given).activation
    assert hash(Epilogue(activation=given)) == hash(Epilogue(activation=kept))


@pytest.mark.parametrize(
    "given", ["gelu", "", ("relu", 0.2), ("leaky_relu",), ("leaky_relu", "a"), ("leaky_relu", True), "leaky_relu(x)"]
)
def test_others_are_refused_in_one_line(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"activation .*expected"):
        activation_of(given, "conv2d")


@pytest.mark.parametrize("slope", [float("nan"), float("inf"), 1e39])
def test_a_slope_is_a_finite_float32(slope: float) -> None:
    with pytest.raises(ArgumentError, match=r"negative_slope=.*expected a number of at most 3.403e"):
        activation_of(("leaky_relu", slope))
