"""torch's FlopCounterMode counts our ops as it counts its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import convatlas
from convatlas import nets

X = torch.randn(2, 4, 9, 8)
W, DEPTHWISE, FC = torch.randn(6, 2, 3, 3), torch.randn(4, 1, 3, 3), torch.randn(5, 8)
LIKE = {
    "conv2d": lambda lib: lib.conv2d(X, W, stride=(2, 1), padding=1, groups=2),
    "depthwise": lambda lib: lib.conv2d(X, DEPTHWISE, dilation=2, groups=4),
    "conv_transpose2d": lambda lib: lib.conv_transpose2d(X, torch.ones(4, 3, 3, 2), stride=(2, 1), padding=1, groups=2),
    "linear": lambda lib: lib.linear(X, FC),
    "max_pool2d": lambda lib: lib.max_pool2d(X, 2),
    "with indices": lambda lib: lib.max_pool2d(X, 2, return_indices=True),
    "adaptive_max_pool2d": lambda lib: lib.adaptive_max_pool2d(X, 2),
    "batch_norm": lambda lib: lib.batch_norm(X, X[0, :, 0, 0], torch.ones(4)),
    "softmax": lambda lib: lib.softmax(X, 1),
    "relu": lambda lib: lib.relu(X),
    "silu": lambda lib: lib.silu(X),
}


def counted(f: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        f()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", LIKE)
def test_counts_what_torch_counts(name: str) -> None:
    assert counted(lambda: LIKE[name](convatlas)) == counted(lambda: LIKE[name](F))


def test_out_and_keywords_are_counted_too() -> None:
    out = torch.empty(2, 4, 9, 8)
    weight = torch.randn(4, 4, 3, 3)
    expected = 2 * 2 * 4 * 9 * 8 * 4 * 9
    assert counted(lambda: convatlas.conv2d(X, weight, padding=1, activation="relu", residual=X, out=out)) == expected
    assert counted(lambda: torch.ops.convatlas.linear(X, FC, None, None, backend="numpy")) == 2 * X.numel() * 5


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_a_network_counts_as_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = nets.create(name).eval(), torchvision.models.get_model(name, weights=None).eval()
        x = torch.empty(1, 3, 224, 224)
    assert counted(lambda: ours(x)) == counted(lambda: theirs(x)) > 10**8


def test_the_first_op_of_a_process_is_counted() -> None:
    code = (
        "import torch, convatlas; from torch.utils.flop_counter import FlopCounterMode as Counter\n"
        "with Counter(display=False) as counter: convatlas.linear(torch.ones(2, 3), torch.ones(4, 3))\n"
        "print(counter.get_total_flops())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "48", done.stderr
