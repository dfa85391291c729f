"""The suites as a user runs them, rehearsed on the CPU: what reaches pytest-benchmark's JSON, what is skipped, what fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from convatlas.bench import racing
from convatlas.bench.cases import Choice, layer_cases, layers_of, net_cases
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.harness import CLOCK, feed
from convatlas.bench.racing import Racer
from convatlas.bench.suite.process import outside_xdist
from convatlas.bench.timing import Contestant, Protocol
from convatlas.errors import InputError
from convatlas.results.store import Entry

ROOT = Path(__file__).resolve().parents[2]
CEILINGS = {
    "copy_bytes_per_s": 2.5e12,
    "matmul_flops_per_s": {"float16": 7e14, "bfloat16": 7e14, "tf32": 3e14, "float32": 5e13},
    "launch_seconds": 2e-6,
}


def benchmarks(*arguments: str, plugin: Path | None = None) -> subprocess.CompletedProcess:
    """pytest on the given suites, in a process that interprets kernels."""
    environment = {
        **outside_xdist(),
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "80",
    }
    if plugin is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(plugin.parent), environment.get("PYTHONPATH", "")])
        arguments = ("-p", plugin.stem, *arguments)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


POOL = (
    "benchmarks/bench_layers.py",
    "--kind",
    "pooling",
    "--rehearse",
    "--nets",
    "alexnet",
    "--dtypes",
    "fp16",
    "--batches",
    "1",
    "--samples",
    "4",
)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """(what pytest printed, the benchmarks of its JSON) of alexnet's pools, rehearsed."""
    folder = tmp_path_factory.mktemp("rehearsed")
    (folder / "ceilings.json").write_text(json.dumps(CEILINGS))
    out = folder / "out.json"
    result = benchmarks(*POOL, f"--benchmark-json={out}", "--ceilings", str(folder / "ceilings.json"))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, json.loads(out.read_text())["benchmarks"]


@pytest.mark.interpreter
@pytest.mark.xdist_group("rehearsed")
def test_the_store_has_the_samples_of_the_race_to_the_last_bit(rehearsed: tuple) -> None:
    _, entries = rehearsed
    stored = {(e["params"]["case"], e["params"]["contestant"]): e["stats"]["data"] for e in entries}
    cases = layer_cases(Choice(["float16"], [1], ["alexnet"], Protocol(samples=4), ["pooling"]))
    raced = {
        (case.name, name): list(entry.seconds)
        for case in cases
        for name, entry in Racer(True, Ceilings.of(CEILINGS)).run(case).entries.items()
    }
    assert len(raced) == 9 and stored == raced


@pytest.mark.xdist_group("rehearsed")
def test_an_entry_says_what_the_number_is(rehearsed: tuple) -> None:
    _, entries = rehearsed
    found = next(e for e in entries if e["params"]["contestant"] == "cuda" and e["extra_info"]["op"] == "max_pool2d")
    info = found["extra_info"]
    assert found["group"] == "max_pool2d 1x64x55x55 -> 64x27x27, max 3x3 stride2 | float16 batch1 cold graph"
    expected = {
        "suite": "layers", "dtype": "float16", "batch": 1, "cache": "cold", "form": "graph", "timer": "rehearsal",
        "places": {"alexnet": 1}, "bound": "launch", "relative_error": 0.0, "absent": {}, "gpu": None, "contestant": "cuda",
    }  # fmt: skip
    assert {name: info[name] for name in expected} == expected
    assert info["bytes"] == 2 * 64 * (55 * 55 + 27 * 27)
    median = found["stats"]["median"]
    assert info["gbps"] == pytest.approx(info["bytes"] / median / 1e9)
    assert info["roofline_share"] == pytest.approx(2e-6 / median)
    assert {"sm_mhz", "mem_mhz", "temperature_c", "power_w", "throttle"} <= set(info["clocks"])
    assert info["versions"]["torch"] == torch.__version__
    assert found["options"]["timer"].endswith("CLOCK")


@pytest.mark.xdist_group("rehearsed")
def test_the_table_is_narrow_and_says_that_it_is_a_rehearsal(rehearsed: tuple) -> None:
    printed, _ = rehearsed
    table = printed[printed.index("REHEARSAL") :]
    assert "made-up times, nothing was measured" in table
    assert "faster;" not in printed  # no verdict over made-up times
    rows = [line for line in table.splitlines() if "pool" in line and "SKIPPED" not in line]
    assert rows and all(len(line) <= 80 for line in rows)


def test_a_wrong_kernel_of_ours_fails_and_is_not_timed(tmp_path: Path) -> None:
    plugin = tmp_path / "planted.py"
    plugin.write_text(
        "from convatlas.bench import racing\n"
        "from convatlas.bench.timing import Contestant\n"
        "real = racing.contestants\n"
        "def planted(layer, ours):\n"
        "    first, *rest = real(layer, ours)\n"
        "    return [Contestant(first.name, lambda t: first.run(t) + 1), *rest]\n"
        "racing.contestants = planted\n"
    )
    out = tmp_path / "out.json"
    result = benchmarks(*POOL, f"--benchmark-json={out}", plugin=plugin)
    assert result.returncode == 1 and "relative error" in result.stdout
    names = {e["params"]["contestant"] for e in json.loads(out.read_text())["benchmarks"]}
    assert names == {"cuda", "cudnn"}


def test_when_the_time_is_over_cases_are_skipped_visibly() -> None:
    result = benchmarks(*POOL, "--seconds", "0")
    assert result.returncode == 0
    assert "time budget: 0 s are over" in result.stdout and "9 skipped" in result.stdout


WRONG = [
    ("kind", "sparse", "kind 'sparse', expected some of 3x3 dense, "),
    ("dtypes", "int8", "dtype 'int8', expected one of float16"),
    ("batches", "a", "--batches a, expected numbers such as 1,32,128"),
    ("ceilings", "/nowhere.json", "--ceilings /nowhere.json"),
]


@pytest.mark.parametrize("option, value, message", WRONG)
def test_a_wrong_option_is_refused(option: str, value: str, message: str) -> None:
    spec = spec_from_file_location("suites", ROOT / "benchmarks/conftest.py")
    suites = module_from_spec(spec)
    spec.loader.exec_module(suites)
    names = ["seconds", "compile", "dtypes", "batches", "kind", "nets", "ceilings", "cache", "form"]
    given = {**dict.fromkeys(names), "rehearse": True, "samples": 3, option: value}
    with pytest.raises(InputError, match=re.escape(message)):
        suites.Settings(SimpleNamespace(getoption=given.__getitem__))


def test_a_wrong_option_is_one_line() -> None:
    option, value, message = WRONG[0]
    result = benchmarks("benchmarks/bench_layers.py", "--rehearse", f"--{option}", value)
    assert result.returncode == 4 and message in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_gpu_the_suites_say_what_would_run_them() -> None:
    result = benchmarks("benchmarks/bench_layers.py", "benchmarks/bench_nets.py")
    assert result.returncode == 0 and result.stdout.count("needs a CUDA GPU; --rehearse") == 2


@pytest.mark.slow
def test_the_other_suites_rehearse(tmp_path: Path) -> None:
    """Published layers and the host's time; layers and networks are rehearsed by the test of `make gpu` (test_gpu_suite.py)."""
    files = [str(ROOT / f"benchmarks/bench_{name}.py") for name in ("published", "host")]
    assert len({*files, "layers", "nets", "cpu"}) == len([*(ROOT / "benchmarks").glob("bench_*.py")])
    out = tmp_path / "out.json"
    result = benchmarks(*files, "--rehearse", "--dtypes", "fp16", "--samples", "3", f"--benchmark-json={out}")
    assert result.returncode == 0, result.stdout
    entries = json.loads(out.read_text())["benchmarks"]
    assert {e["extra_info"]["suite"] for e in entries} == {"published", "host", "forward"}


def pool_case():
    return layer_cases(Choice(["float32"], [1], ["alexnet"], Protocol(samples=2), ["pooling"]))[0]


@pytest.mark.interpreter
def test_peers_that_cannot_run_are_absent_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data) -> torch.Tensor:
        raise RuntimeError("no plan")

    real = racing.contestants
    monkeypatch.setattr(racing, "contestants", lambda layer, ours: [*real(layer)[:2], Contestant("cudnn", broken)])
    race = Racer(rehearse=True).run(pool_case())
    assert race.absent == {"cudnn": "RuntimeError: no plan"} and not race.wrong
    assert race.entries["cuda"].extra["absent"] == race.absent


@pytest.mark.interpreter
def test_ours_that_raise_are_wrong_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data) -> torch.Tensor:
        raise RuntimeError("illegal memory access")

    real = racing.contestants
    monkeypatch.setattr(racing, "contestants", lambda layer, ours: [Contestant("triton", broken), *real(layer)[1:]])
    race = Racer(rehearse=True).run(pool_case())
    assert race.wrong == {"triton": "raised RuntimeError: illegal memory access"}
    assert "triton" not in race.entries and "cuda" in race.entries


@pytest.mark.interpreter
def test_without_ceilings_there_is_no_share() -> None:
    case = pool_case()
    without, with_them = (Racer(True, ceilings).run(case) for ceilings in (None, Ceilings.of(CEILINGS)))
    assert "roofline_share" not in without.entries["cuda"].extra
    assert 0 < with_them.entries["cuda"].extra["roofline_share"] <= 1


@pytest.mark.interpreter
def test_a_nets_bound_is_the_sum_of_its_layers() -> None:
    (case,) = net_cases(Choice(["float16"], [32], ["squeezenet1_1"], Protocol(samples=2)))
    ceilings = Ceilings.of(CEILINGS)
    info = Racer(True, ceilings, nets=("ours_graph",)).run(case).entries["ours_graph"].extra
    bounds = [ceilings.bound(x.spec, x.epilogue, "float16")[0] for x in layers_of("squeezenet1_1", 32)]
    assert info["bound_seconds"] == pytest.approx(sum(bounds)) and info["bound"] in ("tensor", "bandwidth", "launch")


def test_nets_have_a_case_each() -> None:
    cases = net_cases(Choice(["float16"], [32]))
    assert cases[0].spec == "resnet50 32x3x224x224" and len({case.name for case in cases}) == len(cases) > 25


def test_feed_hands_over_what_it_is_given() -> None:
    class Fixture:
        rounds: list[float]

        def __init__(self) -> None:
            self.extra_info: dict[str, Any] = {}

        def pedantic(self, target, setup, rounds, iterations, warmup_rounds) -> None:
            assert (iterations, warmup_rounds) == (1, 0)
            self.rounds = []
            for _ in range(rounds):
                setup()
                start = CLOCK()
                target()
                self.rounds.append(CLOCK() - start)

    fixture, samples = Fixture(), [0.1, 1e-7 / 3, 5e-6]
    feed(fixture, Entry("layers", "a case", "who", tuple(samples), {"op": "conv2d"}, "GPU"))
    assert fixture.rounds == samples and fixture.extra_info == {"op": "conv2d"}
    assert (fixture.group, fixture.params) == ("a case", {"case": "a case", "contestant": "who"})


@pytest.mark.gpu
def test_a_layer_races_on_a_gpu() -> None:
    (case, *_) = layer_cases(Choice(["float16"], [1], ["resnet50"], Protocol(samples=3), ["dense"]))
    race = Racer().run(case)
    assert not race.wrong and "cudnn" in race.entries and "triton" in race.entries
    assert all(1e-7 < s < 1e-2 for entry in race.entries.values() for s in entry.seconds)
    assert race.get("timer") == "CUDA events" and race.get("gpu")


@pytest.mark.gpu
def test_a_network_races_on_a_gpu() -> None:
    (case,) = net_cases(Choice(["float16"], [1], ["squeezenet1_1"], Protocol(samples=3)))
    race = Racer().run(case)
    assert not race.wrong and set(race.entries) == {
        "ours_graph",
        "ours_eager",
        "ours_plan",
        "cudnn_graph",
        "cudnn_eager",
    }
