"""Results in the input's memory format, and messages that show both sides. tests/fuzz holds every op to torch.nn.functional."""

from __future__ import annotations

import itertools

import pytest
import torch

import convatlas


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
