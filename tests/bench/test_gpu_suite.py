"""`make gpu`: limits that hold, files that are whole, a killed run that resumes, a summary that fits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rotation import by_turns

from convatlas.bench.suite import __main__ as command
from convatlas.bench.suite import outputs, process, report, runner, stages
from convatlas.bench.suite.process import Ended
from convatlas.bench.suite.stages import Settings, Stage, Step
from convatlas.errors import InputError
from convatlas.files import write_json

ROOT = Path(__file__).resolve().parents[2]
FINE = Ended(0, False, 1.0, ())


def silent(line: str) -> None:
    pass


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


# ------------------------------------------------------------------------------------------------------- stages


def writing(text: str, after: str = "") -> object:
    """A command that appends its name to calls.txt in the output folder's parent, and writes `text` as its result."""

    def of(output: Path, seconds: float) -> list[str]:
        code = f"import pathlib, sys\npathlib.Path({str(output)!r}).write_text({text!r})\n"
        code += "with open('calls.txt', 'a') as f: f.write('.')\n" + after
        return python(code)

    return of


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """suite(stages, minutes, named) runs them over tmp_path/out and returns the states by stage."""

    def run(list_of: list[Stage], minutes: float = 1.0, named: tuple[str, ...] = ()) -> dict:
        monkeypatch.setattr(runner, "STAGES", tuple(list_of))
        monkeypatch.setattr(process, "GRACE", 1.0)
        settings = Settings(tmp_path / "out", tmp_path, True, 1)
        runner.Runner(settings, minutes, named, silent).run()
        return json.loads((tmp_path / "out/state.json").read_text())["stages"]

    return run


def stage(name: str, *steps: Step, seconds: float = 20.0, least: float = 0.0) -> Stage:
    return Stage(name, seconds, 0.0, least, lambda settings: list(steps), outputs.replace)


def calls(tmp_path: Path) -> int:
    file = tmp_path / "calls.txt"
    return len(file.read_text()) if file.exists() else 0


def test_a_done_stage_is_not_run_again_unless_it_is_named(suite, tmp_path: Path) -> None:
    one = stage("one", Step("a", writing('{"n": 1}'), least=0))
    two = stage("two", Step("b", writing('{"n": 2}'), least=0))
    states = suite([one, two])
    assert {name: entry["status"] for name, entry in states.items()} == {"one": "done", "two": "done"}
    assert json.loads((tmp_path / "out/one.json").read_text())["n"] == 1 and calls(tmp_path) == 2
    suite([one, two])
    assert calls(tmp_path) == 2
    suite([one, two], named=("two",))
    assert calls(tmp_path) == 3


def test_a_rehearsal_is_labelled_in_every_file_and_kept_apart(suite, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.convatlas.123abc.partial").write_text("half of what a killed run wro")
    suite([stage("one", Step("a", writing('{"n": 1}'), least=0))])
    assert "no measurement" in json.loads((tmp_path / "out/one.json").read_text())["rehearsal"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.json", "state.json"]
    with pytest.raises(InputError, match="holds a rehearsal, asked for a measurement"):
        runner.states(tmp_path / "out", rehearsal=False)


def test_a_step_cut_at_the_limit_leaves_what_it_wrote_and_resumes(suite, tmp_path: Path) -> None:
    first = Step("first", writing('{"n": 1}'), least=0)
    slow = Step("slow", writing('{"n": 2}', "import time; time.sleep(60)"), least=0)
    states = suite([stage("one", first, slow, seconds=4.0), stage("two", Step("b", writing("{}"), least=0))])
    assert states["one"]["status"] == "partial" and "slow: stopped at its limit" in states["one"]["reason"]
    assert states["one"]["steps"] == ["first"] and states["two"]["status"] == "done"
    assert json.loads((tmp_path / "out/one.json").read_text())["n"] == 2
    states = suite([stage("one", first, Step("slow", writing('{"n": 3}'), least=0))])
    assert states["one"]["status"] == "done" and calls(tmp_path) == 4  # "first" ran once


def test_a_stage_without_time_is_skipped_and_says_so(suite) -> None:
    states = suite([stage("one", Step("a", writing("{}")), least=1e6)])
    assert states["one"]["status"] == "skipped" and "of the budget left, it needs" in states["one"]["reason"]


def test_a_stage_whose_command_fails(suite) -> None:
    broken = stage("one", Step("a", lambda output, seconds: python("raise SystemExit('no such thing')"), least=0))
    states = suite([broken, stage("two", Step("b", writing("{}"), least=0))])
    assert states["one"]["status"] == "failed" and "no such thing" in states["one"]["reason"]
    assert states["two"]["status"] == "done"


def test_a_step_that_says_it_is_unfinished_runs_again(suite, tmp_path: Path) -> None:
    merge = lambda document, step, output, ended: ({"n": 1}, "3 benchmarks cut by the time")  # noqa: E731
    states = suite([replace(stage("one", Step("a", writing("{}"), least=0)), merge=merge)])
    assert states["one"] | {"seconds": 0, "started": ""} == {
        "status": "partial", "reason": "a: 3 benchmarks cut by the time", "steps": [], "seconds": 0, "started": "",
    }  # fmt: skip
    assert suite([stage("one", Step("a", writing("{}"), least=0))])["one"]["status"] == "done" and calls(tmp_path) == 2


def test_an_exit_code_that_is_a_result(suite) -> None:
    """pytest's 1: tests failed, and the stage is done."""
    states = suite([stage("one", Step("a", writing("{}", "raise SystemExit(1)"), codes=(0, 1), least=0))])
    assert states["one"]["status"] == "done"


def test_the_first_three_stages_fit_the_default_budget() -> None:
    budget = 8 * 60.0
    spent = sum(stages.limits(stage, budget, budget, last=False) for stage in stages.STAGES[:3])
    assert spent <= budget and [stage.name for stage in stages.STAGES[:3]] == ["ceilings", "tests", "networks"]


def test_every_stage_has_time_in_half_an_hour() -> None:
    left = budget = 30 * 60.0
    for stage in stages.STAGES:
        limit = stages.limits(stage, budget, left, last=stage is stages.STAGES[-1])
        assert limit >= stage.least
        left -= limit


def test_at_most_eight_files() -> None:
    assert len({stage.file for stage in stages.STAGES} | {"state.json", "summary.txt"}) <= 8


# ------------------------------------------------------------------------------------------- what is collected


def entry(name: str, contestant: str, seconds: list[float], **info: object) -> dict:
    known = {
        "op": "conv2d", "kind": "3x3 dense", "spec": "1x8x8x8", "epilogue": "relu", "dtype": "float16", "batch": 32,
        "contestant": contestant,
    }  # fmt: skip
    return {
        "fullname": f"benchmarks/bench_{name}.py::test_layer[{contestant}]",
        "name": f"test_layer[{contestant}]",
        "group": f"conv2d {name}",
        "params": {"contestant": contestant},
        "extra_info": {**known, **info},
        "options": {"warmup": False},
        "stats": {
            "data": seconds,
            "median": sorted(seconds)[len(seconds) // 2],
            "hd15iqr": 1.0,
            "rounds": len(seconds),
        },
    }


def test_benchmarks_of_steps_are_put_together(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"version": "5", "benchmarks": [entry("x", "cuda", [1.0]), entry("x", "cudnn", [2.0])]})
    write_json(tmp_path / "b", {"version": "5", "benchmarks": [entry("x", "cuda", [3.0]), entry("y", "cuda", [4.0])]})
    one, _ = outputs.add_benchmarks(None, "a", tmp_path / "a", FINE)
    both, _ = outputs.add_benchmarks(one, "b", tmp_path / "b", FINE)
    assert [e["stats"]["data"] for e in both["benchmarks"]] == [[3.0], [2.0], [4.0]]
    assert "options" not in both["benchmarks"][0] and both["version"] == "5"
    assert outputs.add_benchmarks(both, "c", tmp_path / "missing", FINE) == (both, "")
    (tmp_path / "half").write_text('{"benchmarks": [')
    outputs.junit_of(tmp_path / "half").write_text("<testsuite>")
    assert outputs.add_benchmarks(both, "d", tmp_path / "half", FINE) == (both, "")


def test_what_the_time_cut_is_unfinished(tmp_path: Path) -> None:
    """By benchmarks/conftest.py's own words, which the two must agree on."""
    assert f'pytest.skip(f"{outputs.BUDGET}' in (ROOT / "benchmarks/conftest.py").read_text()
    case = '<testcase classname="b" name="{}"><skipped message="{}"/></testcase>'
    cases = [
        case.format(1, "time budget: 3 s are over"),
        case.format(2, "no such kernel"),
        case.format(3, "time budget: 3 s"),
    ]
    outputs.junit_of(tmp_path / "x").write_text(f"<testsuite>{''.join(cases)}</testsuite>")
    document, missing = outputs.add_benchmarks(None, "a", tmp_path / "x", FINE)
    assert missing == "2 benchmarks cut by the time"
    results(tmp_path)
    write_json(tmp_path / "layers.json", document)
    assert "1 without a time: no such kernel\n" in report.summary(tmp_path)  # although nothing has a time


def test_what_was_computed_wrongly_is_said(tmp_path: Path) -> None:
    results(tmp_path, failures=0)
    assert not report.failed(tmp_path)
    write_json(tmp_path / "a", {"benchmarks": [entry("x", "cuda", [1.0])]})
    text = '<testsuite><testcase classname="bench_x" name="t[y]"><failure message="error 0.5"/></testcase></testsuite>'
    outputs.junit_of(tmp_path / "a").write_text(text)
    write_json(tmp_path / "layers.json", outputs.add_benchmarks(None, "a", tmp_path / "a", FINE)[0])
    assert "WRONG bench_x::t[y]: error 0.5" in report.summary(tmp_path) and report.failed(tmp_path)


def test_a_document_too_large_is_thinned_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"benchmarks": [entry("x", str(i), [1.23456e-5] * 64) for i in range(20)]}
    before = len(json.dumps(document))
    monkeypatch.setattr(outputs, "MOST_BYTES", before // 2)
    thin = outputs.thinned(document)
    assert len(json.dumps(thin, separators=(",", ":"))) <= before // 2
    assert thin["thinned"] >= 1 and {len(e["stats"]["data"]) for e in thin["benchmarks"]} == {64 >> thin["thinned"]}


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.kernels.test_pool" name="test_a[cuda-1]"/>
<testcase classname="tests.kernels.test_pool" name="test_a[cuda-2]"><failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.kernels.test_pool" name="test_b"><error message=" "/></testcase>
<testcase classname="tests.kernels.test_pool" name="test_c"><skipped message="no"/></testcase>
</testsuite></testsuites>"""


def test_counts_of_a_junit_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(JUNIT)
    found, _ = outputs.add_tests(None, "pytest", tmp_path / "x", Ended(1, False, 2.0, ()))
    assert (found["passed"], found["failed"], found["skipped"], found["complete"]) == (1, 2, 1, True)
    assert found["failures"] == ["test_pool::test_a[cuda-2]", "test_pool::test_b"]
    assert found["messages"] == {"test_pool::test_a[cuda-2]": "assert 1 == 2", "test_pool::test_b": "error"}


@pytest.mark.parametrize("chosen", [stages.SUBSET, stages.FEW])
def test_the_chosen_kernel_tests_exist(chosen: str) -> None:
    """A test that is renamed must not leave the sanitizers and the rehearsal with nothing to run."""
    assert f"def {chosen.split()[0]}(" in (ROOT / stages.KERNELS).read_text()


def test_a_test_run_that_left_nothing_is_not_a_pass(tmp_path: Path) -> None:
    found, _ = outputs.add_tests(None, "pytest", tmp_path / "none", Ended(4, False, 2.0, ("no such option",)))
    assert found["passed"] == 0 and not found["complete"] and "no such option" in found["reason"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("========= ERROR SUMMARY: 0 errors", ("clean", 0)),
        ("========= Invalid __global__ read of size 4 bytes\n========= ERROR SUMMARY: 3 errors", ("errors", 3)),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", ("clean", 0)),
        (
            "========= Error: Race reported\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)",
            ("errors", 1),
        ),
        ("", ("failed", None)),
    ],
)
def test_what_a_sanitizer_says(tmp_path: Path, text: str, expected: tuple[str, int | None]) -> None:
    (tmp_path / "x").write_text(text)
    found = outputs.watched(tmp_path / "x", FINE)
    assert (found["status"], found.get("errors")) == expected


# ------------------------------------------------------------------------------------------------------ summary


def results(out: Path, layers: int = 12, failures: int = 1) -> None:
    """A measurement's files: ours twice as fast as cuDNN on even layers, half as fast on odd ones."""
    done = {
        name: {"status": "done", "seconds": 10.0, "started": "", "reason": "", "steps": []} for name in stages.NAMES
    }
    done["tuning"] = {**done["tuning"], "status": "skipped", "reason": "0 s of the budget left, it needs 20 s"}
    write_json(out / "state.json", {"rehearsal": False, "stages": done})
    rates = {"copy_bytes_per_s": 2.5e12, "matmul_flops_per_s": {"float16": 6e14}, "launch_seconds": 2e-6}
    write_json(
        out / "ceilings.json", {"gpu": "H100", "driver": "580", "versions": {"torch": "2.11"}, "clocks": {}, **rates}
    )
    names = [f"test_pool::test_a[cuda-{i}]" for i in range(failures)]
    counts = {"passed": 5, "failed": failures, "skipped": 0, "seconds": 70.0, "complete": True}
    write_json(out / "tests.json", {**counts, "failures": names, "sanitizer": {"absent": "it is not installed"}})
    entries = []
    for i in range(layers):
        for contestant, factor in (("triton", 1.0), ("cuda", 3.0), ("cudnn", 2.0 if i % 2 == 0 else 0.5)):
            times = [1e-5 * factor * (1 + 0.001 * j) for j in range(15)]
            entries.append({**entry("conv2d", contestant, times), "group": f"conv2d layer {i} {'x' * 40} | float16"})
    write_json(out / "layers.json", {"benchmarks": entries})


def test_the_summary_says_where_we_stand(tmp_path: Path) -> None:
    results(tmp_path)
    text = report.summary(tmp_path)
    assert "GPU: H100, driver 580" in text and "REHEARSAL" not in text
    assert "5 passed, 1 failed" in text and "FAILED test_pool::test_a: 1 cases: cuda-0" in text
    assert "3x3 dense float16 batch 32: 12 layers; cudnn 1.00 of 12 (6 won, 0 level or unsure, 6 lost)" in text
    worst = text.split("the ten furthest behind:\n")[1].splitlines()
    assert worst[0].startswith("  0.50  conv2d layer 1 ") and "triton 10.1 us, peer 5.0 us" in worst[0]
    assert "tuning    skipped" in text and "0 s of the budget left" in text
    assert report.failed(tmp_path)


def test_the_summary_is_short_whatever_happened(tmp_path: Path) -> None:
    results(tmp_path, layers=400, failures=3000)
    nets = [{**entry("nets", str(i), [1.0]), "group": f"net {i} {'y' * 200}"} for i in range(200)]
    write_json(tmp_path / "networks.json", {"benchmarks": nets})
    text = report.summary(tmp_path)
    assert len(text) < report.MOST and "more lines: see the JSON files" in text.splitlines()[-1]


def test_a_summary_of_nothing(tmp_path: Path) -> None:
    assert "no ceilings were measured" in report.summary(tmp_path)


# ------------------------------------------------------------------------------------------------------ command


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--stage", "layer"], "stage 'layer', expected some of ceilings, tests, networks"),
        (["--minutes", "0"], "--minutes 0, expected more than 0"),
        ([], "torch sees no GPU here"),
        (["--rehearse", "--out", "/proc/no/such/folder"], "No such file or directory: '/proc/no'"),
    ],
)
def test_one_line_and_exit_2(arguments, said, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    assert command.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err and len(captured.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_stages_by_the_names_that_people_use() -> None:
    assert command.stages("nets,layers") == ("networks", "layers")


def finished(out: Path) -> list[str]:
    """Stages that are done."""
    file = out / "state.json"
    states = json.loads(file.read_text())["stages"] if file.exists() else {}
    return [name for name, entry in states.items() if entry["status"] == "done"]


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_gpu_machine_needs_no_pydantic() -> None:
    """`make gpu` installs nothing: what it runs, and the summary it prints, come without what only reading results needs."""
    modules = "suite.__main__ suite.report suite.runner ceilings tuning precompile racing tables collect profile"
    imports = ", ".join([*(f"convatlas.bench.{name}" for name in modules.split()), "convatlas.study.performance"])
    blocked = "import sys; sys.modules['pydantic'] = sys.modules['pydantic_core'] = None"
    summary = "from pathlib import Path; convatlas.bench.suite.report.summary(Path(sys.argv[1]))"
    found = subprocess.run([*python(f"{blocked}; import {imports}; {summary}"), "."], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@by_turns(3)
def test_the_tests_of_a_gpu_are_collected_as_there() -> None:
    """No file of tests needs pydantic at its import, and none has Triton interpret, which would skip every one of them.

    Where a GPU is only pretended, a file that makes tensors on it fails for that alone: it is left out.
    """
    pretending = "torch.cuda.is_available = lambda: True"
    blocked = "sys.modules['pydantic'] = sys.modules['pydantic_core'] = None"
    collect = (
        "pytest.main(['tests', '-m', 'gpu', '--collect-only', '-q', '-p', 'no:cacheprovider', '-p', 'no:benchmark',"
        " '--ignore', 'tests/nets/test_checkpoints.py'])"
    )
    told = "print('interpreting', os.environ.get('TRITON_INTERPRET')); sys.exit(code)"
    code = f"import os, sys, pytest, torch; {pretending}; {blocked}; code = {collect}; {told}"
    environment = {name: value for name, value in process.outside_xdist().items() if name != "TRITON_INTERPRET"}
    found = subprocess.run(python(code), capture_output=True, text=True, cwd=ROOT, env=environment)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert "interpreting None" in found.stdout and "test_hot_gpu.py::test_numbers[" in found.stdout


@pytest.mark.slow
@pytest.mark.interpreter
@pytest.mark.xdist_group("gpu-suite")
def test_a_rehearsal_killed_midway_resumes_and_covers_every_stage(tmp_path: Path) -> None:
    out = tmp_path / "out"
    suite = [sys.executable, "-m", "convatlas.bench.suite", "--out", str(out), "--rehearse"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(suite, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        assert until(lambda: "ceilings" in finished(out), 120)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    first = (out / "ceilings.json").read_bytes()
    assert finished(out) == ["ceilings"]

    again = subprocess.run(suite, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout[-5000:] + again.stderr[-2000:]
    assert (out / "ceilings.json").read_bytes() == first and "ceilings: done before" in again.stdout
    states = json.loads((out / "state.json").read_text())["stages"]
    assert {name: entry["status"] for name, entry in states.items()} == dict.fromkeys(stages.NAMES, "done"), states
    found = files_of(out)
    assert set(found) == {stage.file for stage in stages.STAGES} | {"state.json", "summary.txt"}
    for name, content in found.items():
        assert name == "summary.txt" or json.loads(content)["rehearsal"]
    summary = found["summary.txt"].decode()
    assert summary.startswith("REHEARSAL") and len(summary) < report.MOST and again.stdout.endswith(summary)
    assert json.loads(found["tests.json"])["passed"] >= 2 and not json.loads(found["tests.json"])["failed"]
    for name in ("layers.json", "networks.json"):
        timers = {entry["extra_info"]["timer"] for entry in json.loads(found[name])["benchmarks"]}
        assert timers == {"rehearsal"}
    nets = [entry["extra_info"] for entry in json.loads(found["networks.json"])["benchmarks"]]
    forms = {info["contestant"]: info["form"] for info in nets if info["images_per_s"] > 0}
    graphs = dict.fromkeys(("ours_graph", "cudnn_graph"), "graph")
    assert forms == {**graphs, **dict.fromkeys(("ours_eager", "ours_plan", "cudnn_eager"), "eager")}


def test_plans_race_first_and_the_summary_says_against_what(tmp_path: Path) -> None:
    """Right after the tests, at every batch size; then torch.compile beside them."""
    names = [stage.name for stage in stages.STAGES]
    assert names.index("networks") == names.index("tests") + 1
    settings = Settings(tmp_path, tmp_path, False, 1)
    steps = stages._networks(settings)
    first, second = (step.command(tmp_path / "out", 100.0) for step in steps[:2])
    assert "resnet50,mobilenet_v2" in first and "32,1,128" in first and "--compile" not in first
    assert "resnet50" in second and "32" in second and "--compile" in second and "32,1,128" not in second
    compiled = [step for step in steps if step.name.startswith("compiled ")]
    assert [step.name for step in compiled] == ["compiled 32", "compiled 1", "compiled 128"]
    assert all((step.least, step.most) == (150, 240) for step in compiled)
    times = {"ours_graph": 2e-3, "ours_plan": 1e-3, "cudnn_graph": 3e-3, "compile": 2.5e-3}
    nets = [{**entry("nets", name, [seconds]), "group": "net resnet50"} for name, seconds in times.items()]
    write_json(tmp_path / "networks.json", {"benchmarks": nets})
    text = report.summary(tmp_path)
    assert "over the plan's time: ours_graph 2.00, cudnn_graph 3.00, compile 2.50\n" in text
