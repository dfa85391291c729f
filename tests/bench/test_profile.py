"""convatlas profile, all of it on a CPU by an invented clock: its sums, its table, its JSON, its trace, and ncu's answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from convatlas.bench import ncu, racing
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.profile import Profile, Row, of_races, profile
from convatlas.bench.racing import Racer
from convatlas.bench.timing import Contestant, FakeTimer
from convatlas.bench.trace_event import events
from convatlas.cli import main
from convatlas.cli import profile as command
from convatlas.errors import BackendError
from convatlas.results.standings import Race

pytestmark = pytest.mark.xdist_group("profile")  # one process makes the profile that they look at
RATES = Ceilings(2e12, {"float16": 5e14, "bfloat16": 5e14, "tf32": 2.5e14, "float32": 5e13}, 2e-6)


def layer(path: str, ours: float, bound: float, runs: int = 1, peer: float | None = None, binds: str = "launch") -> Row:
    seconds = {"triton": [ours]} if peer is None else {"triton": [ours], "cudnn": [2 * peer], "cudnn_fused": [peer]}
    shared = {
        "op": "conv2d", "spec": "1x8x8x8", "epilogue": "relu", "flops": 100, "bytes": 10, "bound": binds, "bound_seconds": bound,
        "timer": "CUDA events", "dtype": "float16", "batch": 32, "places": {"resnet50": runs},
    }  # fmt: skip
    return Row([path] * runs, Race.of("profile", f"conv2d {path}", seconds, "H100", shared))


def racer() -> Racer:
    return Racer(True, RATES, backend="auto", nets=command.contestants(plan=False))


def made(*layers: Row, **network: float) -> Profile:
    seconds = {f"ours_{form}": [taken] for form, taken in network.items()}
    shared = {"dtype": "float16", "batch": 32, "places": {"resnet50": 1}}
    whole = Race.of("networks", "net resnet50", seconds, "H100", shared)
    return Profile("resnet50", 32, "float16", list(layers), whole, "auto", 224)


@pytest.fixture(scope="module")
def squeezenet() -> Profile:
    return profile("squeezenet1_1", 1, "float16", racer(), 64, samples=3)


def test_sums_by_hand() -> None:
    found = made(layer("a", 10e-6, 4e-6, 3, 8e-6), layer("b", 5e-6, 5e-6, 1, 6e-6), graph=30e-6, eager=100e-6)
    assert found.layers_sum == pytest.approx(35e-6) and found.bound_sum == pytest.approx(17e-6)
    assert found.peer_sum == pytest.approx(30e-6) and found.launch_gaps == pytest.approx(70e-6)
    assert found.layers[0].lost == pytest.approx(18e-6) and found.layers[0].share == pytest.approx(0.4)
    assert made(layer("a", 1e-6, 1e-6)).peer_sum is None and made(layer("a", 1e-6, 1e-6)).launch_gaps is None


def test_every_layer_of_the_net_is_there(squeezenet: Profile) -> None:
    paths = [path for layer in squeezenet.layers for path in layer.paths]
    assert sum("expand3x3" in path for path in paths) == 8 and len(paths) == 30 and len(squeezenet.layers) == 22
    assert set(squeezenet.network) == {"graph", "eager", "cudnn_graph"} and squeezenet.timer == "rehearsal"


def test_stored_races_are_profiles_too(squeezenet: Profile) -> None:
    """The same sums and sorting, from the races that a run of the suites leaves."""
    races = [row.race for row in squeezenet.layers]
    (found,) = of_races(races, [squeezenet.whole], "float16", 1)
    assert found.net == "squeezenet1_1" and found.network == squeezenet.network
    assert found.layers_sum == pytest.approx(squeezenet.layers_sum) and len(found.layers) == len(squeezenet.layers)
    assert of_races(races, [], "float16", 32) == []
    shared = {**races[0].any.extra, "op": "residual_add"}
    fused = Race.of("layers", "residual_add", {"triton": [1e-6]}, "H100", shared)
    published = Race.of("published", "conv2d", {"triton": [1e-6]}, "H100", {**races[0].any.extra, "suite": "published"})
    assert of_races([fused, published], [], "float16", 1) == []


def test_top_offenders_come_first(squeezenet: Profile) -> None:
    lost = [layer.lost for layer in squeezenet.layers]
    assert lost == sorted(lost, reverse=True)


def test_a_peer_that_does_not_run_here_is_absent_and_says_why(squeezenet: Profile) -> None:
    fused = [row.race for row in squeezenet.layers if row.race.get("op") == "conv2d"]
    assert all(race.quicker is race.entries["cudnn"] and race.absent["cudnn_fused"] for race in fused)


def test_cudnn_chooses_by_trial_only_inside(squeezenet: Profile) -> None:
    assert torch.backends.cudnn.benchmark is False


def test_a_backend_that_fails_on_a_layer_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(racing, "contestants", lambda layer, ours: [Contestant(name, broken) for name in ours])
    with pytest.raises(BackendError, match=r'conv2d .* on backend "auto": raised RuntimeError: no such kernel'):
        profile("squeezenet1_1", 1, "float16", racer(), 64)


def test_the_trace_is_what_perfetto_loads(squeezenet: Profile) -> None:
    """Complete events in microseconds, on named tracks, none overlapping another of its track."""
    document = json.loads(json.dumps(events(squeezenet), allow_nan=False))
    complete = [e for e in document["traceEvents"] if e["ph"] == "X"]
    assert {e["ph"] for e in document["traceEvents"]} == {"X", "M"}
    assert all(isinstance(e[key], int) for e in complete for key in ("pid", "tid"))
    names = {e["tid"]: e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"}
    assert list(names.values()) == ["ours", "cuDNN", "bound"]
    for track in names:
        mine = [e for e in complete if e["tid"] == track]
        assert mine and all(e["dur"] > 0 for e in mine)
        assert all(b["ts"] >= a["ts"] + a["dur"] - 1e-3 for a, b in pairwise(mine))
    ours = sum(e["dur"] for e in complete if names[e["tid"]] == "ours")
    assert ours == pytest.approx(squeezenet.layers_sum * 1e6, rel=1e-4)
    assert "timed alone" in document["traceEvents"][0]["args"]["name"]


# ------------------------------------------------------------------------------------------------- the command


def run(tmp_path: Path, **options: object) -> None:
    command.run("squeezenet1_1", 1, "float16", 64, racer(), FakeTimer(20e-6), **options)


def test_in_a_pipe_every_column_is_there_and_a_rehearsal_is_called_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(tmp_path, top=4, json=tmp_path / "p.json", trace=tmp_path / "t.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "squeezenet1_1, 1x3x64x64, float16, backend auto: REHEARSAL, invented times"
    assert lines[1].startswith("ceilings measured: copy 2.00 TB/s, matmul TFLOP/s float16 500, ")
    assert re.split(r"\s{2,}", lines[4].strip()) == ["layer", "op", "runs", "us", "us", "us", "%", "binds", "us"]
    rows = [line for line in lines if re.match(r"(features|classifier|max_pool2d|concat|avgpool)\S* ", line)]
    assert len(rows) == 4 and any("more layers (--top" in line for line in lines)
    assert any(line.startswith("whole network, in a CUDA graph: ") for line in lines)
    document = json.loads((tmp_path / "p.json").read_text())
    assert document["timer"] == "rehearsal" and document["layers"][0]["paths"] and document["ncu"] is None
    assert {"layers_sum", "peer_sum", "bound_sum", "launch_gaps", "clocks", "versions"} <= set(document)
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert main(["compare", str(tmp_path / "p.json"), "--contestants", "cudnn,triton"]) == 0
    assert "kind of layer" in capsys.readouterr().out  # a profile is a file of results as well


def test_eighty_columns_hold_the_numbers(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"gpu": "H100", **{k: getattr(RATES, k) for k in Ceilings.__dataclass_fields__}}
    found = made(layer("layer4.2.conv3", 1234.5e-6, 400e-6, 12, 1000e-6, "bandwidth"), graph=1e-3)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command.show_text(found, about, None)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith("layer4.2.conv3")).split()
    assert row == ["layer4.2.conv3", "12", "1234.5", "1000.0", "400.0", "32", "bandwidth", "10014.0"]
    assert any(line.startswith("not shown for want of room: op (") for line in lines)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["resnet50"], "profile needs an NVIDIA GPU, and torch sees none here"),
        (["resnet5"], "unknown network 'resnet5', nearest: resnet50"),
        (["resnet50", "--dtype", "float64"], "dtype 'float64', expected one of float16, bfloat16, tf32, float32"),
        (
            ["resnet50", "--json", f"{__file__}/x.json"],
            "test_profile.py is no folder",
        ),
        (["resnet50", "--batch", "0"], "Invalid value for '--batch'"),
    ],
)
def test_one_line_and_exit_2(arguments, said, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["profile", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err and len(captured.err.splitlines()) == 1


# --------------------------------------------------------------------------------------------------------- ncu

CSV = """==PROF== Connected to process 1
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","1","gemm_kernel","gpu__time_duration.sum","ns","12,500"
"0","1","gemm_kernel","dram__bytes.sum","byte","4,000,000"
"0","1","gemm_kernel","sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active","%","62.5"
"1","1","pool","gpu__time_duration.sum","ns","1000"
"1","1","pool","dram__bytes.sum","byte","n/a"
"""


def answering(text: str, code: int = 0, error: str = ""):
    return lambda command, seconds: subprocess.CompletedProcess(command, code, text, error)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncu.shutil, "which", lambda name: f"/opt/{name}")


def ask(**how: object):
    return ncu.counters("resnet50", 32, "float16", "auto", 224, **how)


def test_counters_of_kernels(installed: None) -> None:
    assert ask(run=answering(CSV)) == [
        ncu.Counters("gemm_kernel", pytest.approx(12.5e-6), 4e6, pytest.approx(0.625)),
        ncu.Counters("pool", pytest.approx(1e-6), None, None),
    ]


def test_plain_sentences_where_there_are_none(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters"
    assert "this account may not read them" in ask(run=answering(denied, 1))
    assert "ncu ended with code 9 ('no output'" in ask(run=answering("", 9))

    def slow(command, seconds):
        raise subprocess.TimeoutExpired(command, seconds)

    assert ask(run=slow, seconds=5) == "no hardware counters: ncu was stopped after 5 s."
    monkeypatch.setattr(ncu.shutil, "which", lambda name: None)
    assert ask().endswith("is not installed here.")


def test_counters_are_printed(capsys: pytest.CaptureFixture, installed: None) -> None:
    command.show_counters(ask(run=answering(CSV)))
    out = capsys.readouterr().out
    assert "ncu: 2 kernels, 4.0 MB to and from DRAM" in out
    assert re.search(r"gemm_kernel +4\.00 +62\b", out) and re.search(r"pool +- +-", out)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "triton", "cuda"])
def test_on_a_gpu_every_layer_and_form_has_a_time(backend: str) -> None:
    """Other tests use the GPU at the same time, so no time is judged."""
    one = Racer(ceilings=RATES, backend=backend, nets=command.contestants(plan=False))
    found = profile("squeezenet1_1", 2, "float16", one, 64, samples=3)
    assert found.timer == "CUDA events" and set(found.network) == {"graph", "eager", "cudnn_graph"}
    assert all(row.peer and row.ours > 0 for row in found.layers)
