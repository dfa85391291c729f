"""Random shapes and arguments, right and wrong ones: where torch raises, ours raises ShapeError; else they agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convatlas import ShapeError
from convatlas.reference import adaptive_avg_pool2d, avg_pool2d, conv2d, max_pool2d

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
fuzz = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

NOT_NUMBERS = st.sampled_from([True, 1.0, (), (1, 1, 1), (True, 1), "1"])


def forms(number: st.SearchStrategy[int], wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An argument as an int, a pair or a one-element tuple, and one time in about twenty something wrong."""
    right = number | st.tuples(number, number) | st.tuples(number)
    return st.integers(0, 19).flatmap(lambda dice: wrong if dice == 7 else right)


def windows(low: int, high: int) -> st.SearchStrategy[Any]:
    return forms(st.integers(low, high), NOT_NUMBERS | st.integers(-1, low - 1))


def torch_result(call: Callable[[], Any]) -> Any:
    """What torch returns, or None where it raises."""
    try:
        return call()
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None


def agree(expected: Any, call: Callable[[], Any]) -> None:
    if expected is None:
        with pytest.raises(ShapeError):
            call()
        return
    results = call()
    for y, e in zip(
        results if isinstance(results, tuple) else (results,), expected if isinstance(expected, tuple) else (expected,)
    ):
        assert y.shape == tuple(e.shape)
        np.testing.assert_allclose(y, e.numpy(), rtol=1e-11, atol=1e-11)


def normal(shape: tuple) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple, tuple, dict[str, Any]]:
    groups = draw(st.integers(1, 3))
    per_group, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = [draw(st.sampled_from([0, 1, 1, 2])), groups * per_group, draw(st.integers(0, 9)), draw(st.integers(1, 9))]
    w = [groups * filters, per_group, draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    if draw(st.integers(0, 9)) == 7:  # a size that does not fit; channels stay above zero (see below)
        which, axis = draw(st.sampled_from([(x, 1), (w, 0), (w, 1), (w, 2), (w, 3)]))
        which[axis] = draw(st.integers(1 if axis == 1 else 0, 4))
    strings = st.sampled_from(["same", "valid", "full"])
    args = {
        "stride": draw(windows(1, 3)),
        "padding": draw(windows(0, 3) | strings),
        "dilation": draw(forms(st.integers(1, 2), NOT_NUMBERS | st.just(-1))),  # for 0, see below
        "groups": draw(st.just(groups) | st.integers(-1, 3)) if draw(st.integers(0, 9)) == 7 else groups,
    }
    return tuple(x), tuple(w), args


@fuzz
@given(convolutions())
def test_conv2d(case: tuple) -> None:
    shape, weight, args = case
    x, w = normal(shape), normal(weight)
    expected = torch_result(lambda: F.conv2d(torch.from_numpy(x), torch.from_numpy(w), **args))
    agree(expected, lambda: conv2d(x, w, **args))


def test_where_torch_is_not_followed() -> None:
    """Without input channels torch returns no output channels either, whatever the weight says; ours refuses."""
    x, w = torch.zeros(1, 0, 3, 3), torch.zeros(2, 0, 1, 1)
    assert F.conv2d(x, w).shape == (1, 0, 3, 3)
    with pytest.raises(ShapeError, match="C=0 input channels"):
        conv2d(x.numpy(), w.numpy())
    # A dilation of 0 is an error to torch only when the batch is not empty.
    x, w = torch.zeros(0, 1, 3, 3), torch.zeros(1, 1, 2, 2)
    assert F.conv2d(x, w, dilation=0).shape == (0, 1, 3, 3)
    with pytest.raises(ShapeError, match=r"dilation=\(0, 0\)"):
        conv2d(x.numpy(), w.numpy(), dilation=0)
    # torch looks for a bool in the first place of a pair alone.
    assert F.max_pool2d(torch.zeros(1, 1, 2, 2), (2, True)).shape == (1, 1, 1, 2)
    with pytest.raises(ShapeError, match=r"kernel_size=\(2, True\)"):
        max_pool2d(np.zeros((1, 1, 2, 2)), (2, True))
    # The mean of nothing: torch's path for a global average gives NaN, its general path raises; ours raises.
    empty = torch.zeros(1, 2, 0, 4)
    assert F.adaptive_avg_pool2d(empty, 1).isnan().all()
    assert torch_result(lambda: F.adaptive_avg_pool2d(empty, 2)) is None
    with pytest.raises(ShapeError, match="H and W of at least 1"):
        adaptive_avg_pool2d(empty.numpy(), 1)


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, ...]:
    """Mostly a map of a few pixels, sometimes an empty batch, or a size of zero elsewhere."""
    shape = [
        draw(st.sampled_from([0, 1, 1, 1, 2])),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 9)),
    ]
    if draw(st.integers(0, 14)) == 7:
        shape[draw(st.integers(0, 3))] = 0
    return tuple(shape)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    kernel = draw(windows(1, 4))
    smallest = min((k for k in np.atleast_1d(kernel) if type(k) is np.int64), default=2)
    return {
        "kernel_size": kernel,
        "stride": draw(windows(1, 4) | st.none() | st.just(())),
        "padding": draw(windows(0, max(smallest, 0) // 2)) if draw(st.integers(0, 9)) != 7 else 2,
        "ceil_mode": draw(st.booleans()),
    }


@fuzz
@given(maps(), pools(), windows(1, 3))
def test_max_pool2d(shape: tuple, args: dict[str, Any], dilation: Any) -> None:
    x = np.round(normal(shape))  # ties
    args = {**args, "dilation": dilation, "return_indices": True}
    expected = torch_result(lambda: F.max_pool2d(torch.from_numpy(x), **args))
    agree(expected, lambda: max_pool2d(x, **args))


@fuzz
@given(maps(), pools(), st.booleans(), st.sampled_from([None, None, None, 0, 1, -3, True]))
def test_avg_pool2d(shape: tuple, args: dict[str, Any], count_include_pad: bool, divisor: Any) -> None:
    x = normal(shape)
    args = {**args, "count_include_pad": count_include_pad, "divisor_override": divisor}
    expected = torch_result(lambda: F.avg_pool2d(torch.from_numpy(x), **args))
    agree(expected, lambda: avg_pool2d(x, **args))


right_sizes = st.integers(0, 9) | st.tuples(*[st.none() | st.integers(0, 9)] * 2)
sizes = right_sizes | right_sizes | st.tuples(*[st.integers(-1, 2)] * 2) | NOT_NUMBERS | st.tuples(st.integers(1, 2))


@fuzz
@given(maps().filter(lambda shape: shape[2] and shape[3]), sizes)
def test_adaptive_avg_pool2d(shape: tuple, size: Any) -> None:
    x = normal(shape)
    expected = torch_result(lambda: F.adaptive_avg_pool2d(torch.from_numpy(x), size))
    agree(expected, lambda: adaptive_avg_pool2d(x, size))
