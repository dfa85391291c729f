"""Plans of known networks against their modules: ours, torchvision's CNNs and ten of timm's, a share of them at each run.

In float64 by the reference, where only another order of the same sums can differ, and in float32 by the kernels. That batch norms,
epilogues and concatenations are where they belong is one thing (test_plan.py); here is whether the numbers are the module's.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from rotation import EXHAUSTIVE, share
from torch import nn

import convatlas
from convatlas import nets

torchvision = pytest.importorskip("torchvision")
DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
import plan_table as table  # noqa: E402

sys.path.remove(str(DOCS))
CASES = table.cases()
SIZES = {"alexnet_2012": 227, "inception_v3": 75}  # which do not take 64 pixels
HUGE = "regnet_y_128gf"  # 645 million weights, twice in float64: more memory than a test may take


def built(source: str, name: str) -> nn.Module:
    """The network with random weights, and norms whose numbers are not 0 and 1.

    torchvision's and timm's have the statistics of noise, since with others the signal of a deep network may die.
    """
    torch.manual_seed(0)
    if source == "ours":
        net = nets.create(name, seed=0)
    elif source == "timm":
        net = pytest.importorskip("timm").create_model(name, pretrained=False)
    else:
        more = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        net = torchvision.models.get_model(name, weights=None, **more)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        if source == "ours":
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
        else:
            norm.momentum = 1.0
    if source != "ours" and norms:
        with torch.no_grad():
            net.train()(torch.randn(4, 3, SIZES.get(name, 64), SIZES.get(name, 64)))
    return net.eval()


@pytest.mark.parametrize(("source", "name"), [case for case in share(CASES, 2) if case[1] != HUGE])
def test_a_plan_computes_what_the_module_computes(source: str, name: str) -> None:
    net = built(source, name).double()
    size = SIZES.get(name, min(64, nets.info(name).size) if source == "ours" else 64)
    x = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plan = convatlas.compile(net, x, backend="numpy")
    with torch.no_grad(), convatlas.use_backend("numpy"):
        expected = net(x)
    found = plan(x)
    assert found.shape == expected.shape and expected.abs().max() > 0
    assert (expected[0] - expected[1]).abs().max() > 1e-6 * expected.abs().max(), (
        "the output does not depend on the input"
    )
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "name", share(["resnet18", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5"])
)
def test_every_layer_of_a_plan_by_the_kernels_is_within_its_bound(name: str) -> None:
    net, x = built("torchvision", name), torch.randn(1, 3, 64, 64)
    plan = convatlas.compile(net, x, backend="triton")
    with convatlas.checking():
        found = plan(x)
    with torch.no_grad():
        expected = net.double()(x.double())
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("source", "name"), CASES if EXHAUSTIVE else share(CASES))
def test_the_table_of_the_page_is_true(source: str, name: str) -> None:
    if source == "timm":
        pytest.importorskip("timm")
    rows = re.findall(r"^\| .*\|$", (DOCS / "engine.md").read_text(), re.MULTILINE)
    assert table.row(source, name) in rows


def test_the_table_has_every_network() -> None:
    rows = re.findall(r"^\| (?:torchvision |timm )?(\w+) \| \d", (DOCS / "engine.md").read_text(), re.MULTILINE)
    assert rows == [name for _, name in CASES]
