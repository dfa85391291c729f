"""The glossary: one source for the command, the page and the links."""

import json
from pathlib import Path

import pytest

from convatlas.cli import main
from convatlas.errors import NetError
from convatlas.study.glossary import WORDS, markdown, word

PAGE = Path(__file__).parents[2] / "docs/glossary.md"


def test_the_page_is_what_the_package_says():
    assert PAGE.read_text(encoding="utf-8") == markdown()
    assert len(WORDS) >= 20 and len({one.anchor for one in WORDS}) == len(WORDS)


def test_every_word_is_explained_and_leads_to_another():
    for one in WORDS:
        assert one.text.endswith(".") and len(one.text) > 60 and one.see, one.name
        assert all(word(other) is not one for other in one.see), one.name


def test_words_are_found_by_other_names_and_plurals(capsys):
    assert word("SMs") is word("streaming multiprocessor") is word("sm")
    assert word("Split K") is word("split-K") and word("swizzle").name == "bank conflict"
    with pytest.raises(NetError, match=r"nearest: occupancy"):
        word("ocupancy")
    assert main(["glossary", "warps", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["warp"]
    assert main(["glossary"]) == 0
    text = capsys.readouterr().out
    assert all(f"{one.name}" in text for one in WORDS)


@pytest.mark.parametrize("command", ["map", "inspect", "summary", "profile"])
def test_help_leads_to_it(command, capsys):
    main([command, "--help"])
    assert "convatlas glossary WORD" in capsys.readouterr().out
