"""ONNX export names our ops: nodes of the domain convatlas, by op, with tensors as inputs and the rest as attributes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from convatlas import nets
from convatlas.ops.observe import observe

pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")
from convatlas.ops.onnx import translation_table


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
@torch.no_grad()
def test_a_net_is_exported_as_its_ops(name: str) -> None:
    net, x = nets.create(name, num_classes=10).eval(), torch.randn(1, 3, 64, 64)
    program = torch.onnx.export(net, (x,), dynamo=True, custom_translation_table=translation_table(), verbose=False)
    ops: list[str] = []
    with observe(lambda call, tensors, output: ops.append(call.op)):
        net(x)
    nodes = [node for node in program.model_proto.graph.node if node.domain == "convatlas"]
    wanted = Counter(ops)
    found = Counter(node.op_type for node in nodes)
    assert found["conv2d"] == wanted["conv2d"] > 15 and found["max_pool2d"] == wanted["max_pool2d"]
    first = next(node for node in nodes if node.op_type == "conv2d")
    attributes = {a.name: list(a.ints) or a.s.decode() or a.i for a in first.attribute}
    assert attributes["stride"] == [2, 2] and attributes["activation"] == "relu" and attributes["groups"] == 1
