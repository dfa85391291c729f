"""convatlas compare: verdicts, exit codes and what it refuses, on synthetic runs with planted differences."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from synthetic_results import CEILINGS, VERSIONS, entries, folder, suite, write

from convatlas.bench.collect import collect, store
from convatlas.bench.networks import NAMES
from convatlas.cli import main
from convatlas.cli.compare import WHO
from convatlas.results.comparison import compare_runs
from convatlas.results.standings import OURS, PEERS
from convatlas.results.store import load

ROOT = Path(__file__).resolve().parents[2]

SHAPES = [f"conv2d 32x{c}x28x28 -> {c}x28x28, 3x3" for c in (32, 64, 128, 256)]
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def run(seed, slower=(), noise=0.005, samples=15, contestants=("triton", "cudnn"), factor=1.1, shapes=SHAPES, **extra):
    """Entries of 20 us, of `factor` times that for the (shape, contestant) named in `slower`."""
    return [
        item
        for i, shape in enumerate(shapes)
        for item in entries(
            shape,
            {name: 20e-6 * (factor if (shape, name) in slower else 1) for name in contestants},
            1000 * seed + i, noise, samples, **extra,
        )
    ]  # fmt: skip


@pytest.fixture
def ask(capsys):
    """ask(arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = main(["compare", *map(str, arguments)])
        said = capsys.readouterr()
        return code, ANSI.sub("", said.out), said.err

    return call


@pytest.fixture
def files(tmp_path):
    """files(entries of A, entries of B) -> the two paths."""

    def make(a, b):
        return write(tmp_path / "a.json", suite(a)), write(tmp_path / "b.json", suite(b))

    return make


def test_a_planted_slowdown_is_named_and_fails_the_command(ask, files):
    a, b = files(run(1), run(2, {(SHAPES[1], "triton")}))
    code, out, err = ask(a, b, "--fail-on", "slower")
    assert code == 1 and err == f"convatlas: 1 slower: {SHAPES[1]} bias+relu | float16 batch32 cold graph triton\n"
    row = next(line for line in out.splitlines() if line.startswith(SHAPES[1]) and "triton" in line)
    ratio, low, high = map(float, re.search(r"(\d\.\d{3}) +(\d\.\d{3}) to (\d\.\d{3})", row).groups())
    assert low < ratio < high and ratio == pytest.approx(1.1, abs=0.01) and row.endswith("slower*")
    assert "8 benchmarks: 0 faster, 1 slower, 7 same, 0 unsure; geometric mean of B/A 1.01" in out
    assert ask(a, b)[0] == 0 and ask(b, a, "--fail-on", "slower")[0] == 0 and ask(b, a, "--fail-on", "faster")[0] == 1


def test_two_runs_of_one_thing_pass(ask, files):
    a, b = files(run(1), run(2))
    code, out, err = ask(a, b, "--fail-on", "slower,faster,unsure,missing")
    assert (code, err) == (0, "") and "0 faster, 0 slower, 8 same, 0 unsure" in out and "Holm" not in out


def test_noise_is_unsure_and_fails_only_when_asked(ask, files):
    a, b = files(run(1, noise=0.2), run(2, noise=0.2))
    assert ask(a, b, "--fail-on", "slower")[0] == 0
    code, _, err = ask(a, b, "--fail-on", "unsure")
    assert code == 1 and re.match(r"convatlas: \d unsure: ", err)


def test_statistically_certain_but_below_the_threshold(ask, files):
    a, b = files(run(1, noise=0.001, samples=31), run(2, {(SHAPES[0], "triton")}, 0.001, 31, factor=1.02))
    assert ask(a, b, "--fail-on", "slower")[0] == 0
    assert ask(a, b, "--fail-on", "slower", "--threshold", "0.01")[0] == 1


def test_a_verdict_that_does_not_survive_the_correction_fails_nothing(ask, files):
    """6 of 6 samples apart, p = 2 / 924 = 0.0022: slower by itself, unproven among the 8 that are compared."""
    a, b = files(run(1, samples=8), run(2, {(SHAPES[0], "triton")}, samples=8))
    for item in (a, b):
        document = json.loads(item.read_text())
        times = document["benchmarks"][0]["stats"]
        times["data"] = times["data"][:6]
        item.write_text(json.dumps(document))
    code, out, _ = ask(a, b, "--fail-on", "slower")
    assert code == 0 and "1 slower" in out and "slower*" not in out and "* 0 of them also survive" in out
    assert "1 without samples enough for that, whatever they show: 7 of each are needed" in out


def test_a_gate_that_cannot_close_is_refused(ask, files):
    """3 of 3 apart is p = 2 / 20; of 7 it is 2 / 3432, less than 0.01 / 8."""
    a, b = files(run(1, samples=3), run(2, {(SHAPES[0], "triton")}, samples=3))
    code, out, err = ask(a, b, "--fail-on", "slower")
    assert (code, out) == (
        2,
        "",
    ) and "3 samples against 3: among 8 benchmarks no change could be proven, expected 7" in err
    assert ask(a, b)[0] == 0 and ask(a, b, "--fail-on", "missing")[0] == 0


def test_what_only_one_file_has(ask, files):
    a, b = files(run(1), run(2, shapes=[*SHAPES[1:], "conv2d 32x8x8x8 -> 8x8x8, 3x3"]))
    code, out, err = ask(a, b, "--fail-on", "missing")
    assert (
        code == 1 and err == f"convatlas: 2 missing: {SHAPES[0]} bias+relu | float16 batch32 cold graph triton, ...\n"
    )
    assert f"only in A, 2: {SHAPES[0]} bias+relu" in out and "only in B, 2: conv2d 32x8x8x8" in out
    assert "6 benchmarks" in out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"gpu": "NVIDIA Other 1"}, "device: NVIDIA Test 9000 in"),
        ({"timer": "host clock"}, "timer: CUDA events in"),
        ({"timer": "rehearsal"}, "rehearsal in"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(ask, files, extra, message):
    a, b = files(run(1), run(2, **extra))
    code, out, err = ask(a, b)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1 and "--anyway" in err
    assert ask(a, b, "--anyway")[0] == 0


def test_other_versions_are_said(ask, files):
    a, b = files(run(1), run(2, versions={**VERSIONS, "triton": "3.8.0"}))
    assert "versions differ: triton 3.6.0 -> 3.8.0" in ask(a, b)[1]


def test_contestants_of_one_file(ask, files):
    a, _ = files(run(1, {(shape, "cudnn") for shape in SHAPES[:3]}), [])
    code, out, _ = ask(a, "--contestants", "triton,cudnn", "--fail-on", "faster")
    assert code == 0 and "4 benchmarks: 0 faster, 3 slower, 1 same" in out
    assert ask(a, "--contestants", "cudnn,triton", "--fail-on", "faster")[0] == 1


def test_contestants_are_paired_by_turns(ask, files):
    """Both drift alike by 20 % over the run: paired they are the same, as two files they could not be told from different."""
    items = run(1, noise=0.001)
    for item in items:
        item["stats"]["data"] = [x * (1 + i / 70) for i, x in enumerate(item["stats"]["data"])]
    a, b = files(items, items)
    assert "0 slower, 4 same, 0 unsure" in ask(a, "--contestants", "triton,cudnn")[1]
    assert "0 slower, 0 same, 8 unsure" in ask(a, b)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A"], "give either two files, or one file and --contestants X,Y"),
        (["A", "B", "--contestants", "triton,cudnn"], "give either two files"),
        (["A", "--contestants", "triton"], "expected two names"),
        (["A", "--contestants", "triton,tpu"], "no contestant 'tpu', expected two of triton, cudnn"),
        (["A", "--contestants", "triton,triton"], "expected two different ones"),
        (["A", "B", "--fail-on", "quicker"], "'quicker', expected some of slower, faster, unsure, missing"),
        (["A", "B", "--only", "all"], "'all', expected some of slower, unsure, faster, same"),
        (["A", "B", "--threshold", "0"], "threshold=0.0, expected a fraction above 0"),
        *(
            (["A", "B", f"--threshold={t}"], f"threshold={t}, expected a fraction above 0")
            for t in ("inf", "nan", "-0.1")
        ),
        (["A", "none.json"], "none.json: No such file or directory"),
        (["A", "A/no/folder.json"], "expected a JSON file of results"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(ask, files, arguments, message):
    a, b = files(run(1), run(2))
    code, out, err = ask(
        *(arg.replace("A", str(a)) if arg[0] == "A" else str(b) if arg == "B" else arg for arg in arguments)
    )
    assert (code, out) == (2, "") and message in " ".join(err.split()) and err.startswith("convatlas: ")


def test_files_with_nothing_in_common(ask, files):
    code, _, err = ask(*files(run(1, shapes=SHAPES[:1]), run(2, shapes=SHAPES[1:])))
    assert code == 2 and "have no benchmark in common" in err


def test_json(ask, files, tmp_path):
    a, b = files(run(1), run(2, {(SHAPES[1], "triton")}))
    code, out, _ = ask(a, b, "--json", "-")
    document = json.loads(out)
    assert code == 0 and document["verdicts"] == {"faster": 0, "slower": 1, "same": 7, "unsure": 0}
    (slower,) = [row for row in document["benchmarks"] if row["verdict"] == "slower"]
    assert slower["proven"] and slower["p"] < 1e-6 and slower["ratio"] == slower["b_seconds"] / slower["a_seconds"]
    assert document["a"]["devices"] == ["NVIDIA Test 9000"] and document["a"]["timers"] == ["CUDA events"]
    target = tmp_path / "deep" / "it.json"
    assert ask(a, b, "--json", target)[0] == 0 and json.loads(target.read_text()) == document
    assert [path.name for path in target.parent.iterdir()] == ["it.json"]


def test_only_lists_what_is_asked_for(ask, files):
    a, b = files(run(1), run(2, {(SHAPES[1], "triton")}))
    out = ask(a, b, "--only", "slower")[1]
    assert out.count("conv2d") == 1 and "7 same" in out


def test_a_stored_result_against_a_raw_one(ask, tmp_path):
    a = store(collect(folder(tmp_path / "1", run(1))), tmp_path)
    b = folder(tmp_path / "2", run(2, {(SHAPES[1], "cudnn")})) / "layers.json"
    code, out, _ = ask(a, b, "--fail-on", "slower")
    assert code == 1 and "0 faster, 1 slower, 7 same" in out and CEILINGS["commit"] in out


def test_plain_files_of_pytest_benchmark(ask, files):
    def plain(data):
        return [{"fullname": "b.py::test[1]", "name": "t", "group": None, "params": None, "stats": {"data": data}}]

    code, out, _ = ask(*files(plain([1e-3 + 1e-6 * i for i in range(9)]), plain([2e-3 + 1e-6 * i for i in range(9)])))
    assert code == 0 and "b.py::test[1]" in out and "1.996" in out and "A CPU, host clock" in out and "slower*" in out


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_any_terminal(ask, files, monkeypatch, columns):
    a, b = files(run(1), run(2, {(SHAPES[1], "triton")}))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = ask(a, b)
    assert code == 0 and max(len(line.rstrip()) for line in out.splitlines()) <= columns and "…" not in out
    assert "slower*" in out and out.count("same") >= 7
    assert ("not shown for want of room" in out) is (columns < 120)


def test_a_pipe_gets_whole_lines(ask, files):
    out = ask(*files(run(1), run(2)))[1]
    assert sum(line.startswith("conv2d") and line.endswith("same") for line in out.splitlines()) == 8


def test_hundreds_of_benchmarks_that_did_not_change_raise_no_alarm(tmp_path):
    """300 benchmarks at 3 % noise, 6 times: more than half of the comparisons have a false verdict, 1 in 100 a proven one."""
    shapes = [f"conv2d 32x{c}x28x28 -> {c}x28x28, 3x3" for c in range(16, 316)]
    verdicts, alarms = 0, 0
    for seed in range(6):
        a, b = (
            load(
                write(
                    tmp_path / f"{letter}.json",
                    suite(run(2 * seed + i, noise=0.03, contestants=("triton",), shapes=shapes)),
                )
            )
            for i, letter in enumerate("ab")
        )
        compared = compare_runs(a, b)
        verdicts += compared.counts["slower"] + compared.counts["faster"]
        alarms += len(compared.alarms("slower")) + len(compared.alarms("faster"))
    assert verdicts >= 1 and alarms == 0


def test_a_summary_by_kind_of_layer_comes_first(ask, files):
    """Two kinds: of the four convolutions one is slower, all poolings are."""
    pools = [f"max_pool2d 32x{c}x28x28 -> {c}x14x14, max 3x3 stride2" for c in (32, 64)]
    shapes = [*SHAPES, *pools]
    one = ("triton",)
    slower = {(shape, "triton") for shape in (SHAPES[1], *pools)}
    a, b = files(run(1, contestants=one, shapes=shapes), run(2, slower, contestants=one, shapes=shapes))
    lines = ask(a, b)[1].splitlines()
    rows = {
        kind: next(line for line in lines if line.startswith(kind)).split() for kind in ("3x3 dense", "pooling", "all")
    }
    assert rows["3x3 dense"][2:3] + rows["3x3 dense"][4:] == ["4", "0", "1", "3", "0"]
    assert rows["pooling"][1:2] + rows["pooling"][3:] == ["2", "0", "2", "0", "0"]
    assert rows["all"][1:2] + rows["all"][3:] == ["6", "0", "3", "3", "0"]
    assert float(rows["pooling"][2]) == pytest.approx(1.1, abs=0.01)
    first = next(i for i, line in enumerate(lines) if line.startswith("max_pool2d"))
    assert lines.index(next(line for line in lines if line.startswith("all "))) < first
    short = ask(a, b, "--summary")[1]
    assert "max_pool2d 32" not in short and "pooling" in short and "6 benchmarks: 0 faster, 3 slower" in short
    kinds = json.loads(ask(a, b, "--json", "-")[1])["kinds"]
    assert kinds["pooling"]["verdicts"] == {"faster": 0, "slower": 2, "same": 0, "unsure": 0}


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_the_summary_in_any_terminal(ask, files, monkeypatch, columns):
    shapes = [SHAPES[0], "max_pool2d 32x64x28x28 -> 64x14x14, max 3x3 stride2"]
    a, b = files(run(1, shapes=shapes), run(2, shapes=shapes))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = ask(a, b, "--summary")[1]
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns and "…" not in out and "3x3 dense" in out
    assert ("not shown for want of room" in out) is (columns < 70)


def test_the_help_names_all_contestants():
    assert {*OURS, *PEERS, *NAMES} <= set(re.findall(r"\w+", WHO))


def test_the_readme_judges_ours_against_the_peer():
    """The second contestant is the judged one."""
    assert "compare A.json --contestants cudnn,triton" in (ROOT / "README.md").read_text()
