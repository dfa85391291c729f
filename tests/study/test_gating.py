"""gate: what counts as worse, by hand; the command's exit codes; and one of our own layers against its stored baseline."""

import copy
import json
from pathlib import Path

import pytest

from convatlas import study
from convatlas.cli import main
from convatlas.codegen import resources as res
from convatlas.errors import InputError
from convatlas.study.gating import FIGURES, baseline, compared, load

CONV = "conv 32x256x14x14 256 3x3 p1 bias relu"
OURS = Path(__file__).with_name("gate.json")


@pytest.fixture
def compiled(monkeypatch):
    """compiled(registers, shared, stack) sets what every launch takes."""

    def set_to(*taken):
        monkeypatch.setattr(
            "convatlas.codegen.resources.resources",
            lambda tasks, progress=None: [[res.Resources(*taken)] * 3 for _ in tasks],
        )

    set_to(128, 65536, 0)
    return set_to


@pytest.fixture
def kept(compiled):
    return baseline(study.map(CONV, backend="cuda"), "cuda")


def test_a_baseline_equals_itself(kept):
    verdict = compared(kept, json.loads(json.dumps(kept)))
    assert verdict.ok and not verdict.changes


@pytest.mark.parametrize(
    ("figure", "factor", "plus", "worse"),
    [
        ("registers", 1.09, 0, None),
        ("registers", 1.2, 0, True),
        ("registers", 0.5, 0, False),
        ("spilled_bytes", 1, 8, True),
        ("shared_bytes", 1.2, 0, True),
        ("occupancy", 0.5, 0, True),
        ("occupancy", 1.5, 0, False),
        ("tile_waste", 1, 0.02, True),
        ("tile_waste", 1, 0.005, None),
        ("predicted_seconds", 1.04, 0, None),
        ("predicted_seconds", 1.06, 0, True),
        ("predicted_seconds", 0.9, 0, False),
    ],
)
def test_each_figure_against_its_threshold(kept, figure, factor, plus, worse):
    now = copy.deepcopy(kept)
    (row,) = now["layers"].values()
    row[figure] = row[figure] * factor + plus
    verdict = compared(kept, now)
    found = [(one.figure, one.worse) for one in verdict.changes]
    assert found == ([] if worse is None else [(figure, worse)]) and verdict.ok == (worse is not True)
    if worse:
        assert FIGURES[figure].words in str(verdict.worse[0]) and CONV in str(verdict.worse[0])
        assert (figure == "spilled_bytes") == bool(compared(kept, now, {figure: 9}).worse)  # any spill is one too many


def test_layers_that_come_and_go_and_what_compiles_no_more(kept):
    now = copy.deepcopy(kept)
    now["layers"]["new"] = now["layers"].pop(CONV)
    verdict = compared(kept, now)
    assert (verdict.added, verdict.removed, verdict.ok) == (("new",), (CONV,), False)
    now = copy.deepcopy(kept)
    now["layers"][CONV]["registers"] = None
    assert [str(one) for one in compared(kept, now).worse] == [f"{CONV}: registers a thread 128 -> not known"]
    with pytest.raises(InputError, match="batch 32, now 8"):
        compared(kept, {**kept, "batch": 8})


def test_the_command(compiled, tmp_path, capsys):
    file = tmp_path / "baseline.json"
    asked = ["gate", CONV, "--backend", "cuda"]
    assert main([*asked, "--write", str(file)]) == 0
    assert main([*asked, "--against", str(file)]) == 0
    assert "nothing got worse" in capsys.readouterr().out
    compiled(168, 65536, 16)
    assert main([*asked, "--against", str(file)]) == 1
    said = capsys.readouterr().out
    assert f"worse: {CONV}: registers a thread 128 -> 168" in said and "spilled bytes a thread 0 -> 16" in said
    assert "predicted, not measured" in said
    assert main([*asked, "--against", str(file), "--registers", "0.5", "--json"]) == 1
    assert [one["figure"] for one in json.loads(capsys.readouterr().out)["verdict"]["worse"]] == ["spilled_bytes"]
    compiled(64, 65536, 0)
    assert main([*asked, "--against", str(file)]) == 0
    assert f"better: {CONV}: registers a thread 128 -> 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[]", "no baseline"), ('{"format": 1, "layers": {"a": {"registers": 1}}}', "layer 'a' holds")],
)
def test_a_file_that_is_no_baseline(tmp_path, capsys, text, said):
    file = tmp_path / "b.json"
    file.write_text(text)
    assert main(["gate", CONV, "--against", str(file)]) == 2
    assert said in capsys.readouterr().err
    assert main(["gate", CONV, "--against", str(tmp_path / "none.json")]) == 2
    assert main(["gate", CONV]) == 2


def test_our_own_layers_hold_their_baseline(capsys):
    """Compiled for real. Registers differ a little by the compiler's version, so that they may grow by a quarter."""
    kept = load(OURS)
    code = main(["gate", kept["net"], "--backend", kept["backend"], "--against", str(OURS), "--registers", "0.25"])
    assert code == 0, capsys.readouterr().out
