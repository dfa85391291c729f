"""Every call that torch.nn.functional takes has the same answer through ours; every one it refuses, we refuse."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import convatlas

fuzz = settings(max_examples=250, deadline=None, derandomize=True, print_blob=True)


def agree(torchs: Callable[[], Any], ours: Callable[[], Any]) -> None:
    """Both raise, or both answer alike. What torch raises is never an answer of ours, and the other way round."""
    try:
        expected = torchs()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        with pytest.raises(convatlas.ConvAtlasError):
            print(f"torch raised {error}; ours gave", ours().shape)
        return
    got = ours()
    for g, e in zip(*((y if isinstance(y, tuple) else (y,)) for y in (got, expected))):
        assert g.shape == e.shape and g.dtype == e.dtype
        assert torch.allclose(g, e, rtol=1e-4, atol=1e-4, equal_nan=True)


numbers = st.one_of(
    st.integers(-1, 4),
    st.tuples(st.integers(0, 4), st.integers(1, 3)),
    st.tuples(st.integers(1, 3)),
    st.lists(st.integers(1, 2), min_size=2, max_size=2),
)
odd = st.one_of(numbers, st.sampled_from([(1, 2, 3), 1.5, "1", None, ()]))
shapes = st.one_of(
    st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple),
)


@fuzz
@given(data=st.data())
def test_conv2d(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 0, -1]))
    C = shape[-3] if len(shape) >= 3 else 1
    weight = (
        draw(st.sampled_from([6, 4, 1])),
        max(C // max(groups, 1), 1),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)),
    )
    arguments: dict[str, Any] = {
        "stride": draw(odd),
        "padding": draw(st.one_of(odd, st.sampled_from(["same", "valid", "full"]))),
    }
    arguments = {k: v for k, v in arguments.items() if v is not None}
    if draw(st.booleans()):
        arguments["dilation"] = draw(numbers)
    arguments["groups"] = groups
    x, w, b = (
        torch.randn(shape),
        torch.randn(weight),
        draw(st.sampled_from([None, torch.randn(weight[0]), torch.randn(2)])),
    )
    agree(lambda: F.conv2d(x, w, b, **arguments), lambda: convatlas.conv2d(x, w, b, **arguments))


@fuzz
@given(data=st.data())
def test_max_pool2d(data: st.DataObject) -> None:
    draw = data.draw
    x = torch.randn(draw(shapes))
    arguments = {
        "kernel_size": draw(numbers),
        "stride": draw(st.one_of(st.none(), numbers)),
        "padding": draw(st.integers(0, 2)),
    }
    arguments |= {"dilation": draw(st.sampled_from([1, 2, (1, 2), 0])), "ceil_mode": draw(st.booleans())}
    arguments["return_indices"] = draw(st.booleans())
    agree(lambda: F.max_pool2d(x, **arguments), lambda: convatlas.max_pool2d(x, **arguments))


@fuzz
@given(data=st.data())
def test_avg_pool2d(data: st.DataObject) -> None:
    draw = data.draw
    x = torch.randn(draw(shapes))
    arguments = {
        "kernel_size": draw(numbers),
        "stride": draw(st.one_of(st.none(), numbers)),
        "padding": draw(st.integers(0, 2)),
    }
    arguments |= {"ceil_mode": draw(st.booleans()), "count_include_pad": draw(st.booleans())}
    arguments["divisor_override"] = draw(st.sampled_from([None, None, 1, 3, 0, -2]))
    agree(lambda: F.avg_pool2d(x, **arguments), lambda: convatlas.avg_pool2d(x, **arguments))


@fuzz
@given(data=st.data())
def test_adaptive_avg_pool2d(data: st.DataObject) -> None:
    draw = data.draw
    x = torch.randn(draw(shapes))
    size = draw(
        st.one_of(
            st.integers(-1, 6),
            st.tuples(st.integers(0, 5), st.integers(1, 5)),
            st.sampled_from([(None, 2), (3, None), None, (1, 2, 3)]),
        )
    )
    agree(lambda: F.adaptive_avg_pool2d(x, size), lambda: convatlas.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("form, at", list(itertools.product([torch.contiguous_format, torch.channels_last], [0, 1, 2])))
def test_memory_format_follows_the_input(form: torch.memory_format, at: int) -> None:
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=form)
    w = torch.randn(6, 8, 3, 3)
    op = [lambda x: convatlas.conv2d(x, w), lambda x: convatlas.max_pool2d(x, 2), lambda x: convatlas.relu(x)][at]
    assert op(x).is_contiguous(memory_format=form)


def test_messages_show_both_sides() -> None:
    x, w = torch.zeros(1, 5, 8, 8), torch.zeros(4, 3, 3, 3)
    for run, words in (
        (lambda: convatlas.conv2d(x, w), ["C=5", "(4, 3, 3, 3)", "expects 3"]),
        (lambda: convatlas.conv2d(x, torch.zeros(4, 5, 9, 9)), ["9x9", "8x8"]),
        (lambda: convatlas.conv2d(x, torch.zeros(4, 5, 1, 1), torch.zeros(3)), ["(3,)", "(4,)"]),
        (
            lambda: convatlas.conv2d(x, torch.zeros(4, 5, 1, 1), residual=torch.zeros(1, 4, 7, 8)),
            ["(1, 4, 7, 8)", "(1, 4, 8, 8)"],
        ),
        (lambda: convatlas.conv2d(x, torch.zeros(4, 5, 3, 3), stride=2, padding="same"), ["same", "stride"]),
        (lambda: convatlas.linear(x, torch.zeros(3, 7)), ["(1, 5, 8, 8)", "(3, 7)"]),
        (lambda: convatlas.residual_add(x, x[:, :1]), ["(1, 5, 8, 8)", "(1, 1, 8, 8)"]),
        (lambda: convatlas.max_pool2d(x, 3, padding=2), ["padding", "half", "3"]),
        (lambda: convatlas.batch_norm(x, torch.zeros(4), torch.zeros(5)), ["running_mean", "(4,)", "(5,)"]),
        (lambda: convatlas.concat([x, x[:, :, :3]]), ["(1, 5, 8, 8)", "(1, 5, 3, 8)"]),
    ):
        with pytest.raises(convatlas.ShapeError) as raised:
            run()
        assert all(word in str(raised.value) for word in words), str(raised.value)
        assert "\n" not in str(raised.value)
