"""python -m convatlas.bench.suite --out DIR [--minutes 8] [--stage layers,nets] [--rehearse]: what `make gpu` runs.

Exit codes: 0 what ran is right, 1 a test or a stage failed, 2 it cannot run, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import convatlas
from convatlas.bench.suite.stages import NAMES, Settings
from convatlas.errors import ConvAtlasError, InputError

ALIASES = {"nets": "networks", "tune": "tuning", "test": "tests"}


def root() -> Path:
    """The repository, from the package's own place. Raises InputError where the package is installed elsewhere."""
    found = Path(convatlas.__file__).resolve().parents[2]
    if not (found / "benchmarks").is_dir() or not (found / "tests").is_dir():
        raise InputError(f"{found} has no benchmarks and tests, expected the repository: run `make gpu` in it")
    return found


def stages(text: str) -> tuple[str, ...]:
    """Stages named by the user, in order of priority. Raises InputError for an unknown one."""
    given = [ALIASES.get(name, name) for name in text.replace(",", " ").split()]
    if unknown := [name for name in given if name not in NAMES]:
        raise InputError(f"stage {unknown[0]!r}, expected some of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in given)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m convatlas.bench.suite", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; the same one again resumes")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all stages together")
    parser.add_argument("--stage", default="", help=f"only these, and again if done: {','.join(NAMES)}")
    parser.add_argument("--rehearse", action="store_true", help="every stage on a CPU, with an invented clock")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    # Whoever stops a run by SIGTERM, as timeout(1) does, gets what it has finished, as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {line}", flush=True)

    try:
        if not given.minutes > 0:
            raise InputError(f"--minutes {given.minutes:g}, expected more than 0")
        named = stages(given.stage)
        if not given.rehearse:
            _need_gpu()
        from convatlas.bench.suite.report import failed, summary
        from convatlas.bench.suite.runner import Runner
        from convatlas.files import write_text

        out = given.out.resolve()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        settings = Settings(out, root(), given.rehearse, max(1, cores - 2))
        runner = Runner(settings, given.minutes, named, say)
        interrupted = False
        try:
            runner.run()
        except KeyboardInterrupt:
            interrupted = True
        text = summary(out)
        write_text(out / "summary.txt", text)
        print(f"\n{text}", end="", flush=True)
        return 130 if interrupted else int(failed(out))
    except (ConvAtlasError, OSError) as error:  # OSError: a folder that cannot be written
        print(f"convatlas: {error}", file=sys.stderr)
        return 2


def _need_gpu() -> None:
    """Raises InputError without a GPU that torch sees."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "torch sees no GPU here, expected one; REHEARSE=1 (--rehearse) runs every stage on a CPU instead"
        )


if __name__ == "__main__":
    sys.exit(main())
