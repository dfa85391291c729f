"""Files that a user names.

What is wrong with one is said in one line before the work begins; a file is written whole or not at all.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import uuid4

from convatlas.errors import InputError

SHOWN = 160  # characters of a path in a message


def shown(path: str | PathLike[str]) -> str:
    """A path as a message shows it: control characters are escaped, and the middle of a very long path is left out."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in os.fspath(path))
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}...{text[-SHOWN // 2 :]}"


def cache_folder(name: str) -> Path | None:
    """Where things are kept that can be made anew: $CONVATLAS_CACHE or the user's cache folder; None without a home."""
    given = os.environ.get("CONVATLAS_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not given and not caches.is_absolute():
        return None
    return (Path(given) if given else caches / "convatlas") / name


@cache
def own_folder() -> Path:
    """A folder of this process, deleted when the process ends."""
    made = Path(tempfile.mkdtemp(prefix="convatlas-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def readable(path: str | PathLike[str], what: str) -> Path:
    """The path, if it is a regular file that can be opened. Else raises InputError, such as "`what` PATH: no such file"."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb"):
                return Path(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{what} {shown(path)}: no such file") from None
    except (OSError, ValueError) as error:  # no permission, a name too long; a NUL in it
        raise InputError(f"{what} {shown(path)}: {_reason(error)}") from None
    raise InputError(f"{what} {shown(path)}: not a file")  # of a device or a pipe, reading might never end


def check_writable(path: str | PathLike[str], folder: bool = False) -> None:
    """Raises InputError where no file could be written at `path` or, with `folder`, where none could be written in that folder.

    Missing folders count as writable if they could be made. The check leaves nothing behind.
    """
    path = Path(path)
    try:
        mode = _mode(path)
        if mode is not None and folder and not stat.S_ISDIR(mode):
            raise InputError(f"{shown(path)} is no folder")
        if mode is not None and not folder:
            if stat.S_ISDIR(mode):
                raise InputError(f"{shown(path)} is a folder, expected a file")
            if not os.access(path, os.W_OK):
                raise PermissionError(EACCES, os.strerror(EACCES))
            if not stat.S_ISREG(mode):
                return  # a device or a pipe
        above = path if folder else _target(path).parent
        while (mode := _mode(above)) is None:
            above = above.parent
        if not stat.S_ISDIR(mode):
            raise InputError(f"{shown(path)} cannot be written: {shown(above)} is no folder")
        trial = _temporary(above)
        trial.touch(exist_ok=False)
        trial.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shown(path)} cannot be written: {_reason(error)}") from None


def _mode(path: Path) -> int | None:
    """The mode of what is at `path`, None where nothing is there."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _target(path: Path) -> Path:
    """The file that a link leads to, since a rename onto the link itself would replace the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _temporary(folder: Path) -> Path:
    return folder / f".convatlas.{uuid4().hex[:12]}.partial"


@contextmanager
def whole(path: str | PathLike[str]) -> Iterator[Path]:
    """Yields a temporary name beside `path` to write to. It is renamed to `path` when the block ends well, else removed.

    So no reader sees half a file, even if the run is killed. A device or a pipe is yielded as it is. Missing folders are made.
    """
    path = _target(Path(path))
    if path.exists() and not path.is_file():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path.parent)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_text(path: str | PathLike[str], text: str) -> None:
    """Writes the text in UTF-8, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | PathLike[str], document: Any, compact: bool = False) -> None:
    """JSON by write_text; `compact` without the spaces, for files that count in megabytes."""
    text = json.dumps(document, separators=(",", ":")) if compact else json.dumps(document, indent=1)
    write_text(path, text + "\n")


def marked(text: str, name: str, content: str, page: str | PathLike[str]) -> str:
    """`text` with `content` between <!-- NAME:begin --> and <!-- NAME:end --> of the page. Raises InputError without them."""
    opening, closing = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not (begin and end):
        raise InputError(f"{page} has no {opening} ... {closing}")
    return f"{before}{opening}\n{content}\n{closing}{after}"
