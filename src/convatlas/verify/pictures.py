"""Many pictures: which ones a folder or a list names, and reading them in other processes while the network runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from convatlas.errors import InputError
from convatlas.files import readable, shown
from convatlas.nets.registry import Preprocess
from convatlas.verify.images import FORMATS, crop_middle, load_image

if TYPE_CHECKING:
    from torch import Tensor


def listed(source: str | os.PathLike[str]) -> list[str]:
    """The pictures that `source` names.

    Of a folder those are all files below it that end as pictures do (.jpg, .png, ...), in the order of their names; what begins
    with a dot is left out, and links are followed. Of a text file they are its lines, in their order: paths as a program started
    here would open them, or skimage:NAME.

    Raises InputError, one line, where there is none, or where something cannot be read.
    """
    found = _below(source) if os.path.isdir(source) else _lines(source)
    if not found:
        raise InputError(f"{shown(source)}: names no picture, expected a folder of pictures or a list of paths")
    return found


def _below(folder: str | os.PathLike[str]) -> list[str]:
    Image.init()
    endings = tuple(ending for ending, kind in Image.EXTENSION.items() if kind in FORMATS)

    def refuse(error: OSError) -> None:
        raise InputError(f"folder {shown(error.filename)}: {(error.strerror or str(error)).lower()}")

    found, seen = [], set()
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        about = os.stat(where)
        if (about.st_dev, about.st_ino) in seen:  # a link to a folder above itself would never end
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(where, name) for name in names if name.lower().endswith(endings) and not name.startswith(".")
        ]
    return sorted(found)


def _lines(path: str | os.PathLike[str]) -> list[str]:
    data = readable(path, "list").read_bytes()
    if b"\0" in data:
        raise InputError(
            f"{shown(path)}: is no text, expected a folder of pictures, or a text file with the path of one on each line"
        )
    return [os.fsdecode(line) for raw in data.split(b"\n") if (line := raw.rstrip(b"\r"))]


@dataclass(frozen=True)
class Batch:
    """Pictures that a network is given at once.

    Attributes:
        paths: as they were listed.
        pixels: (N, crop, crop, 3) in uint8; zeros where a picture could not be read, so that N is always that of the paths.
        errors: for each path what is wrong with it, or None.
    """

    paths: list[str]
    pixels: Tensor
    errors: list[str | None]

    def pin_memory(self) -> Batch:
        """The same in memory from which a GPU copies by itself; DataLoader calls it."""
        return Batch(self.paths, self.pixels.pin_memory(), self.errors)


class _Reader:
    """A data set for DataLoader whose indices are paths, so that no process keeps the list of all of them."""

    def __init__(self, how: Preprocess) -> None:
        self.how = how

    def __getitems__(self, paths: list[str]) -> Batch:
        import torch

        pixels = np.zeros((len(paths), self.how.crop, self.how.crop, 3), np.uint8)
        errors: list[str | None] = []
        for path, place in zip(paths, pixels):
            try:
                place[:] = np.asarray(crop_middle(load_image(path), self.how))
                errors.append(None)
            except InputError as error:
                errors.append(str(error))
            except Exception as error:  # one picture in a million must not end the run, whatever is odd about it
                errors.append(f"image {shown(path)}: {type(error).__name__}: {error}")
        return Batch(paths, torch.from_numpy(pixels), errors)


def _whole(batch: Batch) -> Batch:
    return batch


def _start(worker: int) -> None:
    """In a process that reads: Ctrl-C is for the process that started it, and SIGTERM ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read_batches(paths: Sequence[str], how: Preprocess, batch: int, workers: int, pin: bool) -> Iterator[Batch]:
    """Reads pictures in `workers` processes (0: in this one), `batch` at a time, in order. The processes start at once.

    Args:
        how: the preprocessing, whose crop is the pictures' size.
        pin: put pixels into page-locked memory, for a GPU.
    """
    from torch.utils.data import DataLoader

    groups = [list(paths[first : first + batch]) for first in range(0, len(paths), batch)]
    count = min(workers, len(groups))
    return iter(
        DataLoader(
            _Reader(how),
            batch_sampler=groups,
            num_workers=count,
            collate_fn=_whole,
            pin_memory=pin,
            worker_init_fn=_start,
        )
    )
