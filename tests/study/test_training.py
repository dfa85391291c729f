"""A training step in numbers: the ops of its backward pass by layer, what it keeps, and what checkpointing saves."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from torch import nn

from convatlas import ArgumentError, NetError, nets
from convatlas.nets.layers import AvgPool2d, Conv2d, Linear
from convatlas.study.training import TrainingStep, training_step


class Tiny(nn.Module):
    """relu(3x3, 3 -> 4), 2x2 average pooling, 1x1 4 -> 8, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = Conv2d(3, 4, 3, padding=1), AvgPool2d(2)
        self.inner, self.fc = nn.Sequential(Conv2d(4, 8, 1, bias=False)), Linear(8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.inner(self.pool(self.stem(x, None, "relu"))).flatten(1))


def step_of(name: str, batch: int = 2, size: int = 64, **more: object) -> TrainingStep:
    with torch.device("meta"):
        net = nets.create(name, **nets.registry.training_options(name))
    return training_step(net, (batch, 3, size, size), name=name, **more)


@pytest.fixture(scope="module")
def tiny() -> TrainingStep:
    with torch.device("meta"):
        net = Tiny()
    return training_step(net, (2, 3, 8, 8))


def test_work_by_hand(tiny: TrainingStep) -> None:
    stem, pool, inner, fc = tiny.layers[:4]
    assert [layer.path for layer in tiny.layers] == ["stem", "pool", "inner.0", "fc", "the loss"]
    macs = 2 * 8 * 8 * 4 * 27, 2 * 4 * 4 * 8 * 4, 2 * 5 * 128
    assert stem.products == (macs[0], 2 * macs[0]) and not stem.calls["dgrad"]  # nobody asks for the image's gradient
    assert inner.products == (macs[1], 3 * macs[1])
    ones = 2 * 5  # the bias's gradient, as a product with ones
    assert fc.products == (macs[2], 3 * macs[2] + ones) and [len(fc.calls[p]) for p in ("dgrad", "wgrad")] == [1, 2]
    assert [call.op for call in pool.calls["other"]] == [
        "avg_pool2d_grad"
    ]  # it keeps nothing by which it could be found
    assert [call.op for call in stem.calls["other"]] == ["activation_grad"]
    forward = sum(macs)
    assert tiny.ratio == pytest.approx((3 * forward - macs[0] + ones) / forward)


def test_memory_by_hand(tiny: TrainingStep) -> None:
    image, map_, pooled, inner = (2 * 2 * n for n in (3 * 64, 4 * 64, 4 * 16, 8 * 16))
    kept = {layer.path: layer.kept for layer in tiny.layers}
    assert (
        kept["stem"] == image + map_ and kept["pool"] == 0
    )  # the image for its weight's gradient, the output for relu's
    assert kept["inner.0"] == pooled and kept["fc"] == inner
    parameters = 4 * 28 + 32 + 128 * 5 + 5
    assert tiny.fixed == {"weights": 4 * parameters, "gradients": 4 * parameters, "optimizer": 4 * parameters}
    assert tiny.memory == sum(tiny.fixed.values()) + sum(kept.values())
    assert tiny.optimizer_bytes == 5 * 4 * parameters  # reads weight, gradient, momentum; writes weight, momentum


def test_what_ops_keep_is_what_pytorch_frees(tiny: TrainingStep) -> None:
    """The same net on real tensors: the storages that autograd holds after the forward pass, but for the weights'."""
    net, found, held = Tiny(), {}, []

    def keep(x: torch.Tensor) -> torch.Tensor:
        held.append(x)
        found[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        net(torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    for p in net.parameters():
        found.pop(p.untyped_storage()._cdata, None)
    loss = next(layer.kept for layer in tiny.layers if layer.path == "the loss")
    assert sum(found.values()) == 2 * (tiny.kept - loss)  # float32


def test_a_step_is_three_forwards_but_for_the_stem() -> None:
    step = step_of("resnet18")
    stem, rest = step.layers[0], [layer for layer in step.layers[1:] if layer.products[0]]
    assert stem.products[1] == 2 * stem.products[0]
    assert all(1 <= (step_ / forward) / 3 < 1.01 for forward, step_ in (layer.products for layer in rest))
    assert 2.9 < step.ratio < 3 and step.flops("other") > 0
    assert {call.op for layer in step.layers for call in layer.calls["wgrad"]} == {"conv2d_weight_grad", "linear"}


def test_auxiliary_classifiers_take_part() -> None:
    paths = {layer.path for layer in step_of("googlenet").layers}
    assert {"aux1.fc1", "aux2.fc2"} <= paths


def test_checkpointing_keeps_less() -> None:
    step = step_of("resnet18", batch=8)
    least, count = step.checkpointed
    assert 1 < count < 12 and least < step.kept / 2
    whole = {key: size for _, kept in step.segments for key, size in kept.items()}
    assert step._cut(1) >= sum(whole.values())  # one segment saves nothing
    assert least == min(step._cut(n) for n in (count - 1, count, count + 1))


def test_the_optimizers_numbers() -> None:
    sgd, adam = (step_of("squeezenet1_1", optimizer=name).fixed["optimizer"] for name in ("sgd", "adamw"))
    assert adam == 2 * sgd == 8 * 1_235_496


def test_what_is_refused() -> None:
    with torch.device("meta"):
        theirs = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(NetError, match=r"0 is torch\.nn's, whose backward is not counted: expected layers of"):
        training_step(theirs, (1, 3, 8, 8))
    with pytest.raises(ArgumentError, match="optimizer 'adam', expected one of sgd, adamw"):
        step_of("resnet18", optimizer="adam")


@pytest.mark.parametrize("command", ["summary", "profile"])
def test_the_commands(command: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from convatlas.cli import main

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([command, "squeezenet1_1", "--training", "--batch", "2", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert "squeezenet1_1, 2x3x64x64, float16, sgd: a training step" in out and "predicted, not measured" in out
    assert ("steps are not timed yet" in out) is (command == "profile")
    assert any(line.startswith("features.3.squeeze ") for line in out.splitlines())


def test_the_command_as_data(capsys: pytest.CaptureFixture) -> None:
    from convatlas.cli import main

    given = ["summary", "squeezenet1_1", "--training", "--size", "64", "--optimizer", "adamw"]
    assert main([*given, "--json"]) == 0
    data, step = json.loads(capsys.readouterr().out), step_of("squeezenet1_1", batch=1, optimizer="adamw")
    assert data["total"]["flops"]["wgrad"] == step.flops("wgrad") == sum(row["wgrad_flops"] for row in data["layers"])
    assert data["total"]["memory"]["total"] == step.memory and data["total"]["memory"]["inference"] < step.memory
    assert data["total"]["predicted_seconds"]["optimizer"] > 0
    assert main([*given, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(int(row["kept_bytes"]) for row in rows) == step.kept
    assert main([*given, "--plan"]) == 2 and "with --plan: give one of them" in capsys.readouterr().err
    assert (
        main([*given, "--dtype", "float64"]) == 2 and "expected float16, bfloat16 or float32" in capsys.readouterr().err
    )
