"""Training runs: they learn as PyTorch does, go on to the same bits, and two processes do what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fuzz import like_torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from convatlas import InputError
from convatlas.cli import main
from convatlas.nets import layers, resnet_cifar
from convatlas.train import Settings, train
from convatlas.train.run import network

STEPS = 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 8x8 pictures in two classes, dark above and dark below."""
    folder, draw = tmp_path_factory.mktemp("pictures"), torch.Generator().manual_seed(0)
    for name in ("above", "below"):
        (folder / name).mkdir()
        for i in range(30):
            pixels = torch.randint(100, 256, (8, 8, 3), generator=draw, dtype=torch.uint8)
            pixels[slice(0, 4) if name == "above" else slice(4, 8)] //= 3
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.png")
    return str(folder)


def settings(pictures: str, **more: object) -> Settings:
    return replace(Settings("resnet8", pictures, epochs=2, batch=16, size=8, backend="numpy"), **more)


class Stopped(Exception):
    pass


def stop(*_: object) -> None:
    raise Stopped


@pytest.mark.parametrize("optimizer, precision", [("sgd", "float32"), ("adamw", "bfloat16")])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    optimizer: str, precision: str, pictures: str, tmp_path: Path
) -> None:
    given = settings(pictures, optimizer=optimizer, precision=precision)
    whole = train(given, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(given, tmp_path / "parts", epoch=stop)
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [
        "checkpoint.safetensors", "config.json", "curves.svg", "metrics.csv",
    ]  # fmt: skip
    parts = train(given, tmp_path / "parts")
    assert [replace(e, images_per_second=0) for e in parts] == [replace(e, images_per_second=0) for e in whole]
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts"))
    assert a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())
    assert train(given, tmp_path / "parts") == parts  # nothing is left to do
    with pytest.raises(InputError, match=r"holds a run with seed 0, expected 1: take another folder$"):
        train(replace(given, seed=1), tmp_path / "parts")


def losses(net: torch.nn.Module, images: Tensor, targets: Tensor) -> list[float]:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    found = []
    for i in range(STEPS):
        part = slice(16 * i, 16 * (i + 1))
        loss = F.cross_entropy(net(images[part]), targets[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", ["resnet8", "plain8"])
def test_the_first_steps_are_pytorchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, so that only roundings differ: 20 steps amplify 1e-16 to less than 1e-9 of a loss."""
    sklearn = pytest.importorskip("sklearn.datasets")
    digits = sklearn.load_digits()
    x, y = torch.from_numpy(digits.images)[:, None] / 16 - 0.3, torch.from_numpy(digits.target).long()
    ours = losses(network(name, 10, 1, 0).double().train(), x, y)
    twin = SimpleNamespace(**like_torch.OPS)
    monkeypatch.setattr(layers, "ops", twin)
    monkeypatch.setattr(resnet_cifar, "ops", twin)
    theirs = losses(network(name, 10, 1, 0).double().train(), x, y)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert theirs[-1] < 0.8 * theirs[0]


def test_the_digits_are_learned() -> None:
    pytest.importorskip("sklearn")
    seen: list[float] = []
    (line,) = train(Settings("resnet8", "digits", epochs=1, batch=32), step=lambda *at: seen.append(at[-1]))
    assert len(seen) == 1437 // 32 and sum(seen[-10:]) < 0.5 * sum(seen[:10])
    assert line.accuracy > 0.4 and line.test_accuracy > 0.3  # by chance a tenth


PROCESS = """
import sys
from torch import nn
from convatlas.nets.layers import Conv2d, Linear, MaxPool2d
from convatlas.train import Settings, run

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.fc = Conv2d(3, 4, 3, padding=1), MaxPool2d(2), Linear(64, 2)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x, None, "relu")).flatten(1))

run.network = lambda name, classes, channels, seed: Net()  # no batch norm: each process has the statistics of its own share
run.train(Settings("resnet8", sys.argv[1], epochs=2, batch=16, size=8, rate=0.05), sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(pictures: str, tmp_path: Path) -> None:
    """torchrun with two processes on the CPU: each takes half of every batch, and the sums differ only in their order."""
    script = tmp_path / "learn.py"
    script.write_text(PROCESS)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, start in (("one", []), ("two", torchrun)):
        command = [sys.executable, *start, str(script), pictures, str(tmp_path / name)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr[-2000:]
    one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
    for name, x in one.items():
        torch.testing.assert_close(two[name], x, rtol=1e-5, atol=1e-6)


def test_the_command(pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = [
        "train",
        "resnet8",
        "--data",
        pictures,
        "--size",
        "8",
        "--epochs",
        "1",
        "--batch",
        "16",
        "--backend",
        "numpy",
    ]
    assert main([*given, "--out", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["net"] == "resnet8" and len(found["epochs"]) == 1
    assert (tmp_path / "run" / "metrics.csv").read_text().startswith("epoch,rate,loss,accuracy,")
    assert main([*given, "--out", str(tmp_path / "run")]) == 0  # all is done already
    assert "% of the held-out images are right" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["resnet8", "--data", "nowhere"], "no such folder, expected digits, fashion or a folder of pictures"),
        (["resnet9", "--data", "nowhere"], "unknown network"),
        (["resnet8", "--data", "nowhere", "--optimizer", "adam"], "expected one of sgd, adamw"),
        (["resnet8", "--data", "PICTURES", "--batch", "1000"], "fewer pictures than one batch of 1000"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    arguments: list[str], said: str, pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [pictures if a == "PICTURES" else a for a in arguments]
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
