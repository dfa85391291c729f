"""--plan-file: commands run a plan that was saved, without its module, in the place of one that they make."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_net
import torch
from PIL import Image

from convatlas import nets
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.profile import profile
from convatlas.bench.racing import Racer
from convatlas.cli import main
from convatlas.nets import registry
from convatlas.plan.plan import compile, load_plan
from convatlas.verify.classify import classify
from convatlas.verify.verify import random_net, verify_plan


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "x.plan"
    net = random_net("squeezenet1_1", 0).half()
    compile(net, torch.zeros(2, 3, 32, 32).half(), backend="numpy").save(path)
    return path


def test_verify_holds_its_steps_and_what_it_returns(file: Path, capsys) -> None:
    assert main(["verify", "--plan-file", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["input_shape"], found["dtype"], found["backend"]) == ([2, 3, 32, 32], "float16", "numpy")
    assert found["ok"] and found["complete"] and len(found["layers"]) == 30
    assert found["logits"]["ok"] and found["logits"]["images"] == 2
    assert all(layer["in_network"] is not None for layer in found["layers"])


def test_verify_names_a_step_that_is_wrong(file: Path, plant) -> None:
    plan = load_plan(file)
    plant(1 + len({(row.op, row.call.spec, row.call.epilogue) for row in plan.layers if row.op == "conv2d"}))
    result = verify_plan(plan)
    assert not result.ok and result.first_wrong.layer.op == "conv2d"


def test_the_reference_is_float64_on_the_same_weights(file: Path) -> None:
    plan = load_plan(file)
    exact = plan.reference(torch.float64)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).half()
    y = exact(x.double())
    assert y.dtype == torch.float64 and 0 < (y - plan(x)).abs().max() < 0.02 * y.abs().max()


def test_summary_and_profile_list_its_steps(file: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["summary", "--plan-file", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["net"] == "SqueezeNet" and len(found["steps"]) == 30 and found["predicted_seconds"] > 0
    assert main(["profile", "--plan-file", str(file)]) == 0
    out = capsys.readouterr().out
    assert "features.3.expand3x3" in out and "no times: torch sees no NVIDIA GPU here" in out


@pytest.mark.interpreter
def test_profile_times_its_steps(tmp_path: Path) -> None:
    x, rates = torch.zeros(1, 3, 16, 16).half(), Ceilings(2e12, {"float16": 5e14}, 2e-6)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).eval().half()
    compile(module, x, backend="numpy").save(tmp_path / "x.plan")
    racer = Racer(True, rates, backend="triton")
    found = profile("Sequential", 1, "float16", racer, 16, load_plan(tmp_path / "x.plan"), samples=3)
    assert sorted(row.race.get("op") for row in found.layers) == ["conv2d", "max_pool2d"] and found.whole is None
    assert found.as_dict()["layers_sum"] > 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["summary", "--batch", "3"], "'--batch': with --plan-file"),
        (["summary", "resnet18"], "'NET': with --plan-file"),
        (["verify", "--backend", "numpy"], "'--backend': with --plan-file"),
        (["verify", "all"], "'NET': with --plan-file"),
        (["profile", "--size", "32"], "'--size': with --plan-file"),
        (["classify", "skimage:chelsea", "--dtype", "float16"], "'--dtype': with --plan-file"),
        (["classify", "skimage:chelsea"], "input of shape (1, 3, 224, 224), expected (N, 3, 32, 32) float16"),
    ],
)
def test_what_the_file_decides_is_not_asked_twice(command: list[str], message: str, file: Path, capsys) -> None:
    assert main([*command, "--plan-file", str(file)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error and error.count("convatlas:") == 1


def test_no_network_and_no_plan_are_one_line(tmp_path: Path, capsys) -> None:
    for command in ("summary", "verify", "profile"):
        assert main([command]) == 2
        assert "'NET': missing, expected a network or --plan-file FILE" in capsys.readouterr().err
        assert main([command, "--plan-file", str(tmp_path / "none")]) == 2
        assert "none: no such file" in capsys.readouterr().err


def test_many_pictures_by_a_plan_of_four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Six pictures, four at a time: the last two run in a batch that is filled up."""
    monkeypatch.setattr(registry, "NETS", dict(registry.NETS))
    tiny_net.register()
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (12, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    net = nets.create("tiny", seed=3)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    compile(net, torch.zeros(4, 3, 8, 8), backend="numpy").save(tmp_path / "four.plan")
    compile(net, torch.zeros(1, 3, 8, 8), backend="numpy").save(tmp_path / "one.plan")
    command = [
        "classify",
        str(tmp_path / "pictures"),
        "--out",
        str(tmp_path / "x.jsonl"),
        "--net",
        "tiny",
        "--top",
        "2",
    ]
    assert main([*command, "--workers", "0", "--plan-file", str(tmp_path / "four.plan")]) == 0
    head, *found = map(json.loads, (tmp_path / "x.jsonl").open())
    assert head["plan"] and head["batch"] == 4 and head["weights"] == load_plan(tmp_path / "four.plan").digest
    one = load_plan(tmp_path / "one.plan")
    assert len(found) == 6
    for line in found:
        for plan in (False, one):
            right = classify(line["path"], "tiny", tmp_path / "w.pth", "numpy", 2, check=True, plan=plan)
            assert right.ok and right.difference < 1e-5
            assert [p["class"] for p in line["predictions"]] == [p.index for p in right.predictions]
    sys.modules.pop("convatlas.nets.tiny")
