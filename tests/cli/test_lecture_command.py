"""convatlas lecture: at a terminal, as JSON, as pictures, and as docs/lecture.md, which must be what it writes today."""

import json
from pathlib import Path

import pytest

from convatlas.study import lecture

ROOT = Path(__file__).resolve().parents[2]


def test_the_document_is_up_to_date(ask, tmp_path):
    """docs/lecture.md, line for line; `convatlas lecture --markdown docs/lecture.md` mends it."""
    pytest.importorskip("matplotlib")
    written = tmp_path / "docs" / "lecture.md"
    code, out, err = ask("lecture", "--markdown", str(written))
    assert (code, err) == (0, "") and f"wrote {written}" in out
    assert written.read_text() == (ROOT / "docs/lecture.md").read_text()
    names = sorted(path.name for path in (ROOT / "docs/lecture").iterdir())
    assert sorted(path.name for path in (tmp_path / "docs/lecture").iterdir()) == names
    assert all(f"](lecture/{name})" in written.read_text() for name in names)
    for name in names:  # how text falls depends on matplotlib's version, what is said of the picture does not
        new, committed = ((folder / "docs/lecture" / name).read_text() for folder in (tmp_path, ROOT))
        assert (
            new.partition("</desc>")[0].partition("<title")[2]
            == committed.partition("</desc>")[0].partition("<title")[2]
        )
    assert not list(tmp_path.rglob("*.partial"))


def test_a_topic(ask):
    code, out, err = ask("lecture", "nin")
    assert (code, err) == (0, "")
    assert out.startswith("Network in Network (2013)\n=====") and '"filled with MLPs' in out
    assert "holds: nin: 7,595,176 claimed, 7,595,176 found, exactly" in out
    assert (
        "counted: layers in the order" in out and "not computed here:" in out and "verdicts: holds: within 1 %" in out
    )


def test_a_network_stands_for_its_topic(ask):
    assert ask("lecture", "alexnet_2012")[1] == ask("lecture", "AlexNet")[1]


def test_as_json(ask):
    code, out, _ = ask("lecture", "squeezenet", "--json")
    (topic,) = json.loads(out)["topics"]
    fifty = topic["claims"][0]
    assert code == 0 and topic["topic"] == "squeezenet" and topic["networks"] == ["squeezenet1_0", "squeezenet1_1"]
    assert fifty["verdict"] == "roughly" and fifty["numbers"][0]["claimed"] == 50 and fifty["counted"]
    assert topic["not_computed"][0]["needs"]


@pytest.mark.parametrize("columns", [40, 80])
def test_it_fits_a_terminal(terminal, columns):
    lines = terminal(columns, "lecture", "squeezenet")
    assert max(map(len, lines)) <= columns and "…" not in "".join(lines)
    assert any("1,248,424" in line for line in lines)


def test_pictures(ask, tmp_path, monkeypatch):
    """Only the quickest of them here; each is drawn by tests/study/test_lecture_document.py."""
    pytest.importorskip("matplotlib")
    from convatlas.study.lecture import pictures

    monkeypatch.setattr(pictures, "PICTURES", [p for p in pictures.PICTURES if p.name == "activations"])
    code, out, err = ask("lecture", "nin", "--json", "--out", str(tmp_path / "new" / "folder"))
    assert code == 0 and json.loads(out)["topics"] and err.count("wrote ") == 2
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == ["activations.png", "activations.svg"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("lecture", "resnt"), "unknown topic 'resnt', nearest: resnet"),
        (("lecture", "zzz"), ", ".join(lecture.names())),
        (("lecture", "nin", "--markdown", "x.md"), "give no topic"),
        (("lecture", "--json", "--markdown", "x.md"), "give no topic"),
        (("lecture", "nin", "--out", __file__), "is no folder"),
        (("lecture", "--markdown", f"{__file__}/x.md"), "is no folder"),
        (("lecture", "nin", "vgg"), "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else "",
)
def test_what_goes_wrong_is_one_line(ask, arguments, says):
    code, out, err = ask(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("convatlas: ") and says in err and err.count("\n") == 1 and "Traceback" not in err
