"""docs/tutorial.md: its notebook is that page, and every command in both runs."""

import importlib.util
import json
from pathlib import Path

import pytest

from convatlas.cli import main
from convatlas.codegen import resources as res

FILE = Path(__file__).parents[2] / "docs" / "tutorial.py"
spec = importlib.util.spec_from_file_location("tutorial", FILE)
tutorial = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tutorial)
TEXT = tutorial.SOURCE.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    """Files are written where they harm nothing. What compilers say is invented: minutes of compiling are other tests' work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "convatlas.codegen.resources.resources",
        lambda tasks, progress=None: [[res.Resources(128, 49152, 0)] * 3 for _ in tasks],
    )


def test_ten_steps_with_a_question_and_an_answer_each():
    steps = TEXT.split("\n## ")[1:]
    assert len(steps) == 10
    for number, step in enumerate(steps, 1):
        assert (
            step.startswith(f"{number}. ")
            and "?" in step.split("```")[0]
            and step.count("<summary>Answer</summary>") == 1
        )


def test_every_command_runs(capsys):
    for arguments in tutorial.commands(TEXT):
        assert main(arguments) == 0, arguments
        assert capsys.readouterr().out.strip(), arguments


def test_the_notebook_is_the_page_and_runs(capsys):
    kept = tutorial.NOTEBOOK.read_text(encoding="utf-8")
    assert kept == tutorial.notebook(TEXT), "python docs/tutorial.py writes it anew"
    names = {}
    cells = [cell for cell in json.loads(kept)["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 11
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert "error" not in capsys.readouterr().err
