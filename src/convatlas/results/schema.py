"""What a file of results must hold: pydantic models of both forms, and one line on what a file has instead.

Only reading a file imports this: `make gpu` writes results on machines where pydantic may not be installed, and reads none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator

from convatlas.errors import InputError
from convatlas.results.store import REQUIRED


def _seconds(value: Any) -> float:
    """A launch that takes less than the time light needs for a tenth of a millimetre, or more than thirty years, is a mistake."""
    if type(value) not in (int, float) or not 1e-12 <= value <= 1e9:
        raise ValueError("expected seconds above 0")
    return float(value)


Seconds = Annotated[float, BeforeValidator(_seconds)]
Rate = Annotated[float, Field(gt=0, le=1e30)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Reading = Annotated[float, Field(ge=-1e6, le=1e9)]
Texts = dict[str, str]
NAMES = ("group", "fullname", "name")  # of an entry, the first that it has


class Model(BaseModel):
    """Fields of the right type, none converted; those that are not named here are the file's own affair."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


def optional(name: str, **types: Any) -> type[Model]:
    """A model whose fields may all be missing, or null."""
    return create_model(name, __base__=Model, **{field: (kind | None, None) for field, kind in types.items()})


Clocks = optional(
    "Clocks", **dict.fromkeys(("sm_mhz", "mem_mhz", "temperature_c", "power_w"), Reading), throttle=list[str]
)
# extra_info of an entry: what was timed, how and on what.
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
        if not isinstance(item, dict) or not any(item.get(key) for key in NAMES):
            raise ValueError("expected a group or a name")
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


# Files of `make gpu` that results are made of, beside those of benchmarks.
FILES = {"state.json": State, "ceilings.json": Ceilings, "tests.json": Tests}


def check(model: type[Model], document: Mapping[str, Any], path: Path) -> None:
    """Raises InputError, naming the first field that is not as `model` has it, what it holds and what was expected."""
    try:
        model.model_validate(document)
    except ValidationError as errors:
        error = errors.errors(include_url=False, include_context=False)[0]
        raise InputError(f"{path}: {_said(error['loc'], error, document)}") from None


def _said(place: tuple[int | str, ...], error: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """ "benchmark 2, conv2d ...: extra_info.batch is -1, expected ..."."""
    where = ""
    if place[:1] == ("benchmarks",) and len(place) > 1:
        item, where, place = document["benchmarks"][place[1]], f"benchmark {place[1] + 1}", place[2:]
        names = [item[key] for key in NAMES if isinstance(item.get(key), str)] if isinstance(item, dict) else []
        where = ", ".join([where, *(name[:100] for name in names[:1])]) + (": " if place else "")
    if error["type"] == "missing":
        missing = ".".join(map(str, place))
        return (
            f"{where}no {missing}, expected a file of --benchmark-json (--benchmark-save-data) or of benchmarks/results"
        )
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
    return f"{where}{'.'.join(map(str, place))} is {short(error['input'])}, {expected}"


def short(value: Any) -> str:
    """A value in a few words, however large or deeply nested it is."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    if isinstance(value, (dict, list)):
        return f"a {'dictionary' if isinstance(value, dict) else 'list'} of {len(value)}"
    shorter = Repr()
    shorter.maxstring = shorter.maxother = 60
    return shorter.repr(value)
