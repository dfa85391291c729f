"""truth: its value is the op's, its companions bound what rounds, and every op of torch stays within the bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convatlas import ArgumentError
from convatlas.reference import check, conv2d, evaluate, round_to, truth
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    ConcatSpec,
    Conv2dSpec,
    ElementwiseSpec,
    Epilogue,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    Pool2dSpec,
    ResidualAddSpec,
)

DTYPES = ("float32", "float16", "bfloat16")


def op_cases() -> dict[str, tuple[str, Any, dict, dict, Callable[..., torch.Tensor]]]:
    """(op, spec, shapes, params, torch's function of the tensors)."""
    s = (3, 8, 9, 10)
    norm = {"input": s, "running_mean": (8,), "running_var": (8,), "weight": (8,), "bias": (8,)}
    lrn = {"alpha": 2.0, "beta": 0.75, "k": 2.0}
    return {
        "max_pool2d": (
            "max_pool2d",
            Pool2dSpec.of("max", s, 3, 2, 1),
            {"input": s},
            {},
            lambda x: F.max_pool2d(x, 3, 2, 1),
        ),
        "avg_pool2d": (
            "avg_pool2d",
            Pool2dSpec.of("avg", s, 3, 2, 1),
            {"input": s},
            {},
            lambda x: F.avg_pool2d(x, 3, 2, 1),
        ),
        "adaptive": (
            "adaptive_avg_pool2d",
            AdaptivePool2dSpec.of(s, (1, 3)),
            {"input": s},
            {},
            lambda x: F.adaptive_avg_pool2d(x, (1, 3)),
        ),
        "adaptive max": (
            "adaptive_max_pool2d",
            AdaptivePool2dSpec.of(s, (1, 3), "max"),
            {"input": s},
            {},
            lambda x: F.adaptive_max_pool2d(x, (1, 3)),
        ),
        "channel_scale": (
            "channel_scale",
            ChannelScaleSpec.of(s, (*s[:2], 1, 1), "sigmoid"),
            {"x": s, "scale": (*s[:2], 1, 1)},
            {},
            lambda x, scale: x * torch.sigmoid(scale),
        ),
        "residual_add": ("residual_add", ResidualAddSpec.of(s, s), {"x": s, "shortcut": s}, {}, torch.add),
        "batch_norm": ("batch_norm", NormSpec.of(s), norm, {"eps": 1e-3}, lambda x, *a: F.batch_norm(x, *a, eps=1e-3)),
        "softmax": ("softmax", ElementwiseSpec("softmax", s), {"input": s}, {"dim": 1}, lambda x: F.softmax(x, 1)),
        "softmax-wide": (
            "softmax",
            ElementwiseSpec("softmax", (8, 1000)),
            {"input": (8, 1000)},
            {"dim": -1},
            lambda x: F.softmax(x, -1),
        ),
        "relu": ("relu", ElementwiseSpec("relu", s), {"input": s}, {}, torch.relu),
        "relu6": ("relu6", ElementwiseSpec("relu6", s), {"input": s}, {}, F.relu6),
        **{
            name: (name, ElementwiseSpec(name, s), {"input": s}, {}, getattr(F, name))
            for name in ("leaky_relu", "sigmoid", "hardsigmoid", "silu", "hardswish")
        },
        "concat": ("concat", ConcatSpec.of([s, s], 1), {"0": s, "1": s}, {}, lambda *x: torch.cat(x, 1)),
        "lrn": (
            "local_response_norm",
            LocalResponseNormSpec.of(s, 5),
            {"input": s},
            lrn,
            lambda x: F.local_response_norm(x, 5, **lrn),
        ),
    }


OPS = op_cases()


def op_arrays(shapes: dict[str, tuple], dtype: str, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: round_to(scale * rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    return {name: np.abs(a) if name == "running_var" else a for name, a in arrays.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", OPS)
def test_torchs_ops_pass_and_damage_is_found(case: str, dtype: str) -> None:
    op, spec, shapes, params, function = OPS[case]
    for scale in (1.0, 16.0):
        arrays = op_arrays(shapes, dtype, scale)
        expected = truth(op, spec, None, arrays, params)
        # Computed in float32 and stored once, as a kernel does; torch's own half-precision ops round in between.
        y = function(*(torch.from_numpy(a).float() for a in arrays.values())).double().numpy()
        y = round_to(y, dtype)
        report = check(y, expected, dtype=dtype)
        assert report.ok, report.detail
        assert report.count == y.size
        y[2, 5] = y[1, 5] + 0.25
        assert not check(y, expected, dtype=dtype).ok


@pytest.mark.parametrize("case", OPS)
def test_value_is_evaluates_and_companions_have_its_shape(case: str) -> None:
    op, spec, shapes, params, _ = OPS[case]
    arrays = op_arrays(shapes, "float32")
    for activation in (None, "silu", ("leaky_relu", 0.3), "relu", "relu6"):
        epilogue = Epilogue(activation=activation)
        expected = truth(op, spec, epilogue, arrays, params)
        np.testing.assert_array_equal(expected.value, evaluate(op, spec, epilogue, arrays, params))
        assert expected.value.shape == expected.magnitude.shape == expected.spread.shape == spec.output_shape
        assert expected.value.dtype == np.float64
    assert evaluate(op, spec, None, arrays, params, dtype=np.float32).dtype == np.float32
    assert expected.exact is (op in ("max_pool2d", "adaptive_max_pool2d", "relu", "relu6", "concat"))


def test_companions_of_a_convolution() -> None:
    rng = np.random.default_rng(0)
    spec = Conv2dSpec.of((2, 4, 6, 7), (6, 2, 3, 3), 2, 1, groups=2)
    shapes = {"input": spec.input_shape, "weight": spec.weight_shape, "bias": (6,), "residual": spec.output_shape}
    a = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    x, w, b, r = a.values()
    args = {"stride": 2, "padding": 1, "groups": 2}
    expected = truth("conv2d", spec, Epilogue(True, "relu", True), a)
    np.testing.assert_allclose(expected.value, conv2d(x, w, b, **args, residual=r, activation="relu"), rtol=1e-13)
    np.testing.assert_allclose(
        expected.magnitude, conv2d(np.abs(x), np.abs(w), np.abs(b), **args, residual=np.abs(r)), rtol=1e-13
    )
    squares = conv2d(x * x, w * w, b * b, **args, residual=r * r) + conv2d(x, w, **args) ** 2
    np.testing.assert_allclose(expected.spread, np.sqrt(squares), rtol=1e-13)
    assert (expected.length, expected.roundings) == (2 * 9 + 2, 0)


@pytest.mark.parametrize("L", [2, 3, 10, 100])
def test_spread_bounds_the_mean_square_of_partial_sums(L: int) -> None:
    """Over all orders of the terms, for the part of every length: the claim of docs/numerics.md, by sampling."""
    rng = np.random.default_rng(L)
    terms = rng.standard_normal(L) + rng.standard_normal()
    spread = truth(
        "linear", LinearSpec.of((1, L), (1, L)), None, {"input": terms[None], "weight": np.ones((1, L))}
    ).spread
    orders = np.stack([rng.permutation(terms) for _ in range(4000)])
    rms = np.sqrt((orders.cumsum(axis=1) ** 2).mean(axis=0))
    assert (rms <= spread.item() * 1.000001).all()


def test_scalar_softmax_and_absent_arrays() -> None:
    expected = truth("softmax", ElementwiseSpec("softmax", ()), None, {"input": np.array(2.0)}, {"dim": 0})
    assert expected.value == 1
    assert expected.magnitude.shape == ()
    spec = Conv2dSpec.of((1, 1, 2, 2), (1, 1, 1, 1))
    arrays = {"input": np.ones((1, 1, 2, 2)), "weight": np.ones((1, 1, 1, 1)), "bias": None, "residual": None}
    assert truth("conv2d", spec, None, arrays).length == 1


def test_unknown_op() -> None:
    for function in (truth, evaluate):
        with pytest.raises(ArgumentError, match=r"unknown op 'conv3d', expected one of conv2d, .*linear, .*concat"):
            function("conv3d", None, None, {})
