"""From a folder of `make gpu` to a committed result, and the page made anew:

    python -m convatlas.bench.collect FOLDER [--commit HASH]     store FOLDER's results, then write the page
    python -m convatlas.bench.collect                            write the page from the results that are stored

A rehearsal is refused: what is stored was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import convatlas
from convatlas.errors import ConvAtlasError, InputError
from convatlas.files import write_text
from convatlas.kernels.common.proven import record
from convatlas.model.gpu import of_device
from convatlas.results.store import (
    FORMAT,
    REHEARSAL,
    Entry,
    Results,
    compacted,
    load,
    read,
    require,
    rounded,
    slug,
)

SUITES = ("layers.json", "networks.json", "training.json")
OTHERS = ("tests.json", "tuning.json")
# What an entry need not hold: the first three follow from times, flops, bytes and batch, the next stand at the top.
LEFT_OUT = ("tflops", "gbps", "images_per_s", "versions", "gpu", "driver", "commit", "clocks_before")
DIGITS = 4  # of a time; no clock here resolves more
ROOT = Path(convatlas.__file__).resolve().parents[2]


def collect(folder: Path, commit: str = "") -> dict[str, Any]:
    """The committed form of what a `make gpu` left in `folder`; each of its files may be absent.

    Args:
        commit: of the code that was measured, where the folder's files do not know it.

    Raises InputError for a rehearsal, for results of two GPUs, for a folder without any measurement, and for malformed files.
    """
    from convatlas.results import schema

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder, expected the one that `make gpu OUT=...` wrote")
    parts = {name: read(folder / name) for name in (*schema.FILES, *OTHERS) if (folder / name).exists()}
    for name in schema.FILES.keys() & parts.keys():
        schema.check(schema.FILES[name], parts[name], folder / name)
    suites = [load(folder / name) for name in SUITES if (folder / name).exists()]
    entries = [entry for results in suites for entry in results.entries]
    require(entries, folder)
    state, ceilings = parts.get("state.json", {}), parts.get("ceilings.json")
    about = [*([ceilings] if ceilings else []), *(entry.extra for entry in entries)]
    if state.get(REHEARSAL) or any(found.get("timer") == REHEARSAL for found in about):
        raise InputError(f"{folder} holds a rehearsal, whose times are invented: expected measurements")
    gpus = {found.get("gpu") for found in about} - {None}
    if len(gpus) != 1:
        given = f"results of {' and '.join(sorted(gpus))}" if gpus else "no result that names its GPU"
        raise InputError(f"{folder} holds {given}, expected those of one GPU")
    shorter, common = compacted([_slim(entry) for entry in entries])
    return {
        "format": FORMAT,
        "gpu": gpus.pop(),
        "date": _date(state, suites),
        "commit": _commit(folder, [commit, *(found.get("commit") for found in about[:2]), *map(_committed, suites)]),
        "driver": about[0].get("driver"),
        "versions": about[0].get("versions", {}),
        "clocks": about[0].get("clocks"),
        "ceilings": rounded(ceilings, DIGITS) if ceilings else None,
        "common": common,
        "benchmarks": shorter,
        **{name.removesuffix(".json"): rounded(parts.get(name), DIGITS) for name in OTHERS},
    }


def _slim(entry: Entry) -> dict[str, Any]:
    extra = {name: value for name, value in entry.extra.items() if name not in LEFT_OUT}
    return rounded({**entry.as_dict(), "extra_info": extra}, DIGITS)


def _date(state: dict[str, Any], suites: list[Results]) -> str:
    """When the measuring began, ISO 8601."""
    started = [stage.get("started") for stage in state.get("stages", {}).values()]
    started += [results.head.get("datetime") for results in suites]
    return min(filter(None, started), default=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _committed(results: Results) -> str | None:
    return (results.head.get("commit_info") or {}).get("id")


def _commit(folder: Path, known: Iterable[str | None]) -> str:
    """The first that is known: what the caller says, the ceilings, an entry, pytest-benchmark."""
    for found in known:
        if found and found not in ("unknown", "unversioned"):
            if not re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", found):
                raise InputError(f"commit {found!r}, expected 7 to 40 hexadecimal digits")
            return found[:12] + ("-dirty" if found.endswith("-dirty") else "")
    raise InputError(f"{folder} does not say which commit was measured, expected --commit HASH")


def text(document: dict[str, Any]) -> str:
    """JSON with a field a line and an entry a line, so that a diff shows what changed."""
    lines = []
    for name, value in document.items():
        if name == "benchmarks":
            rows = ",\n".join(_dumps(item) for item in value)
            lines.append(f'"benchmarks":[\n{rows}\n]')
        else:
            lines.append(f"{_dumps(name)}:{_dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def store(document: dict[str, Any], folder: Path) -> Path:
    """Writes FOLDER/<gpu>/<date>-<commit>.json, under a temporary name first; the same measurement replaces itself."""
    path = folder / slug(document["gpu"]) / f"{document['date'][:10]}-{document['commit']}.json"
    write_text(path, text(document))
    return path


def prove(document: dict[str, Any], data: Path) -> bool:
    """Notes in proven.json that the kernels may be taken on GPUs of this architecture, if all their tests have run and passed."""
    tests, gpu = document.get("tests") or {}, of_device(document["gpu"])
    clean = tests.get("complete") and tests.get("passed") and not tests.get("failed")
    if not clean or gpu is None or document["commit"].endswith("-dirty") or not data.exists():
        return False
    record(gpu.arch, document["gpu"], document["date"], document["commit"], data)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 written, 2 input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m convatlas.bench.collect", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of `make gpu OUT=folder`")
    parser.add_argument("--commit", default="", help="of the code that was measured, if its files do not know it")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    given = parser.parse_args(arguments)
    from convatlas.study.performance import update

    try:
        if not (given.root / "benchmarks").is_dir():
            raise InputError(f"{given.root} has no benchmarks, expected the repository: --root")
        if given.folder is not None:
            document = collect(given.folder, given.commit)
            print(f"wrote {store(document, given.root / 'benchmarks' / 'results')}")
            if prove(document, given.root / "kernels" / "common" / "proven.json"):
                print(
                    f"noted in kernels/common/proven.json that the kernels have passed their tests on {document['gpu']}"
                )
        for path in update(given.root):
            print(f"wrote {path}")
    except ConvAtlasError as error:
        print(f"convatlas: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
