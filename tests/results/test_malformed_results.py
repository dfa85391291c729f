"""Every field of a small file of results, spoilt in many ways: a comparison and a page, or one line that says what is wrong."""

from __future__ import annotations

import copy
import json
import re

import pytest
from synthetic_results import entries, folder, suite, write

from convatlas.bench.collect import collect, store
from convatlas.bench.suite.runner import states
from convatlas.cli import main
from convatlas.cli.compare import as_dict, differing, headline
from convatlas.errors import InputError
from convatlas.results import stats
from convatlas.results.comparison import compare_contestants, compare_runs
from convatlas.results.store import load
from convatlas.study.performance.data import Report
from convatlas.study.performance.document import page

REMOVED = object()
DEEP = json.loads("[" * 100 + "]" * 100)
SPOILT = {
    "removed": REMOVED, "null": None, "text": "x", "empty text": "", "number": 7, "negative": -1, "zero": 0, "fraction": 0.5,
    "NaN": float("nan"), "infinity": float("inf"), "400 digits": 10**400, "truth": True, "list": ["x"], "empty list": [],
    "dictionary": {"x": 1}, "deep": DEEP,
}  # fmt: skip
CONV = "conv2d 32x64x28x28 -> 64x28x28, 3x3"


def raw():
    return suite(
        entries(CONV, {"triton": 2e-5, "cudnn": 3e-5}, samples=7, bound_seconds=1e-5, absent={"cuda": "no CuPy"})
    )


def stored(tmp_path):
    path = store(collect(folder(tmp_path / "out", raw()["benchmarks"])), tmp_path)
    return json.loads(path.read_text())


def places(document, above=()):
    """Paths of all fields; of a list the first item stands for the others, and the list itself has a path."""
    items = document.items() if isinstance(document, dict) else list(enumerate(document))[:1]
    for key, value in items:
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*above, key))


def spoilt(document, place, value):
    """A copy of `document` with `value` at `place`."""
    copied = copy.deepcopy(document)
    at = copied
    for key in place[:-1]:
        at = at[key]
    if value is REMOVED:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return copied


def all_of(good):
    """(place, how, document) of every field spoilt in every way."""
    for place in places(good):
        for how, value in SPOILT.items():
            yield place, how, spoilt(good, place, value)


def one_line(error, path):
    """What is said names the file or the field, and stays short, whatever the field held."""
    said = error.replace(str(path.parent), "")  # a folder may have a long name
    return (said != error or "sizes" in error) and len(said) < 500 and "\n" not in error


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here looks at an interval."""
    monkeypatch.setattr(stats, "DRAWS", 50)


@pytest.mark.parametrize("form", ["raw", "stored"])
def test_every_field_spoilt_in_every_way(form, tmp_path):
    """Compared with the good file, and its two contestants with each other; of what is stored the page too."""
    good = raw() if form == "raw" else stored(tmp_path)
    good.pop("profile", None)  # nothing reads it back
    first, path = load(write(tmp_path / "a.json", good)), tmp_path / "b.json"
    refused = taken = 0
    for place, how, document in all_of(good):
        try:
            second = load(write(path, document))
            for compared in (compare_runs(first, second, anyway=True), compare_contestants(second, "cudnn", "triton")):
                json.dumps(as_dict(compared, first, second), allow_nan=False)
            assert headline("b", second) and isinstance(differing(first, second), list)
            if form == "stored" and how in ("removed", "null", "empty text", "zero"):
                assert "# Performance" in page([Report("x", second)])
            taken += 1
        except InputError as error:
            assert one_line(str(error), path), (place, how)
            refused += 1
        except Exception as error:
            raise AssertionError(f"{place} {how}: {error!r}") from error
    assert min(refused, taken) > 100  # both happen: fields that matter, and fields that are the file's own affair


def test_the_command_on_spoilt_files(tmp_path, capsys):
    a, b = write(tmp_path / "a.json", raw()), tmp_path / "b.json"
    for place, how, document in all_of(raw()):
        if how == "400 digits":
            write(b, document)
            code, said = main(["compare", str(a), str(b), "--anyway"]), capsys.readouterr()
            assert code == 0 or (code == 2 and said.out == "" and said.err.count("\n") == 1), (place, how, said.err)


@pytest.mark.parametrize("name", ["state", "ceilings", "tests", "layers"])
def test_a_folder_of_make_gpu_with_a_spoilt_file(name, tmp_path):
    """Stored whole, or refused in one line."""
    out = folder(tmp_path / "out", raw()["benchmarks"])
    stored = 0
    for place, how, document in all_of(json.loads((out / f"{name}.json").read_text())):
        write(out / f"{name}.json", document)
        try:
            json.dumps(collect(out), allow_nan=False)
            stored += 1
        except InputError as error:
            assert str(out) in str(error) or "commit" in str(error), (place, how)
        except Exception as error:
            raise AssertionError(f"{place} {how}: {error!r}") from error
    assert stored


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"rehearsal": false, "stages": {"tests": {"state": 1}}}', '{"rehearsal": false}']
)
def test_a_spoilt_state_of_make_gpu(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"state\.json: expected the state of a run of this suite; remove it"):
        states(tmp_path, rehearsal=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "no JSON"),
        ('{"benchmarks":' + "[" * 5000 + "]" * 5000 + "}", "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
        ("", "no JSON"),
        ("\x00", "no JSON"),
        ('{"benchmarks": [{"name": "x", "stats": {"data": [' + "9" * 400 + "]}}]}", "expected seconds above 0"),
        ('{"benchmarks": [{"name": "x", "stats": {"data": [1e999]}}]}', "expected seconds above 0"),
        ('{"benchmarks": [{"name": "x", "stats": {"data": [5e-324]}}]}', "expected seconds above 0"),
    ],
    ids=range(8),
)
def test_text_that_is_no_results(text, message, tmp_path):
    path = tmp_path / "it.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        load(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "it.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="no JSON"):
        load(path)
