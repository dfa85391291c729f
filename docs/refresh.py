"""Writes into README.md what its commands really print, so that it never shows an imagined result.

    python docs/refresh.py [demo] [test]        (default: both; `make docs` does it in .venv)

Each block stands between <!-- NAME-output:begin --> and <!-- NAME-output:end -->. "demo" takes all of `make demo`,
"test" the closing line of `make test`. A command that fails changes nothing. (`make docs` also has summaries.json and
docs/lecture.md written anew, by `python -m convatlas.study.stored` and `convatlas lecture --markdown`.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from convatlas.errors import InputError
from convatlas.files import marked

ROOT = Path(__file__).resolve().parents[1]
WIDTH = "110"


def make(target: str) -> str:
    """What `make target` prints on stdout, without colour. Exits when it fails."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": WIDTH, "TERM": "dumb"}
    command = ["make", "--no-print-directory", target]
    result = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{result.stdout}\nmake {target} failed: README.md is as it was")
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


def main(names: list[str]) -> None:
    unknown = set(names) - {"demo", "test"}
    if unknown:
        sys.exit(f"no block {', '.join(sorted(unknown))} in README.md, expected demo or test")
    readme = ROOT / "README.md"
    for name in names or ["demo", "test"]:
        printed = make(name)
        content = printed if name == "demo" else printed.splitlines()[-1].strip("= ")
        text = f"```text\n$ make {name}\n{content}\n```"
        readme.write_text(marked(readme.read_text(), f"{name}-output", text, "README.md"))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
