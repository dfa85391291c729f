"""classify_many: runs all pictures of a folder or a list through a net, and writes a line of JSON for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from convatlas import __version__
from convatlas.errors import BackendError, InputError
from convatlas.files import shown
from convatlas.kernels.common.precision import float32_products
from convatlas.nets.checkpoint import digest
from convatlas.nets.registry import info
from convatlas.ops.backends import use_backend
from convatlas.plan.plan import LoadedPlan, compile
from convatlas.specs import dtype_name
from convatlas.verify.classify import best, network, probabilities_of
from convatlas.verify.device import device_for
from convatlas.verify.images import normalised
from convatlas.verify.pictures import Batch, listed, read_batches
from convatlas.verify.record import Record, merge


@dataclass(frozen=True)
class Share:
    """Which part of the work this process does, and on which GPU.

    Attributes:
        rank: this process's number, from 0.
        world: processes in all.
        local_rank: its number on this machine.
        local_world: processes on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @staticmethod
    def of_environment() -> Share:
        """What torchrun says in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; all of the work where it says nothing."""
        names, defaults = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("0", "1", "0", "1")
        values = [os.environ.get(name) or default for name, default in zip(names, defaults)]
        for name, value in zip(names, values):
            if not value.isdecimal():
                raise InputError(f"environment variable {name}={value!r}, expected a number, as torchrun sets it")
        share = Share(*map(int, values))
        if share.rank >= share.world:
            raise InputError(
                f"environment variables RANK={share.rank} and WORLD_SIZE={share.world}, expected RANK below it"
            )
        return share

    def of(self, batches: int) -> range:
        """Its batches of so many: runs of them that follow each other by rank, whose lengths differ by at most 1."""
        return range(self.rank * batches // self.world, (self.rank + 1) * batches // self.world)

    def file(self, out: Path) -> Path:
        """The file that it writes: results.jsonl, or results.02-of-16.jsonl where there are several processes."""
        if self.world == 1:
            return out
        digits = len(str(self.world - 1))
        return out.with_name(f"{out.stem}.{self.rank:0{digits}}-of-{self.world}{out.suffix}")


@dataclass(frozen=True)
class Tally:
    """What a process did.

    Attributes:
        share: its part of the work.
        images: pictures of its part.
        bad: those of them that could not be classified.
        kept: those that an earlier run had done.
        seconds: from the first batch to the last.
        out: the file that it wrote.
        merged: whether `out` holds the results of all processes; with one process always.
        total: pictures of all processes.
        total_bad: those that could not be classified; None where another process merges, or has still work to do.
    """

    share: Share
    images: int
    bad: int
    kept: int
    seconds: float
    out: Path
    merged: bool
    total: int
    total_bad: int | None

    @property
    def rate(self) -> float:
        """Pictures a second of this run."""
        return (self.images - self.kept) / self.seconds if self.seconds else 0.0


def classify_many(
    source: str,
    out: str | PathLike[str],
    name: str = "efficientnet_lite0",
    weights: str | PathLike[str] | None = None,
    backend: str = "triton",
    top: int = 5,
    batch: int = 32,
    workers: int | None = None,
    dtype: str = "float32",
    plan: bool | LoadedPlan = False,
    fuse: str | Collection[str] = "auto",
    seen: Callable[[int, int, float], None] | None = None,
    failed: Callable[[str], None] | None = None,
) -> Tally:
    """Classifies the pictures that `source` names (pictures.listed), and writes their results to `out`, in order.

    The first line of `out` says what the run is (net, weights, options). Each other line is a picture's: {"path", "predictions":
    [{"class", "name", "probability"}, ...]}, or {"path", "error"} where it cannot be read. A run that was killed goes on where it
    ended, if it is started as it was, and makes the same file as one that was not.

    Under torchrun (Share.of_environment) each process takes a part of the batches and the GPU of its local rank (modulo the
    number of GPUs), and writes a file of its own beside `out`. The last one to end puts them together into `out` and removes them.

    Args:
        name, weights, backend, top: as classify has them.
        batch: pictures at a time.
        workers: processes that read pictures; 0 reads in this one, None takes as many as there are cores for each process here.
        dtype: "float32", "float16" or "bfloat16".
        plan, fuse: as classify has them; a plan from a file says how many pictures there are at a time.
        seen: called with (pictures done, of how many, pictures a second) after every batch.
        failed: called with a line for every picture that cannot be classified.

    Raises what classify raises; and InputError where there is no picture, or where `out` is another run's.
    """
    row, share, out = info(name), Share.of_environment(), Path(out)
    stored = plan if isinstance(plan, LoadedPlan) else None
    if stored is not None:
        backend, dtype, batch = stored.backend or "auto", dtype_name(stored.example[0].dtype), len(stored.example[0])
    device = device_for(backend, dtype) if stored is None else stored.example[0].device
    if stored is None and device.type == "cuda":
        device = torch.device("cuda", share.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    paths = listed(source)
    net = network(row.name, weights) if stored is None else stored.module
    used = digest(net.state_dict()) if stored is None else stored.digest
    head = {
        "convatlas": __version__, "net": row.name, "weights": used, "backend": backend, "dtype": dtype,
        "plan": bool(plan), "top": top, "batch": batch, "images": len(paths),
        **({} if fuse == "auto" else {"fuse": fuse if isinstance(fuse, str) else sorted(fuse)}),
        "paths": sha256(b"\0".join(map(os.fsencode, paths))).hexdigest(),
    }  # fmt: skip
    total = Record(out, head, paths)
    parts = [_part(Share(rank, share.world), total, batch) for rank in range(share.world)]
    mine = parts[share.rank]
    _refuse_other_worlds(out, share)
    if share.world > 1 and out.exists():
        total.scan()
        if not total.complete:
            raise InputError(
                f"{shown(out)}: was begun by one process, and this is one of {share.world}, expected another file"
            )
        return Tally(share, len(mine.paths), 0, len(mine.paths), 0.0, out, True, len(paths), total.bad)
    try:
        mine.open()
        kept, start = mine.done, perf_counter()
        if not mine.complete:
            net.to(device, getattr(torch, dtype))
            ahead = _cores(share) if workers is None else workers
            batches = read_batches(
                mine.paths[kept // batch * batch :], row.preprocess, batch, ahead, device.type == "cuda"
            )
            with torch.no_grad(), nullcontext() if stored else use_backend(backend), float32_products("ieee"):
                run = _forward(net, row.preprocess, device, getattr(torch, dtype), backend, plan, fuse)
                skip = kept % batch
                for results in _results(batches, run, top):
                    mine.add(results[skip:])
                    for result in results[skip:]:
                        if failed is not None and "error" in result:
                            failed(result["error"])
                    skip = 0
                    if seen is not None:
                        seen(mine.done, len(mine.paths), (mine.done - kept) / (perf_counter() - start))
    finally:
        mine.close()
    seconds = perf_counter() - start
    counts = share, len(mine.paths), mine.bad, kept, seconds
    if share.world == 1:
        return Tally(*counts, out, True, len(paths), mine.bad)
    merged = merge(parts, total)
    return Tally(*counts, out if merged else mine.path, merged, len(paths), total.bad if merged else None)


def _part(share: Share, total: Record, batch: int) -> Record:
    """The record of one process's part."""
    mine = share.of(-(-len(total.paths) // batch))
    head = total.head if share.world == 1 else {**total.head, "part": f"{share.rank} of {share.world}"}
    return Record(share.file(total.path), head, total.paths[mine.start * batch : mine.stop * batch])


def _refuse_other_worlds(out: Path, share: Share) -> None:
    """Raises InputError where parts lie there of another number of processes."""
    world = f"-of-{share.world}{out.suffix}"
    for path in sorted(out.parent.glob("*")) if out.parent.is_dir() else ():
        middle = path.name.removeprefix(f"{out.stem}.").removesuffix(out.suffix)
        rank, of, count = middle.partition("-of-")
        ours = path.name.startswith(f"{out.stem}.") and of and rank.isdecimal() and count.isdecimal()
        if ours and not path.name.endswith(world):
            raise InputError(
                f"{shown(path)}: was begun by {count} processes, and this is one of {share.world}: go on with as many, "
                "or give another file"
            )


def _cores(share: Share) -> int:
    """Cores that this process may use, shared with the others that torchrun has started on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // share.local_world)


def _forward(
    net: torch.nn.Module,
    how: Any,
    device: torch.device,
    kind: torch.dtype,
    backend: str,
    plan: bool | LoadedPlan,
    fuse: str | Collection[str],
) -> Any:
    """A function from a Batch to (it, its probabilities best first, their classes), which does not wait for a GPU."""
    made: list[Any] = [plan] if isinstance(plan, LoadedPlan) else []

    def run(batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        x = normalised(batch.pixels.to(device, non_blocking=True), how).to(kind)
        if plan and not made:
            made.append(compile(net, x, backend=backend, fuse=fuse))
        count = len(x)
        if isinstance(plan, LoadedPlan) and count < len(
            plan.example[0]
        ):  # the last ones: it runs the batch that was saved
            x = torch.cat([x, x.new_zeros(len(plan.example[0]) - count, *x.shape[1:])])
        values = probabilities_of(made[0] if plan else net, x)[:count].float()
        return batch, *values.sort(dim=1, descending=True, stable=True)

    return run


def _results(batches: Iterator[Batch], run: Any, top: int) -> Iterator[list[dict[str, Any]]]:
    """The lines of each batch; one is read back from the GPU while the next is computed there."""
    waiting = None
    for batch in _read(batches):
        running = run(batch)
        if waiting is not None:
            yield _lines(*waiting, top)
        waiting = running
    if waiting is not None:
        yield _lines(*waiting, top)


def _read(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; a process that died while it read them is one line."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            line = " ".join(str(error).split())
            raise BackendError(
                f"a process that reads pictures died, what was done is kept: fewer --workers or a smaller --batch need less "
                f"memory ({line:.200})"
            ) from error
        yield batch


def _lines(batch: Batch, values: Tensor, classes: Tensor, top: int) -> list[dict[str, Any]]:
    finite = values.isfinite().all(1).tolist()
    chosen = best(classes[:, :top].tolist(), values[:, :top].tolist(), values.shape[1])
    lines = []
    for path, error, right, predictions in zip(batch.paths, batch.errors, finite, chosen):
        if error is None and not right:
            error = f"image {shown(path)}: the network's probabilities are not finite"
        lines.append(
            {"path": path, "error": error}
            if error
            else {"path": path, "predictions": [p.as_dict() for p in predictions]}
        )
    return lines
