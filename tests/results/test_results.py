"""Results: both forms of file are read alike, a `make gpu` folder becomes one file, and what cannot be used is refused."""

from __future__ import annotations

import json

import pytest
from synthetic_results import CEILINGS, GPU, VERSIONS, entries, folder, suite, write

from convatlas.bench.collect import DIGITS, collect, main, store
from convatlas.errors import InputError
from convatlas.results.store import compacted, expanded, load, newest, rounded, slug

CONV = "conv2d 32x64x56x56 -> 64x56x56, 3x3"


def layers():
    fused = entries(CONV, {"triton": 20e-6, "cuda": 30e-6, "cudnn": 40e-6, "cudnn_fused": 19e-6}, 1)
    plain = entries(
        "max_pool2d 32x64x112x112 -> 64x56x56, max 3x3 stride2", {"triton": 5e-6, "cudnn": 9e-6}, 2, epilogue=""
    )
    for item in plain:
        item["extra_info"]["absent"] = {"cuda": "RuntimeError: no CuPy"}
        del item["extra_info"]["clocks"]
    return fused + plain


def networks():
    return entries(
        "net resnet50 32x3x224x224", {"ours_graph": 2e-3, "cudnn_graph": 3e-3}, 3, epilogue="", suite="networks",
        images_per_s=1.0,
    )  # fmt: skip


def test_a_folder_becomes_one_document(tmp_path):
    document = collect(folder(tmp_path / "out", layers(), networks(), tuning={"regret": 1.00123456}))
    assert document["format"] == "convatlas results 1" and document["gpu"] == GPU
    assert (document["date"], document["commit"]) == ("2026-01-02T03:00:00+00:00", "0123456789ab")
    assert document["versions"] == VERSIONS and document["driver"] == "999.1"
    assert document["tests"]["passed"] == 2659 and document["ceilings"]["copy_bytes_per_s"] == 2e12
    assert document["tuning"] == {"regret": 1.001}
    assert len(document["benchmarks"]) == 8 and document["common"]["timer"] == "CUDA events"


def test_what_is_stored_reads_back_as_it_was(tmp_path):
    """All fields but those that follow from others or stand at the top, times at four digits, in their order."""
    measured = layers() + networks()
    path = store(collect(folder(tmp_path / "out", layers(), networks())), tmp_path / "results")
    assert path == tmp_path / "results" / "test-9000" / "2026-01-02-0123456789ab.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    results = load(path)
    gone = {"tflops", "gbps", "images_per_s", "versions", "gpu"}
    for entry, item in zip(results.entries, measured, strict=True):
        expected = {name: rounded(value, DIGITS) for name, value in item["extra_info"].items() if name not in gone}
        assert entry.extra == expected
        assert entry.seconds == pytest.approx(item["stats"]["data"], rel=5e-4) and entry.device == GPU
        assert (entry.suite, entry.contestant) == (expected["suite"], expected["contestant"])
        assert entry.case == item["group"]
    assert results.versions == VERSIONS


def test_both_forms_give_the_same_entries(tmp_path):
    out = folder(tmp_path / "out", layers())
    stored, raw = load(store(collect(out), tmp_path)), load(out / "layers.json")
    assert [e.key for e in stored.entries] == [e.key for e in raw.entries]
    assert [e.median for e in stored.entries] == pytest.approx([e.median for e in raw.entries], rel=1e-3)
    assert {e.timer for e in raw.entries} == {"CUDA events"} and {e.device for e in raw.entries} == {GPU}


def test_compacting_loses_nothing():
    """Fields that differ, that only some have, that an entry lacks, and groups of one name in two suites."""
    items = [
        {"group": group, "extra_info": extra}
        for group, extra in (
            ("a", {"suite": "layers", "contestant": "x", "n": 1, "deep": {"k": [1, 2]}, "all": 0}),
            ("a", {"suite": "layers", "contestant": "y", "deep": {"k": [1, 2]}, "all": 0}),
            ("a", {"suite": "published", "contestant": "x", "n": 2, "all": 0}),
            ("b", {"suite": "layers", "contestant": "x", "n": 1, "new": True, "all": 0}),
            ("a", {"suite": "published", "contestant": "y", "n": 2, "all": 0}),
        )
    ]
    short, common = compacted(items)
    assert common == {"all": 0}
    assert short[1]["extra_info"] == {"contestant": "y", "n": None, "suite": "layers"}
    assert expanded(json.loads(json.dumps(short)), common) == items


def test_two_thousand_entries_take_less_than_a_megabyte(tmp_path):
    many = []
    for i in range(500):
        what = f"conv2d 32x{i + 64}x56x56 -> 256x56x56, 3x3"
        places = {f"resnet{n}": n % 7 + 1 for n in (18, 34, 50, 101, 152)}
        absent = {"cudnn_fused": "RuntimeError: no such operator"}
        many += entries(
            what, {"triton": 2e-5, "cuda": 3e-5, "cudnn": 4e-5, "x": 5e-5}, i, 0.02, places=places, absent=absent
        )
    path = store(collect(folder(tmp_path / "out", many)), tmp_path)
    assert len(load(path).entries) == 2000 and path.stat().st_size < 1_000_000


def rehearsed_state(out):
    write(out / "state.json", {"rehearsal": True, "stages": {}})


def rehearsed_entry(out):
    write(out / "layers.json", suite(entries(CONV, {"triton": 2e-5}, timer="rehearsal")))


def other_gpu(out):
    write(out / "ceilings.json", {**CEILINGS, "gpu": "NVIDIA Other 1"})


def no_commit(out):
    write(out / "ceilings.json", {**CEILINGS, "commit": "unknown"})


def nothing(out):
    for path in out.glob("*.json"):
        path.unlink()


def no_json(out):
    (out / "layers.json").write_text("{")


def bare_entry(out):
    write(out / "layers.json", {"benchmarks": [{"group": "x"}]})


def older(out):
    """Entries of a version that did not store a layer's kind."""
    items = layers()
    for item in items:
        del item["extra_info"]["kind"]
    write(out / "layers.json", suite(items))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rehearsed_state, "holds a rehearsal, whose times are invented"),
        (rehearsed_entry, "holds a rehearsal, whose times are invented"),
        (other_gpu, "holds results of NVIDIA Other 1 and NVIDIA Test 9000, expected those of one GPU"),
        (no_commit, "does not say which commit was measured, expected --commit HASH"),
        (nothing, "holds no result that names its GPU"),
        (no_json, r"layers.json: no JSON \(.*\), expected a JSON file of results"),
        (older, "has no kind, expected suite, .*: measure anew"),
        (bare_entry, "benchmark 1, x: no stats, expected a file of --benchmark-json"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, spoil, message):
    out = folder(tmp_path / "out", layers())
    spoil(out)
    with pytest.raises(InputError, match=message):
        collect(out)


def test_the_commit_can_be_given(tmp_path):
    out = folder(tmp_path / "out", layers())
    no_commit(out)
    assert collect(out, "abcdef0123456789")["commit"] == "abcdef012345"
    with pytest.raises(InputError, match="commit 'main', expected 7 to 40 hexadecimal digits"):
        collect(out, "main")


def test_parts_may_be_absent(tmp_path):
    out = folder(tmp_path / "out", [])
    for name in ("layers.json", "tests.json", "state.json"):
        (out / name).unlink()
    document = collect(out)
    assert document["benchmarks"] == [] and document["tests"] is document["tuning"] is None
    assert load(store(document, tmp_path)).entries == ()


def test_the_newest_result_of_each_gpu(tmp_path):
    """By the date in the file: two of one day are not in the order of their names."""
    document = collect(folder(tmp_path / "out", layers()))
    for commit, date, gpu in (
        ("fffffff", "2026-01-02T03:00:00+00:00", "NVIDIA A"), ("aaaaaaa", "2026-01-02T09:00:00+00:00", "NVIDIA A"),
        ("ccccccc", "2025-12-31T00:00:00+00:00", "NVIDIA A"), ("ddddddd", "2020-01-01T00:00:00+00:00", "NVIDIA B"),
    ):  # fmt: skip
        store({**document, "commit": commit, "date": date, "gpu": gpu}, tmp_path / "results")
    (tmp_path / "results" / "README.md").write_text("no result")
    found = newest(tmp_path / "results")
    assert {name: results.head["commit"] for name, results in found.items()} == {"a": "aaaaaaa", "b": "ddddddd"}
    assert newest(tmp_path / "nowhere") == {}


def test_slug():
    assert slug("NVIDIA H100 80GB HBM3") == "h100-80gb-hbm3" and slug("Tesla T4 (x)") == "tesla-t4-x"


PLAIN = {"fullname": "b.py::test[1]", "name": "test[1]", "group": None, "params": None, "stats": {"data": [1e-3, 2e-3]}}


def test_a_plain_file_of_pytest_benchmark(tmp_path):
    results = load(write(tmp_path / "plain.json", suite([PLAIN])))
    (entry,) = results.entries
    assert (entry.case, entry.contestant, entry.timer, entry.device) == ("b.py::test[1]", "", "host clock", "A CPU")
    assert entry.median == 1.5e-3


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "a JSON list, expected an object"),
        ({"a": 1}, "the keys a, expected pytest-benchmark's JSON or"),
        ({"format": "convatlas results 9", "benchmarks": []}, "convatlas results 9, expected"),
        (suite([{"stats": {"data": [1.0]}}]), "benchmark 1 is a dictionary of 1, expected a group or a name"),
        (suite([{**PLAIN, "stats": {"median": 1}}]), r"no stats.data, expected a file of --benchmark-json"),
        (suite([{**PLAIN, "stats": {"data": [1.0, -1.0]}}]), "expected seconds above 0"),
        (suite([PLAIN, PLAIN]), r"two entries for b.py::test\[1\], expected one"),
        (suite(["x"]), "benchmark 1 is 'x', expected a group or a name"),
    ],
)
def test_files_that_hold_no_results(tmp_path, document, message):
    path = write(tmp_path / "it.json", document)
    with pytest.raises(InputError, match=message):
        load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none.json: No such file or directory, expected a JSON file of results"):
        load(tmp_path / "none.json")


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    out = folder(tmp_path / "out", layers())
    rehearsed_state(out)
    (tmp_path / "benchmarks").mkdir()
    assert main([str(out), "--root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "rehearsal" in said.err
    assert not (tmp_path / "benchmarks" / "results").exists()
