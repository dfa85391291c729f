"""Instruments walk a plan as they walk a trace."""

import csv
import json

import pytest
import torch

from convatlas import nets
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.profile import profile
from convatlas.bench.racing import Racer
from convatlas.cli import main
from convatlas.plan.plan import compile
from convatlas.study.tracing import plan_layers
from convatlas.verify.check import checking
from convatlas.verify.verify import verify


@pytest.mark.parametrize("name, backend", [("resnet18", "numpy"), ("squeezenet1_1", "triton")])
def test_verify_a_plan(name, backend):
    result = verify(name, 32, 1, "float32", backend, plan=True)
    assert result.ok and result.complete and result.total == len(result.layers)
    with torch.device("meta"):
        names = {path for path, _ in nets.create(name).named_modules()}
    assert {r.layer.path for r in result.layers} <= names and any(r.layer.path for r in result.layers)
    assert all(r.inside is not None for r in result.layers)


def test_a_fault_in_a_plan_is_named(plant):
    plant(1 + len({layer.key for layer in plan_layers(small()) if layer.op == "conv2d"}))
    result = verify("resnet18", 32, 1, "float32", "numpy", plan=True)
    assert not result.ok and result.first_wrong.layer.op == "conv2d"


def small():
    net = nets.create("resnet18", seed=0)
    return compile(net, torch.randn(1, 3, 32, 32), backend="numpy")


def test_the_walk_is_what_runs_with_its_paths():
    plan, seen = small(), []
    with checking(plan.module, seen=seen.append) as report:
        plan(torch.randn(1, 3, 32, 32))
    assert [(c.path, c.call.op, c.call.spec) for c in seen] == [(x.path, x.op, x.spec) for x in plan_layers(plan)]
    assert report.ok and seen[0].path == "conv1"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.interpreter
def test_summary_lists_the_steps(capsys, no_gpu):
    command = ["summary", "squeezenet1_1", "--plan", "--size", "64"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "features.3.expand3x3" in out and "concat[64:128]" in out and "PyTorch's own ops: none" in out
    assert main([*command, "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert sum(step["op"] == "conv2d" for step in steps) == 26 and all(
        step["ours"] and step["kernels"] for step in steps
    )
    assert main([*command, "--csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["path"] for row in rows] == [step["path"] for step in steps] and rows[0][
        "kernels"
    ] == "conv2d_stem_kernel"


@pytest.mark.interpreter
def test_profile_without_a_gpu_says_what_it_can(capsys, no_gpu):
    assert main(["profile", "squeezenet1_1", "--plan", "--size", "64", "--batch", "1"]) == 0
    out = capsys.readouterr().out
    assert "features.3.expand3x3" in out and "no times: torch sees no NVIDIA GPU here" in out


@pytest.mark.interpreter
def test_profile_times_the_steps_and_the_whole_plan():
    rates = Ceilings(2e12, {"float16": 5e14, "bfloat16": 5e14, "tf32": 2.5e14, "float32": 5e13}, 2e-6)
    found = profile("squeezenet1_1", 1, "float16", Racer(True, rates, backend="auto"), 32, samples=3, plan=True)
    assert set(found.network) == {"graph", "eager", "plan", "cudnn_graph"} and found.launch_gaps is not None
    assert sum(len(layer.paths) for layer in found.layers) == 30  # eight concatenations are no layers of a plan


def test_all_networks_at_once_have_no_plan(capsys):
    assert main(["verify", "all", "--plan"]) == 2
    assert "'--plan' with 'all'" in capsys.readouterr().err


def test_blocks_are_one_row_with_their_parts_and_a_predicted_time(capsys):
    command = ["summary", "mobilenet_v1", "--plan", "--size", "32", "--fuse", "depthwise_separable"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    joined = [step for step in found["steps"] if step["op"] == "block"]
    assert joined and all([part["name"] for part in step["parts"]] == ["depthwise", "project"] for step in joined)
    assert found["predicted_on"] == "h100-sxm" and all(step["predicted_seconds"] > 0 for step in found["steps"])
    assert found["predicted_seconds"] == pytest.approx(sum(step["predicted_seconds"] for step in found["steps"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--fuse", "all"], "--plan"), (["--plan", "--fuse", "al"], "'al', expected auto, predicted")],
)
def test_fuse_is_of_a_plan_and_names_what_there_is(options, message, capsys):
    for command in (["verify", "resnet18"], ["summary", "resnet18"], ["profile", "resnet18"], ["classify", "x.png"]):
        assert main([*command, *options]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "--fuse" in error and message in error
