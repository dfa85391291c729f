"""What tests of the instruments' commands share. (test_cli.py has its own, for commands that run kernels.)"""

import re
import sys

import pytest

from convatlas.cli import main

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def ask(capsys):
    """ask(arguments) -> (exit code, stdout, stderr), in this process."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def terminal(ask, monkeypatch):
    """terminal(columns, arguments) -> the lines that a terminal of that width gets."""

    def call(columns: int, *arguments: str) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        code, out, _ = ask(*arguments)
        assert code == 0
        return [line.rstrip() for line in ANSI.sub("", out).splitlines()]

    return call
