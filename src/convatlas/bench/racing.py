"""One case from operands to samples: correctness first, then the race; and what is written beside the times."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from convatlas import nets
from convatlas.bench import clocks
from convatlas.bench.accuracy import Accuracy, Judge
from convatlas.bench.cases import PRECISIONS, Case, layers_of, shrink
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.contestants import contestants, data_sets, is_ours, tuned
from convatlas.bench.environment import cpu_name, gpu_name, versions
from convatlas.bench.networks import FORMS, NetJudge, net_contestants, rehearsal_size, work
from convatlas.bench.standings import Race
from convatlas.bench.timing import Contestant, CudaTimer, FakeTimer, Measurement, Protocol, Run, Timer, race, reason
from convatlas.errors import BackendError, DtypeError
from convatlas.kernels.common.precision import float32_products
from convatlas.results.kinds import sizes_of
from convatlas.results.store import Entry
from convatlas.specs import dtype_name
from convatlas.study.roofline import H100
from convatlas.study.tracing import Layer

LAUNCH = 2e-6  # seconds; what a rehearsal takes for the least time of a launch


@dataclass
class Result:
    """What became of a case.

    Attributes:
        measured: of each contestant that raced, by name.
        accuracy: of each contestant that ran.
        absent: why a contestant does not race, by name.
        wrong: what is wrong with a contestant of ours, by name; it was not timed.
        info: what all entries of the case share.
    """

    measured: dict[str, Measurement] = field(default_factory=dict)
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def check(result: Result, racing: list[Contestant], data: dict[str, Tensor], judge: Judge | NetJudge) -> None:
    """Runs each contestant once and judges it; fills accuracy, absent and wrong."""
    judged: dict[Run, Accuracy] = {}  # two contestants may be one function in two forms
    for contestant in racing:
        name, run = contestant.name, contestant.run
        try:
            found = judged[run] if run in judged else judged.setdefault(run, judge(run(data)))
        except (BackendError, DtypeError) as error:
            result.absent[name] = reason(error)
        except Exception as error:  # a library without a plan for this layer raises anything
            if is_ours(name) and not isinstance(error, torch.OutOfMemoryError):
                result.wrong[name] = f"raised {reason(error)}"
            else:
                result.absent[name] = reason(error)
        else:
            result.accuracy[name] = found
            if is_ours(name) and not found.ok:
                result.wrong[name] = str(found)


def timed(
    result: Result, racing: list[Contestant], sets: list[dict[str, Tensor]], timer: Timer, protocol: Protocol
) -> None:
    """Races those that `check` found right; fills measured, and wrong or absent for one that fails only now."""
    racing = [c for c in racing if c.name in result.accuracy and c.name not in result.wrong]
    for name, measurement in race(racing, sets, timer, protocol).items():
        if measurement.error:
            (result.wrong if is_ours(name) else result.absent)[name] = measurement.error
        else:
            result.measured[name] = measurement


class Racer:
    """Runs cases on a GPU, or rehearses them on the CPU.

    Args:
        rehearse: contestants run once, on shrunken layers; times are made up (timing.FakeTimer).
        ceilings: measured rates of this GPU, for the share of the bound; None leaves it out.
        compile: torch.compile races on the nets that are named.
    """

    def __init__(self, rehearse: bool = False, ceilings: Ceilings | None = None, compile: tuple[str, ...] = ()) -> None:
        self.rehearse, self.ceilings, self.compile = rehearse, ceilings, compile
        self.device = torch.device("cpu" if rehearse else "cuda")
        self._seen: dict[tuple, tuple[dict[str, Accuracy], dict[str, str], dict[str, str]]] = {}

    def run(self, case: Case) -> Result:
        """Checks, then times. Raises what the hardware raises, such as running out of memory."""
        before, result = clocks.sample(), Result()
        layers = (case.layer,) if case.layer else layers_of(*case.places, case.batch)
        dtype, products = PRECISIONS[case.precision]
        flops, bytes = work(layers, dtype_name(dtype))
        seconds = H100.seconds(flops, bytes, tensor=case.layer is None or case.layer.spec.products)
        made_up = FakeTimer(max(seconds, len(layers) * LAUNCH), zlib.crc32(case.name.encode()))
        timer = made_up if self.rehearse else CudaTimer()
        try:
            with tuned(), float32_products(products):
                (self._layer if case.layer else self._net)(case, result, timer)
        finally:
            self._free()
        result.info |= {
            "suite": case.suite, "op": case.op, "kind": case.kind, "spec": case.spec,
            **({"sizes": sizes_of(case.layer.spec)} if case.layer else {"layers": len(layers)}),
            "epilogue": case.epilogue, "dtype": case.precision, "batch": case.batch, "cache": case.protocol.cache,
            "places": case.places, "flops": flops, "bytes": bytes, **self._bound(layers, dtype_name(dtype), products == "tf32"),
            "timer": timer.label, "gpu": gpu_name(), "versions": versions(), "clocks_before": before, "absent": result.absent,
        }  # fmt: skip
        return result

    def _free(self) -> None:
        """What one case held must not be missing to the next."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _bound(self, layers: Sequence[Layer], dtype: str, tf32: bool) -> dict[str, Any]:
        """Seconds below which no kernels go on the layers, one after another, and what sets most of them."""
        if self.ceilings is None:
            return {}
        shares: dict[str, float] = {}
        for layer in layers:
            seconds, binds = self.ceilings.bound(layer.spec, layer.epilogue, dtype, tf32)
            shares[binds] = shares.get(binds, 0.0) + seconds
        return {"bound": max(shares, key=lambda b: shares[b]), "bound_seconds": sum(shares.values())}

    def _layer(self, case: Case, result: Result, timer: Timer) -> None:
        dtype, products = PRECISIONS[case.precision]
        layer = shrink(case.layer) if self.rehearse else case.layer
        sets = data_sets(layer, dtype, self.device, timer, case.protocol.cache)
        racing, key = contestants(layer), (layer.key, case.precision)
        if key in self._seen:  # rehearsals meet one shrunken layer many times
            result.accuracy, result.absent, result.wrong = (dict(part) for part in self._seen[key])
        else:
            check(result, racing, sets[0], Judge(layer, sets[0], products == "tf32" and layer.spec.products))
        if self.rehearse:
            self._seen[key] = tuple(dict(part) for part in (result.accuracy, result.absent, result.wrong))
            result.info["rehearsed_on"] = str(layer.spec)
        self._race(result, racing, sets, timer, case)
        result.info["sets"] = len(sets)

    def _net(self, case: Case, result: Result, timer: Timer) -> None:
        (name,) = case.places
        size, batch = (rehearsal_size(name), 1) if self.rehearse else (nets.info(name).size, case.batch)
        compiled = not self.rehearse and name in self.compile
        shape, (dtype, _) = (batch, 3, size, size), PRECISIONS[case.precision]
        racing, judge, data = net_contestants(name, shape, dtype, self.device, compiled)
        check(result, racing, data, judge)
        if self.rehearse:
            result.info["rehearsed_on"] = "x".join(map(str, shape))
        self._race(result, racing, [data], timer, case)

    def _race(
        self, result: Result, racing: list[Contestant], sets: list[dict[str, Tensor]], timer: Timer, case: Case
    ) -> None:
        if self.rehearse:
            racing = [replace(c, run=lambda t: None) for c in racing]  # each ran when it was checked
        timed(result, racing, sets, timer, case.protocol)
        result.info["clocks"] = clocks.sample()  # at once: an idle GPU's clocks fall


def entry(case: Case, result: Result, name: str) -> dict[str, Any]:
    """extra_info of one contestant's entry in the store."""
    info, seconds = result.info, result.measured[name].median
    found = {
        **info,
        "contestant": name,
        "form": FORMS.get(name, case.protocol.form),
        "tflops": info["flops"] / seconds / 1e12,
        "gbps": info["bytes"] / seconds / 1e9,
        "relative_error": result.accuracy[name].error,
        "error_bound": result.accuracy[name].bound,
    }
    if "bound_seconds" in info:
        found["roofline_share"] = info["bound_seconds"] / seconds
    if case.layer is None:
        found["images_per_s"] = case.batch / seconds
    return found


def raced(case: Case, result: Result) -> Race:
    """The case's entries as those who sum up want them."""
    device = result.info.get("gpu") or cpu_name()
    entries = {
        name: Entry(case.suite, case.name, name, tuple(m.seconds), entry(case, result, name), device)
        for name, m in result.measured.items()
    }
    return Race(entries)
