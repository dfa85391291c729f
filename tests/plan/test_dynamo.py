"""torch.compile with our backend."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.errors import ConvAtlasWarning
from convatlas.plan import dynamo


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.bn.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    torch._dynamo.reset()
    return Net().eval()


def test_compiled_by_our_backend(net: nn.Module) -> None:
    compiled = torch.compile(net, backend=dynamo.backend)
    seen = []
    with torch.no_grad(), convatlas.use_backend("numpy"):
        for n in (2, 1, 3, 4):
            x = torch.randn(n, 3, 7, 7)
            with convatlas.ops.observe.observe(lambda call, tensors, out: seen.append(call.op)):
                found = compiled(x)
            torch.testing.assert_close(found, net(x), rtol=1e-4, atol=1e-5)
        net.conv.weight.mul_(2)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    assert seen == ["conv2d", "adaptive_avg_pool2d", "linear"] * 4


def test_a_gradient_is_pytorchs(net: nn.Module) -> None:
    compiled = torch.compile(net, backend=dynamo.backend)
    with pytest.warns(ConvAtlasWarning, match="a gradient is wanted"):
        compiled(torch.randn(1, 3, 7, 7)).sum().backward()
    assert net.conv.weight.grad is not None


def test_the_backend_has_a_name() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    section = text.split('[project.entry-points."torch_dynamo_backends"]\n')[1].splitlines()[0]
    assert section == 'convatlas = "convatlas.plan.dynamo:backend"'
    assert callable(dynamo.backend)
