"""What a file of results must hold: pydantic models of both forms, and one line on what a file has instead.

Only reading a file imports this: `make gpu` writes results on machines where pydantic may not be installed, and reads none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from convatlas.errors import InputError

# A launch that takes less than the time light needs for a tenth of a millimetre, or more than thirty years, is a mistake.
Seconds = Annotated[float, Field(ge=1e-12, le=1e9)]
Rate = Annotated[float, Field(gt=0, le=1e30)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Reading = Annotated[float, Field(ge=-1e6, le=1e9)]
Texts = dict[str, str]
TIMES = "no times in stats.data, expected a file of --benchmark-json (--benchmark-save-data)"


class Model(BaseModel):
    """Fields of the right type, none converted; those that are not named here are the file's own affair."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


def optional(name: str, **types: Any) -> type[Model]:
    """A model whose fields may all be missing, or null."""
    return create_model(name, __base__=Model, **{field: (kind | None, None) for field, kind in types.items()})


Clocks = optional(
    "Clocks", **dict.fromkeys(("sm_mhz", "mem_mhz", "temperature_c", "power_w"), Reading), throttle=list[str]
)
# extra_info of an entry: what was timed, how and on what; REQUIRED is what the committed form has of it once it is filled in.
REQUIRED = ("suite", "contestant", "op", "kind", "spec", "dtype", "batch", "cache", "form")
Extra = optional(
    "Extra",
    **dict.fromkeys((*REQUIRED, "epilogue", "timer", "gpu", "commit", "bound"), str)
    | dict.fromkeys(("batch", "flops", "bytes"), Count),
    sizes=dict[str, Any],
    bound_seconds=Seconds,
    roofline_share=Rate,
    places=dict[str, Count],
    absent=Texts,
    versions=Texts,
    clocks=Clocks,
)


class Stats(Model):
    data: Annotated[list[Seconds], Field(min_length=1)]


class Benchmark(Model):
    """One entry of either form."""

    group: str | None = None
    fullname: str | None = None
    name: str | None = None
    params: dict[str, Any] | None = None
    extra_info: Extra | None = None
    stats: Stats

    @model_validator(mode="before")
    @classmethod
    def named(cls, item: Any) -> Any:
        """Raises ValueError for an entry without a name."""
        if isinstance(item, dict) and not any(item.get(key) for key in ("group", "fullname", "name")):
            raise ValueError("has no group and no name")
        return item


ABOUT = {"gpu": str, "driver": str, "commit": str, "versions": Texts, "clocks": Clocks}  # what was measured on


class Ceilings(optional("About", **ABOUT)):
    copy_bytes_per_s: Rate
    matmul_flops_per_s: dict[str, Rate]
    launch_seconds: Seconds


class Tests(Model):
    passed: Count = 0
    failed: Count = 0
    skipped: Count = 0
    complete: bool = True


Machine = optional("Machine", node=str, cpu=optional("Cpu", brand_raw=str))


class Document(
    optional(
        "Head", format=str, date=str, datetime=str, **ABOUT, ceilings=Ceilings, tests=Tests, common=Extra, machine_info=Machine,
        commit_info=optional("Commit", id=str),
    )
):  # fmt: skip
    """A whole file: pytest-benchmark's, or the committed form, which has a format."""

    benchmarks: list[Benchmark]


class Stored(Document):
    """The committed form."""

    format: str
    gpu: str
    date: str
    commit: str


class Stage(Model):
    started: str = ""


class State(Model):
    """state.json of `make gpu`, as far as results are made of it."""

    rehearsal: bool = False
    stages: dict[str, Stage] = {}


# Files of `make gpu` that results are made of.
FILES = {
    "state.json": State,
    "ceilings.json": Ceilings,
    "tests.json": Tests,
    "layers.json": Document,
    "networks.json": Document,
}


def check(model: type[Model], document: Mapping[str, Any], path: Path) -> None:
    """Raises InputError, naming the first field that is not as `model` has it, what it holds and what was expected."""
    try:
        model.model_validate(document)
    except ValidationError as errors:
        error = errors.errors(include_url=False, include_context=False)[0]
        raise InputError(f"{path}: {_said(error['loc'], error, document)}") from None


def _said(place: tuple[int | str, ...], error: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
    if place[:1] != ("benchmarks",) or len(place) < 2:
        return f"{_dotted(place)} is {short(error['input'])}, {expected}"
    where, rest = f"benchmark {place[1] + 1}", place[2:]
    if not rest:
        if error["type"] == "value_error":
            return f"{where} {expected}"
        return f"{where} is a {type(error['input']).__name__}, expected an object"
    item = document["benchmarks"][place[1]]
    if names := [item[key] for key in ("group", "fullname", "name") if isinstance(item.get(key), str)]:
        where += f", {names[0][:100]}"
    if rest[0] == "stats":
        return f"{where}: " + (
            f"a time of {short(error['input'])}, expected seconds above 0" if len(rest) == 3 else TIMES
        )
    return f"{where}: {_dotted(rest)} is {short(error['input'])}, {expected}"


def _dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place)


def short(value: Any) -> str:
    """A value in a few words, however large or deeply nested it is."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    if isinstance(value, (dict, list)):
        return f"a {'dictionary' if isinstance(value, dict) else 'list'} of {len(value)}"
    shorter = Repr()
    shorter.maxstring = shorter.maxother = 60
    return shorter.repr(value)
