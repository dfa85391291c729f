"""The time model against the stored times of an H100: fitted on ResNet-50's and VGG-16's layers, judged on the other networks'.

`python -m convatlas.study.evaluation.fitted` prints the errors; --write writes what predictions and docs/model.md stand on,
model/uncertainty.json and the page's tables and picture; --fit fits anew, which needs SciPy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import log
from pathlib import Path
from statistics import median
from typing import Any

from convatlas.call import Call
from convatlas.codegen.resources import Task
from convatlas.files import write_text
from convatlas.kernels.common.target import of
from convatlas.model.gpu import GPU, of_device
from convatlas.model.time import FITTED, Constants, predict
from convatlas.model.uncertainty import DATA
from convatlas.model.work import Work
from convatlas.ops.automatic import preferred
from convatlas.results.store import Entry, Results, newest
from convatlas.specs import Epilogue
from convatlas.specs.activations import FLOPS
from convatlas.study.layer import Layer
from convatlas.study.mapping import Progress, blocks_per_sm, mapped, quiet

FITTED_ON = ("resnet50", "vgg16")
HELD_OUT = ("mobilenet_v2", "googlenet", "resnext50_32x4d")
OURS = ("triton", "cuda")
DTYPE = "float16"
ITERATIONS = 200


@dataclass(frozen=True)
class Timed:
    """One layer that was timed, and what the model looks at.

    Attributes:
        call: op, spec, epilogue.
        backend, batch, kind: of the entry.
        places: how many times each network runs it.
        seconds: the median.
        works, per_sm: its launches, and how many blocks of each an SM holds.
        auto: whether this backend is the one that is chosen for it.
        mode: what it was computed in.
    """

    call: Call
    backend: str
    batch: int
    kind: str
    places: dict[str, int]
    seconds: float
    works: tuple[Work, ...]
    per_sm: tuple[int, ...]
    auto: bool
    mode: str = DTYPE

    @property
    def held_out(self) -> bool:
        """Whether neither network of FITTED_ON has it."""
        return not any(name in self.places for name in FITTED_ON)

    def predicted(self, gpu: GPU, constants: Constants = FITTED) -> float:
        """Seconds."""
        return predict(self.works, self.per_sm, gpu, self.mode, constants).seconds

    def error(self, gpu: GPU, constants: Constants = FITTED) -> float:
        """Predicted over measured, less 1."""
        return self.predicted(gpu, constants) / self.seconds - 1


def _call(entry: Entry) -> Call:
    words = (entry.extra.get("epilogue") or "").split("+")
    activation = next((word for word in words if word.split("(")[0] in FLOPS), None)
    epilogue = Epilogue("bias" in words, activation, "residual" in words)
    has = entry.extra["op"] in ("conv2d", "linear", "residual_add")
    return Call(entry.extra["op"], entry.spec, epilogue if has else None, dtype=DTYPE)


def timed(
    results: Results,
    only: Callable[[Entry], bool] = lambda entry: True,
    progress: Progress = quiet,
    dtype: str = DTYPE,
) -> tuple[GPU, list[Timed]]:
    """The layers of a results file in one dtype, by both our backends; those are compiled that were not yet."""
    gpu = of_device(results.head["gpu"])
    chosen = [
        entry
        for entry in results.entries
        if entry.extra.get("suite") == "layers" and entry.extra["contestant"] in OURS and entry.extra["dtype"] == dtype
        and entry.spec is not None and only(entry)
    ]  # fmt: skip
    tasks = [Task(replace(_call(entry), dtype=dtype), dtype, of(gpu), entry.extra["contestant"]) for entry in chosen]
    found = []
    for entry, task, one in zip(
        chosen, tasks, mapped([(Layer("", task.call), task) for task in tasks], gpu, progress=progress)
    ):
        held = (blocks_per_sm(launch.work, launch.occupancy) for launch in one.launches)
        found.append(
            Timed(
                task.call, task.backend, entry.extra["batch"], entry.kind, entry.extra["places"], entry.median,
                tuple(launch.work for launch in one.launches), tuple(held), preferred(task.call) == task.backend, dtype,
            )
        )  # fmt: skip
    return gpu, found


def flat(constants: Constants) -> list[float]:
    """The constants as one list; pairs one after the other."""
    values = (getattr(constants, f.name) for f in fields(Constants))
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,))]


def shaped(values: Iterable[float]) -> Constants:
    """The constants that `flat` gave."""
    left = iter(values)
    return Constants(
        *(
            tuple(next(left) for _ in default) if isinstance(default := getattr(FITTED, f.name), tuple) else next(left)
            for f in fields(Constants)
        )
    )


def fit(layers: Sequence[Timed], gpu: GPU, start: Constants = FITTED) -> Constants:
    """The constants with the least robust sum of squared log errors on `layers` (soft L1, one tenth), each kept positive."""
    import numpy as np
    from scipy.optimize import least_squares

    def residuals(x: Any) -> Any:
        constants = shaped(map(float, np.exp(x)))
        return np.array([log(1 + one.error(gpu, constants)) for one in layers])

    found = least_squares(residuals, np.log(flat(start)), loss="soft_l1", f_scale=0.1, x_scale=0.1, max_nfev=ITERATIONS)
    return shaped(float(f"{value:.3g}") for value in np.exp(found.x))


def quantile(values: Iterable[float], share: float) -> float:
    """The value at that share of the sorted ones: at 0.9, nine of ten are at most it."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@dataclass(frozen=True)
class Summed:
    """Errors of some layers: their number, the median absolute one, what nine of ten are within, and the median signed one."""

    count: int
    middle: float
    ninth: float
    bias: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> Summed:
        sizes = [abs(e) for e in errors]
        return cls(len(errors), median(sizes), quantile(sizes, 0.9), median(errors))


def by_kind(layers: Iterable[Timed], gpu: GPU) -> dict[tuple[str, str], Summed]:
    """(backend, kind) -> errors."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one in layers:
        groups.setdefault((one.backend, one.kind), []).append(one.error(gpu))
    return {key: Summed.of(errors) for key, errors in sorted(groups.items())}


def network_sums(layers: Sequence[Timed], gpu: GPU) -> dict[tuple[str, int, str], tuple[float, float]]:
    """(network, batch, "triton", "cuda" or "auto") -> (measured, predicted) seconds of all its layers, each as often as it runs."""
    found: dict[tuple[str, int, str], tuple[float, float]] = {}
    for one in layers:
        for net in (*FITTED_ON, *HELD_OUT):
            for way in (one.backend, *(["auto"] if one.auto else [])):
                if times := one.places.get(net, 0):
                    measured, predicted = found.get((net, one.batch, way), (0.0, 0.0))
                    seconds = one.seconds * times
                    found[net, one.batch, way] = measured + seconds, predicted + seconds * (1 + one.error(gpu))
    return dict(sorted(found.items()))


def uncertainty(layers: Sequence[Timed], gpu: GPU) -> dict[str, dict[str, float]]:
    """backend -> kind -> what nine of ten held-out layers are within; of a kind that only the fitted networks have, of those."""
    found: dict[str, dict[str, float]] = {}
    for part in (layers, [one for one in layers if one.held_out]):
        for (backend, kind), errors in by_kind(part, gpu).items():
            found.setdefault(backend, {})[kind] = round(errors.ninth, 3)
    return found


def main(arguments: list[str]) -> None:
    """[--fit] [--write]: prints the page's tables, or writes them and what stands on them; or fits anew."""
    results = newest(Path("benchmarks/results"), "layers")["h100-80gb-hbm3"]

    def progress(what: str, done: int, total: int) -> None:
        print(f"\r{what} {done}/{total}", end="", file=sys.stderr)

    gpu, layers = timed(results, progress=progress)
    if "--fit" in arguments:
        print(fit([one for one in layers if not one.held_out], gpu))
        return
    from convatlas.model.ceilings import Ceilings
    from convatlas.study.evaluation import judged, page

    _, halves = timed(results, progress=progress, dtype="bfloat16")
    text = page.tables(layers, gpu), judged.tables(layers, halves, gpu, Ceilings.of(results.head["ceilings"]))
    print(*text, sep="\n\n")
    if "--write" in arguments:
        write_text(DATA, json.dumps(uncertainty(layers, gpu), indent=1) + "\n")
        page.write(Path("docs"), layers, gpu, text)


if __name__ == "__main__":
    main(sys.argv[1:])
