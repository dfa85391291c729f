"""torch.fx traces our nets, and torchvision cuts features out of them: a node an op, the parameters kept."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor

import convatlas
from convatlas import nets

NETS = {
    "resnet18": 64,
    "vgg11_bn": 224,
    "googlenet": 64,
    "squeezenet1_1": 64,
    "mobilenet_v2": 64,
    "efficientnet_lite0": 64,
}


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_a_traced_net_is_the_net(name: str) -> None:
    torch.manual_seed(0)
    net = nets.create(name).eval()
    traced = torch.fx.symbolic_trace(net)
    names = {getattr(node.target, "__name__", "") for node in traced.graph.nodes if node.op == "call_function"}
    assert names & {"conv2d", "folded_conv2d"} and names & {"max_pool2d", "adaptive_avg_pool2d"}
    x = torch.empty(2, 3, NETS[name], NETS[name], device="meta")
    if NETS[name] > 64:
        assert traced.to("meta")(x).shape == net.to("meta")(x).shape
        return
    x = torch.randn(1, 3, 64, 64)
    assert torch.allclose(traced(x), net(x), rtol=1e-3, atol=1e-4)
    net.get_parameter(next(n for n, _ in net.named_parameters())).mul_(0.5)  # the graph has the net's own parameters
    assert torch.allclose(traced(x), net(x), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_torchvision_extracts_features() -> None:
    net = nets.create("resnet18").eval()
    x = torch.randn(1, 3, 64, 64)
    wanted = []
    net.layer2.register_forward_hook(lambda module, given, output: wanted.append(output))
    features = create_feature_extractor(net, {"layer2": "middle", "fc": "logits"})(x)
    assert torch.allclose(features["logits"], net(x), rtol=1e-3, atol=1e-4)
    assert torch.allclose(features["middle"], wanted[-1], rtol=1e-3, atol=1e-4)


def test_an_op_is_a_node_under_every_name_it_has() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return convatlas.concat([convatlas.relu(x), convatlas.ops.functional.softmax(x, dim=1)])

    traced = torch.fx.symbolic_trace(f)
    assert [node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"] == [
        "relu",
        "softmax",
        "concat",
    ]
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(traced(x), f(x))
