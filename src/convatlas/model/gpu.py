"""GPUs as data: what NVIDIA publishes of each, a source for every number (gpus.json), or what a user's own file says.

The code has this one notion of a GPU, and views of it: `Target` (kernels/common/target.py), what launch configs are chosen for;
`Machine` (study/roofline.py), its peak rates; `Ceilings` (model/ceilings.py), the rates that bound a layer, published or measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from convatlas.errors import DtypeError, InputError
from convatlas.files import shown
from convatlas.names import spelled

DATA = Path(__file__).with_name("gpus.json")
NOT_PUBLISHED = "not published"


@dataclass(frozen=True)
class Architecture:
    """What one compute capability lets a launch have.

    Attributes:
        arch: compute capability as an int, such as 90.
        name: NVIDIA's.
        threads, blocks, registers, shared: at most on one SM at once; shared memory in bytes.
        block_threads, block_registers, block_shared: at most of one block; shared memory after the kernel has asked for it.
        thread_registers: at most of one thread.
        register_unit: a warp's registers are given out in multiples of it.
        partitions: parts of an SM, each with its share of the registers; a warp lives in one.
        reserved_shared: bytes that the system takes for each block.
        shared_unit: a block's shared memory is given out in multiples of it, bytes.
        carveouts: sizes that shared memory may have beside the L1 cache, bytes.
        sources: the source of each attribute, "*" for those not named.
    """

    arch: int
    name: str
    threads: int
    blocks: int
    block_threads: int
    registers: int
    block_registers: int
    thread_registers: int
    register_unit: int
    partitions: int
    shared: int
    block_shared: int
    reserved_shared: int
    shared_unit: int
    carveouts: tuple[int, ...]
    sources: Mapping[str, str] = field(hash=False, compare=False, repr=False)


@dataclass(frozen=True)
class GPU:
    """One GPU. None stands for a number that is not published.

    Attributes:
        name: by which it is asked for, such as "h100-sxm".
        title: as people write it.
        architecture: limits of its compute capability.
        sms: streaming multiprocessors.
        clock_hz: boost clock of the SMs.
        dram_bytes, dram_bytes_per_s: size and peak bandwidth of its memory.
        l2_bytes: size of the L2 cache.
        l2_bytes_per_clock: read bandwidth of the L2 cache, of the whole GPU.
        half_fma: dense float16 / bfloat16 tensor-core multiply-adds a clock and SM, sums in float32.
        tensor: dense FLOPs a second of the tensor cores by mode (float16, bfloat16, tf32), sums in float32.
        vector: FLOPs a second of the other units by dtype (float32, float16, bfloat16).
        devices: names by which drivers report it.
        sources: the source of each attribute, "*" for those not named.
    """

    name: str
    title: str
    architecture: Architecture
    sms: int
    clock_hz: float
    dram_bytes: int
    dram_bytes_per_s: float
    l2_bytes: int
    l2_bytes_per_clock: float | None
    half_fma: int
    tensor: Mapping[str, float | None] = field(hash=False)
    vector: Mapping[str, float | None] = field(hash=False)
    devices: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(hash=False, compare=False, repr=False, default_factory=dict)

    @property
    def arch(self) -> int:
        """Compute capability as an int, such as 90."""
        return self.architecture.arch

    def source(self, attribute: str) -> str:
        """Where the number comes from, in words."""
        return self.sources.get(attribute) or self.sources["*"]

    def rate(self, mode: str, tensor: bool = True) -> float:
        """Peak FLOPs a second in a mode (float16, bfloat16, tf32, float32), by the tensor cores or by the other units.

        IEEE float32 has no tensor cores. Of the other units in half precision, where not published, the float32 rate, which is
        the least that they do. Raises DtypeError for a mode that the GPU does not multiply so.
        """
        if mode == "float32" or not tensor:
            return self.vector.get("float32" if mode == "tf32" else mode) or self.vector["float32"]
        rate = self.tensor.get(mode)
        if rate is None:
            has = [name for name, value in self.tensor.items() if value]
            raise DtypeError(
                f"the tensor cores of {self.title} do not multiply {mode}, expected {', '.join(has)} or float32"
            )
        return rate


def names() -> list[str]:
    """The names of the GPUs that the package knows."""
    return list(_known())


def gpu(name: str) -> GPU:
    """The GPU called `name`, case and punctuation aside, or the one that a JSON file of that name describes.

    "here" is the first GPU of this machine (model/here.py).
    A file holds the fields of one GPU as gpus.json has them; "like": NAME takes what is not said from a known one.
    Raises InputError, with the nearest names, for an unknown one, and for a file that is not such a description.
    """
    if name == "here":
        from convatlas.model.here import present

        return present()[0]
    if name.endswith(".json"):
        return _from_file(Path(name))
    return _known()[spelled(name, _known(), "GPU", f"known are {', '.join(names())}, or a JSON file", InputError)]


def of_device(device: str) -> GPU | None:
    """The GPU that drivers report by this name, None for one that the package does not know."""
    return next((one for one in _known().values() if device in one.devices), None)


def representative(arch: int) -> GPU:
    """A known GPU of the compute capability; of an unknown one that of the nearest older."""
    older = [one for one in _known().values() if one.arch <= arch] or list(_known().values())[:1]
    newest = max(one.arch for one in older)
    return next(one for one in older if one.arch == newest)


def architectures() -> list[int]:
    """The compute capabilities that the package knows."""
    return list(_architectures())


def architecture(arch: int) -> Architecture:
    """The limits of compute capability `arch`. Raises InputError for one that the package does not know."""
    try:
        return _architectures()[arch]
    except KeyError:
        known = ", ".join(map(str, _architectures()))
        raise InputError(f"compute capability {arch}, expected one of {known}") from None


@cache
def _document() -> dict[str, Any]:
    return json.loads(DATA.read_text(encoding="utf-8"))


@cache
def _architectures() -> dict[int, Architecture]:
    sources = _document()["sources"]
    return {
        int(arch): Architecture(
            **{
                **row,
                "arch": int(arch),
                "carveouts": tuple(row["carveouts"]),
                "sources": _cited(row["sources"], sources),
            }
        )
        for arch, row in _document()["architectures"].items()
    }


@cache
def _known() -> dict[str, GPU]:
    return {name: _gpu(name, row, _document()["sources"]) for name, row in _document()["gpus"].items()}


def _cited(keys: Mapping[str, str], sources: Mapping[str, str]) -> dict[str, str]:
    return {attribute: sources.get(key, key) for attribute, key in keys.items()}


def _gpu(name: str, row: Mapping[str, Any], sources: Mapping[str, str]) -> GPU:
    row = dict(row)
    limits = architecture(row.pop("arch"))
    cited = _cited(row.pop("sources"), sources)
    return GPU(name=name, architecture=limits, **{**row, "devices": tuple(row["devices"]), "sources": cited})


def _from_file(path: Path) -> GPU:
    """A user's GPU; what is wrong with the file is said in one line."""
    from convatlas.model.schema import checked_gpu

    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{shown(path)}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{shown(path)} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InputError(f"{shown(path)} holds {type(given).__name__}, expected an object with the fields of a GPU")
    if "like" in given:
        like = gpu(str(given.pop("like"))).name
        given = {
            **_document()["gpus"].get(like, {}),
            "devices": [],
            "sources": {"*": f"{path.name}, and {like}"},
            **given,
        }
    row = {"title": path.stem, "devices": [], "sources": {"*": path.name}, "l2_bytes_per_clock": None, **given}
    return _gpu(path.stem, checked_gpu(row, shown(path)), _document()["sources"])
