"""Writes docs/tutorial.ipynb from docs/tutorial.md: `python docs/tutorial.py`. A test holds the two equal."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from convatlas.files import write_text

SOURCE = Path(__file__).with_name("tutorial.md")
NOTEBOOK = SOURCE.with_suffix(".ipynb")
BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)
SETUP = """\
# Without a GPU, and before triton is first imported.
import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import shlex

from convatlas.cli import main


def run(line):
    return main(shlex.split(line)[1:])"""


def lines(text: str) -> list[str]:
    """Every command of the page."""
    return [line.removeprefix("$ ") for block in BLOCK.findall(text) for line in block.splitlines()]


def commands(text: str) -> list[list[str]]:
    """The arguments of every command, without `convatlas`."""
    return [shlex.split(line)[1:] for line in lines(text)]


def notebook(text: str) -> str:
    """The notebook: a cell of text, then one of code for each block of commands."""
    # Links of the page lead to its neighbours, and so do those of the notebook, which lies beside it.
    cells, number = [], 0
    for i, part in enumerate(BLOCK.split(text)):
        if i % 2 == 0:
            cells.append(
                {"cell_type": "markdown", "id": f"text-{i}", "metadata": {}, "source": part.strip().splitlines(True)}
            )
            if i == 0:
                cells.append(_code("setup", SETUP))
        else:
            source = "\n".join(f"run({json.dumps(line)})" for line in lines(f"```console\n{part}```\n"))
            cells.append(_code(f"step-{number}", source))
            number += 1
    head = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return json.dumps({"cells": cells, "metadata": head, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def _code(name: str, source: str) -> dict:
    return {
        "cell_type": "code", "execution_count": None, "id": name, "metadata": {}, "outputs": [],
        "source": source.splitlines(True),
    }  # fmt: skip


if __name__ == "__main__":
    write_text(NOTEBOOK, notebook(SOURCE.read_text(encoding="utf-8")))
    print(f"wrote {NOTEBOOK}")
