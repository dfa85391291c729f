"""One plan in many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

import convatlas


def net(width: int) -> nn.Module:
    torch.manual_seed(width)
    parts = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 1)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_ten_threads_two_plans_changing_batches() -> None:
    modules = net(5), net(8)
    plans = [convatlas.compile(module, torch.zeros(1, 3, 6, 6), backend="numpy") for module in modules]
    inputs = [torch.randn(1 + i % 3, 3, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(40)]
    with torch.no_grad():
        expected = [modules[i % 2](x) for i, x in enumerate(inputs)]

    def work(i: int) -> float:
        return float((plans[i % 2](inputs[i]) - expected[i]).abs().max())

    with ThreadPoolExecutor(10) as pool:
        assert max(pool.map(work, range(len(inputs)))) < 1e-5
