"""The checker: right outputs pass, one wrong element is found and its layer named."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import convatlas
from convatlas.call import Call
from convatlas.nets.layers import AdaptiveAvgPool2d, Conv2d, Linear, MaxPool2d
from convatlas.ops.observe import observe
from convatlas.specs import Conv2dSpec, Epilogue, LinearSpec
from convatlas.verify.check import Checker, checking, precision
from convatlas.verify.device import device_for


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.pool = MaxPool2d(2)
        self.inner = nn.Sequential(Conv2d(8, 8, 3, padding=1), Conv2d(8, 8, 1))
        self.average = AdaptiveAvgPool2d(1)
        self.fc = Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(self.pool(self.conv(x, self.bn, "relu")))
        return self.fc(self.average(x).flatten(1))


PATHS = ["conv", "pool", "inner.0", "inner.1", "average", "fc"]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 13, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend, dtype", [("numpy", "float64"), ("numpy", "bfloat16"), ("triton", "float16")])
def test_a_right_net_passes(net, x, backend, dtype):
    kind = getattr(torch, dtype)
    device = device_for(backend)
    net.to(device, kind)
    seen = []
    with torch.no_grad(), convatlas.use_backend(backend), checking(net, seen=seen.append) as checks:
        net(x.to(device, kind))
    assert [check.path for check in checks] == PATHS and seen == checks
    assert all(check.report.ok and check.call.backend == backend and check.seconds > 0 for check in checks)
    assert all(check.report.worst <= 1 for check in checks)


@pytest.mark.parametrize("by", [0.01, math.nan, math.inf], ids=str)
def test_one_wrong_element_is_found(net, x, plant, by):
    plant(1, by)
    with torch.no_grad(), checking(net, raises=False) as checks:
        net(x)
    wrong = [check for check in checks if not check.report.ok]
    assert [check.path for check in wrong] == ["inner.0"]
    assert wrong[0].report.where == (1, 7, 4, 4)
    assert "inner.0" in str(wrong[0]) and "y[1, 7, 4, 4]" in str(wrong[0])


def test_a_nan_that_belongs_there_passes(net, x):
    x[0, 0, 5, 5] = math.nan
    with torch.no_grad(), checking(net, raises=False) as checks:
        net(x)
    assert all(check.report.ok for check in checks) and len(checks) == len(PATHS)


def test_an_op_outside_any_module_is_checked_too(x):
    checker = Checker()
    with observe(checker):
        convatlas.relu(x)
    assert checker.checks[0].path == "" and checker.checks[0].report.ok


def test_an_input_that_is_written_over_is_checked_as_it_was(x):
    checker, before = Checker(), x.clone()
    with observe(checker):
        convatlas.residual_add(x, before, out=x)
    assert torch.equal(x, 2 * before) and checker.checks[0].report.ok


CONV = Call(
    "conv2d",
    Conv2dSpec.of((1, 3, 8, 8), (4, 3, 3, 3)),
    Epilogue(bias=True, residual=True),
    backend="triton",
    dtype="float32",
)


@pytest.fixture
def precisions():
    """torch's two settings, put back afterwards (they are no attributes that monkeypatch could restore)."""
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [setting.fp32_precision for setting in settings]
    yield settings
    for setting, value in zip(settings, before):
        setting.fp32_precision = value


@pytest.mark.parametrize("value, allowed", [("tf32", True), ("ieee", False)])
def test_tf32_follows_torchs_setting_on_a_gpu_only(precisions, value, allowed):
    conv, matmul = precisions
    conv.fp32_precision, matmul.fp32_precision = value, "ieee"
    assert precision(CONV, torch.device("cuda"))["tf32"] is allowed
    assert precision(CONV, torch.device("cpu"))["tf32"] is False
    linear = Call("linear", LinearSpec.of((1, 8), (4, 8)), Epilogue(), backend="triton", dtype="float32")
    assert precision(linear, torch.device("cuda"))["tf32"] is False


def test_how_each_backend_rounds():
    assert precision(replace(CONV, backend="numpy"), torch.device("cpu")) == {"accumulate": "float64"}
    assert precision(replace(CONV, backend="cudnn"), torch.device("cuda"))["stores"] == 3
    assert precision(CONV, torch.device("cpu"))["stores"] == 1


def test_the_public_check_raises_where_it_is_wrong(net, x, plant):
    plant(1)
    after = []
    wrong = pytest.raises(convatlas.CheckError, match=r"inner\.0 .*y\[1, 7, 4, 4\].* x the bound")
    with wrong, torch.no_grad(), convatlas.checking() as report:
        net(x)
        after.append("not reached")
    assert not after and [check.path for check in report] == PATHS[:3] and not report.ok


def test_the_public_check_collects_on_request(net, x, plant):
    plant(1)
    with torch.no_grad(), convatlas.checking(raises=False) as report:
        net(x)
    assert [check.path for check in report] == PATHS and [check.path for check in report.wrong] == ["inner.0"]
    assert not report.ok and report.worst == report.wrong[0].report.worst > 1
    text = str(report).splitlines()
    assert len(text) == len(PATHS) + 1 and "y[1, 7, 4, 4]" in text[2] and text[-1].endswith("1 outside their bounds")


def test_paths_without_a_net_are_of_the_outermost_module(net, x):
    """One net after another, a part of one, and no module at all."""
    with torch.no_grad(), convatlas.checking() as report:
        y = net.pool(net.conv(x))
        net.inner(y)
        nn.Sequential(nn.Identity(), net)(x)
        convatlas.relu(x)
    assert [check.path for check in report] == ["", "", "0", "1", *(f"1.{path}" for path in PATHS), ""]
    assert report.ok and 0 < report.worst <= 1 and str(report).endswith("all within their bounds")


def test_shapes_alone_are_not_checked():
    with convatlas.checking() as report:
        convatlas.relu(torch.empty(3, device="meta"))
    assert list(report) == [] and report.ok and report.worst == 0.0 and str(report) == "no op of convatlas ran"


def test_nothing_is_checked_after_the_block(x, plant):
    with convatlas.checking() as report:
        convatlas.relu(x)
    plant(0, op="relu")
    convatlas.relu(x)
    assert len(report) == 1 and report.ok
