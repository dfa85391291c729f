"""What gpus.json and a user's GPU file must hold, checked by pydantic: every field, its type and its range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from convatlas.errors import InputError

Count = Annotated[int, Field(gt=0, lt=2**50)]
Rate = Annotated[float, Field(gt=0, lt=1e18, allow_inf_nan=False)]
Unpublished = Rate | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArchitectureRow(_Strict):
    """An entry of "architectures": model.gpu.Architecture has the meaning of each field."""

    name: str
    threads: Count
    blocks: Count
    block_threads: Count
    registers: Count
    block_registers: Count
    thread_registers: Count
    register_unit: Count
    partitions: Count
    shared: Count
    block_shared: Count
    reserved_shared: Annotated[int, Field(ge=0)]
    shared_unit: Count
    carveouts: list[Annotated[int, Field(ge=0)]]
    sources: dict[str, str]


class GPURow(_Strict):
    """An entry of "gpus", or a user's file: model.gpu.GPU has the meaning of each field."""

    title: str
    arch: Literal[70, 75, 80, 86, 89, 90, 100, 120]
    sms: Count
    clock_hz: Rate
    dram_bytes: Count
    dram_bytes_per_s: Rate
    l2_bytes: Count
    l2_bytes_per_clock: Unpublished
    half_fma: Count
    tensor: dict[Literal["float16", "bfloat16", "tf32"], Unpublished]
    vector: dict[Literal["float32", "float16", "bfloat16"], Unpublished]
    devices: list[str]
    sources: dict[str, str]


class Document(_Strict):
    """gpus.json."""

    sources: dict[str, str]
    architectures: dict[str, ArchitectureRow]
    gpus: dict[str, GPURow]


def checked_gpu(row: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The row of a user's file. Raises InputError that names the first field that is wrong."""
    try:
        found = GPURow.model_validate(row).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" else f", given {str(first['input'])[:60]!r}"
        raise InputError(f"{file}: {place}: {first['msg']}{given}") from None
    if not found["vector"].get("float32"):
        raise InputError(f"{file}: vector.float32 is missing, expected FLOPs a second")
    return found
