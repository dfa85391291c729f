"""Where values lie: rows behind a map, maps behind a row, concatenations that want one operand twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import convatlas


class Flattens(nn.Module):
    """A map that only a linear layer reads: its convolution writes it as the row that the layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5 * 4 * 3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


class Unflattens(nn.Module):
    """A row seen as a contiguous map, of which a dense convolution's launcher makes a channels_last copy, in every run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv = nn.Linear(4, 16 * 4 * 3), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.fc(x).unflatten(1, (16, 4, 3)))


class Joins(nn.Module):
    """One operand in two concatenations, twice in one, the input itself in one, and one along the height."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b = self.a(x), self.b(x)
        return (
            torch.cat([a, b], 1),
            torch.cat([b, a, a], 1),
            torch.cat([x, torch.relu(a)], 1),
            torch.cat([a * 2, b + 1], 2),
        )


@pytest.mark.parametrize("backend", ["numpy", pytest.param("triton", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize(
    ("module", "shape", "copies"), [(Flattens, (2, 3, 6, 5), 0), (Unflattens, (2, 4), 0), (Joins, (2, 3, 5, 4), 4)]
)
def test_a_plan_computes_what_the_module_does(module: type, shape: tuple, copies: int, backend: str) -> None:
    torch.manual_seed(0)
    net = module().eval()
    plan = convatlas.compile(net, torch.zeros(shape), backend=backend)
    for _ in range(2):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(plan(x), net(x), rtol=1e-4, atol=1e-5)
    assert [layer.op for layer in plan.layers].count("copy") == copies
