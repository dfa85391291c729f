"""A file of results that grows by a line of JSON for each picture, survives a kill, and goes on where it ended."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from convatlas.errors import InputError
from convatlas.files import check_writable, shown, whole


@dataclass
class Record:
    """What a run writes. The first line of the file says what the run is; each other line is a picture's, in the paths' order.

    Attributes:
        path: the file.
        head: what the first line says: the options on which the results depend.
        paths: the pictures of this file.
        done: how many of them are in the file.
        bad: how many of those hold an error.
    """

    path: Path
    head: dict[str, Any]
    paths: Sequence[str]
    done: int = 0
    bad: int = 0
    file: BinaryIO | None = None

    @property
    def complete(self) -> bool:
        return self.done == len(self.paths)

    def scan(self) -> int:
        """Counts what the file holds; returns the byte at which its whole lines end.

        Raises InputError where the file is another run's, or none of ours; FileNotFoundError where there is none.
        """
        self.done, self.bad, end = 0, 0, 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n") and (number > 0 or _line(self.head).startswith(line)):
                    break  # half-written: the run was killed
                if number == 0:
                    self._agree(line)
                else:
                    self._count(number, line)
                end += len(line)
        return end

    def _agree(self, line: bytes) -> None:
        found = _parsed(line)
        if not isinstance(found, dict) or "convatlas" not in found:
            raise InputError(
                f"{shown(self.path)}: is no result of `convatlas classify --out`, expected a new file's name"
            )
        for key in {**self.head, **found}:
            then, now = found.get(key), self.head.get(key)
            if then != now:
                raise InputError(
                    f"{shown(self.path)}: was begun with {key} {then!r:.80}, and this run has {now!r:.80}: "
                    "give the same options to go on, or another file"
                )

    def _count(self, number: int, line: bytes) -> None:
        found = _parsed(line)
        if self.complete or not isinstance(found, dict) or found.get("path") != self.paths[self.done]:
            expected = "the end" if self.complete else repr(self.paths[self.done])
            raise InputError(
                f"{shown(self.path)}: line {number + 1} is damaged, expected the result of {expected:.160}"
            )
        self.done += 1
        self.bad += "error" in found

    def open(self) -> None:
        """Opens the file for add(), and takes off a half-written last line. Raises InputError where another run writes to it."""
        check_writable(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab")  # noqa: SIM115 (until close)
        if not os.path.isfile(self.path):
            raise InputError(f"{shown(self.path)}: is no regular file, which a run that was killed could go on with")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{shown(self.path)}: another run is writing to it") from None
        except OSError:  # a file system that has no locks
            pass
        end = self.scan()
        self.file.truncate(end)
        if end == 0:
            self.file.write(_line(self.head))
            self.file.flush()

    def add(self, results: Sequence[dict[str, Any]]) -> None:
        """Appends the next pictures' results."""
        self.file.write(b"".join(map(_line, results)))
        self.file.flush()
        self.done += len(results)
        self.bad += sum("error" in result for result in results)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def merge(parts: Sequence[Record], total: Record) -> bool:
    """Writes the lines of all parts into total's file and removes them, if each is complete; returns whether it has done so.

    It may run in several processes at once: each writes the same file whole, and one that finds a part gone leaves it to the other.
    """
    try:
        for part in parts:
            part.scan()
            if not part.complete:
                return False
        with whole(total.path) as temporary, open(temporary, "wb") as file:
            file.write(_line(total.head))
            for part in parts:
                with open(part.path, "rb") as lines:
                    next(lines)
                    file.writelines(lines)
    except FileNotFoundError:
        return False
    for part in parts:
        part.path.unlink(missing_ok=True)
    total.scan()
    return True


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data, allow_nan=False).encode() + b"\n"


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
