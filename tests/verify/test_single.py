"""One layer alone: the right operands for every op, and an output that no NaN survives in."""

import pytest
import torch
from torch import nn

import convatlas
from convatlas.ops.observe import observe
from convatlas.study import trace
from convatlas.verify.check import Checker
from convatlas.verify.device import device_for
from convatlas.verify.single import operands, run


class EveryOp(nn.Module):
    """Each of the ops once, with parameters away from their defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 2, 3, 3))
        self.channel = nn.Parameter(torch.ones(8))
        self.matrix = nn.Parameter(torch.ones(5, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.channel
        y = convatlas.conv2d(x, self.weight, c, (2, 1), ((0, 1), (2, 1)), (1, 2), 2, activation="relu6")
        y = convatlas.conv2d(y, self.weight[:, :1], None, 1, 1, 1, 8, activation="relu", residual=y)
        z = convatlas.conv2d_input_grad(y, self.weight, (*y.shape[:1], 4, *y.shape[2:]), 1, 1, 1, 2)
        z = convatlas.conv2d_weight_grad(y, z, (8, 2, 3, 3), 1, ((1, 1), (1, 1)), 1, 2)
        y = convatlas.residual_add(y, z[0, 0, 0, 0].expand(y.shape))
        y = convatlas.conv_transpose2d(
            y, self.weight, c[:4], (2, 1), 1, (1, 0), 2, (1, 2), activation=("leaky_relu", 0.2)
        )
        y = convatlas.silu(convatlas.hardswish(convatlas.leaky_relu(y, 0.3)))
        y = convatlas.concat([y, convatlas.hardsigmoid(convatlas.sigmoid(y))])
        y = convatlas.batch_norm(y, c, c, c, c, eps=0.1, activation="relu")
        y = convatlas.local_response_norm(y, 3, alpha=0.1, beta=0.5, k=2.0)
        y = convatlas.max_pool2d(y, (3, 2), 2, 1, 1, True)
        y = convatlas.avg_pool2d(y, 2, 1, 1, False, False, 3)
        y = convatlas.channel_scale(
            y, convatlas.adaptive_max_pool2d(y, 1), gate="sigmoid", activation="relu", residual=y
        )
        y = convatlas.relu6(convatlas.relu(convatlas.residual_add(y, y, activation="relu")))
        y = convatlas.adaptive_avg_pool2d(convatlas.concat([y, y]), 1).flatten(1)
        return convatlas.softmax(convatlas.linear(y, self.matrix, None, activation="relu"), dim=0)


LAYERS = trace(EveryOp(), (2, 4, 11, 9))
IDS = [f"{i}-{layer.op}" for i, layer in enumerate(LAYERS)]


def test_no_op_is_missing_here():
    from convatlas.ops.library import OPS

    others = {"max_pool2d_with_indices", "adaptive_max_pool2d_with_indices", "conv2d_weight_grad_with_bias"}
    assert {layer.op for layer in LAYERS} | others == {op.name for op in OPS}


@pytest.mark.parametrize("backend, dtype", [("numpy", torch.float64), ("triton", torch.float32)])
@pytest.mark.parametrize("layer", LAYERS, ids=IDS)
def test_an_op_runs_as_it_was_traced(layer, backend, dtype):
    device = device_for(backend)
    tensors = operands(layer, dtype, device, seed=0)
    ran, checker = [], Checker()
    with observe(lambda call, given, output: ran.append((call, set(given)))), observe(checker):
        y = run(layer, tensors, backend)
    (call, names), check = ran[0], checker.checks[0]
    assert (call.op, call.spec, call.epilogue, call.params) == (layer.op, layer.spec, layer.epilogue, layer.params)
    assert names == set(tensors) and y.isfinite().all() and check.report.ok


def test_outputs_are_of_order_one():
    from convatlas.nets import create

    for layer in trace(create("resnet18"), (1, 3, 64, 64))[:6]:
        y = run(layer, operands(layer, torch.float32, torch.device("cpu"), seed=1), "numpy")
        assert 0.1 < float(y.std()) < 10


def test_a_backend_that_writes_nothing_is_found(monkeypatch):
    from convatlas.ops import backends

    monkeypatch.setattr(backends, "runner", lambda name: lambda call, tensors, out: out)
    checker = Checker()
    with observe(checker):
        run(LAYERS[0], operands(LAYERS[0], torch.float32, torch.device("cpu"), seed=0), "numpy")
    assert not checker.checks[0].report.ok


def test_seeds():
    first, again, other = (operands(LAYERS[0], torch.float16, torch.device("cpu"), seed) for seed in (0, 0, 1))
    assert torch.equal(first["input"], again["input"]) and not torch.equal(first["input"], other["input"])
    assert first["input"].stride(1) == 1
