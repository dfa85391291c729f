"""One case from operands to samples: correctness first, then the race; and what is written beside the times."""

from __future__ import annotations

import gc
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from convatlas import nets
from convatlas.bench import clocks
from convatlas.bench.accuracy import Accuracy, Judge, float32_products
from convatlas.bench.cases import PRECISIONS, PRODUCTS, Case, shrink
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.contestants import OURS, contestants, tuned, with_folded
from convatlas.bench.environment import gpu_name, versions
from convatlas.bench.kinds import sizes_of
from convatlas.bench.layers import layers_of
from convatlas.bench.networks import FORMS, NetJudge, net_contestants, rehearsal_size, work
from convatlas.bench.timing import Contestant, CudaTimer, FakeTimer, Measurement, Run, Timer, race, reason, sets_for
from convatlas.engine.single import operands
from convatlas.errors import BackendError, DtypeError
from convatlas.specs import dtype_name
from convatlas.study.roofline import H100

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


def is_ours(name: str) -> bool:
    """Whether a contestant is convatlas's, whose mistakes fail a test; a peer's are noted."""
    return name in OURS or name.startswith("ours")


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
        before = clocks.sample()
        _, products = PRECISIONS[case.precision]
        try:
            with tuned(), float32_products(products):
                result = self._net(case) if case.layer is None else self._layer(case)
        finally:
            self._free()
        sizes = {} if case.layer is None else {"sizes": sizes_of(case.layer.spec)}
        result.info |= {
            "suite": case.suite, "op": case.op, "spec": case.spec, **sizes, "epilogue": case.epilogue, "dtype": case.precision,
            "batch": case.batch, "cache": case.protocol.cache, "places": case.places, "gpu": gpu_name(), "versions": versions(),
            "clocks_before": before, "absent": result.absent,
        }  # fmt: skip
        return result

    def _timer(self, case: Case, seconds: float) -> Timer:
        if not self.rehearse:
            return CudaTimer()
        return FakeTimer(seconds, zlib.crc32(case.name.encode()))

    def _free(self) -> None:
        """What one case held must not be missing to the next."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _layer(self, case: Case) -> Result:
        dtype, products = PRECISIONS[case.precision]
        layer = shrink(case.layer) if self.rehearse else case.layer
        name = dtype_name(dtype)
        bytes = case.layer.spec.bytes(name, case.layer.epilogue)
        flops = case.layer.spec.flops
        timer = self._timer(case, max(H100.seconds(flops, bytes, tensor=case.layer.op in PRODUCTS), LAUNCH))
        count = sets_for(timer, case.protocol.cache, layer.spec.bytes(name, layer.epilogue))
        drawn_on = str(self.device)
        sets = [with_folded(layer, operands(layer, dtype, self.device, seed, drawn_on)) for seed in range(count)]
        result, racing = Result(), contestants(layer)
        seen = self._seen.get((layer.key, case.precision))  # rehearsals meet one shrunken layer many times
        if seen is None:
            check(result, racing, sets[0], Judge(layer, sets[0], products == "tf32" and layer.op in PRODUCTS))
        else:
            result.accuracy, result.absent, result.wrong = (dict(part) for part in seen)
        if self.rehearse and seen is None:
            parts = result.accuracy, result.absent, result.wrong
            self._seen[layer.key, case.precision] = tuple(dict(part) for part in parts)
        racing = [c for c in racing if c.name in result.accuracy and c.name not in result.wrong]
        self._race(result, racing, sets, timer, case)
        result.info |= {"flops": flops, "bytes": bytes, "timer": timer.label, "sets": count}
        if self.rehearse:
            result.info["rehearsed_on"] = str(layer.spec)
        if self.ceilings is not None:
            bound, binds = self.ceilings.bound(case.op, case.layer.spec, case.layer.epilogue, name, products == "tf32")
            result.info |= {"bound": binds, "bound_seconds": bound}
        return result

    def _net(self, case: Case) -> Result:
        dtype, products = PRECISIONS[case.precision]
        (name,) = case.places
        size, batch = (rehearsal_size(name), 1) if self.rehearse else (nets.info(name).size, case.batch)
        flops, bytes, layers = work(name, case.batch, dtype_name(dtype))
        timer = self._timer(case, max(H100.seconds(flops, bytes), layers * LAUNCH))
        result = Result()
        compiled = not self.rehearse and name in self.compile
        racing, judge, data = net_contestants(name, (batch, 3, size, size), dtype, self.device, compiled)
        check(result, racing, data, judge)
        racing = [c for c in racing if c.name in result.accuracy and c.name not in result.wrong]
        self._race(result, racing, [data], timer, case)
        result.info |= {"flops": flops, "bytes": bytes, "timer": timer.label, "layers": layers}
        if self.rehearse:
            result.info["rehearsed_on"] = f"{batch}x3x{size}x{size}"
        if self.ceilings is not None:
            tf32 = products == "tf32"
            shares: dict[str, float] = {}
            for layer in layers_of(name, case.batch):
                seconds, binds = self.ceilings.bound(layer.op, layer.spec, layer.epilogue, dtype_name(dtype), tf32)
                shares[binds] = shares.get(binds, 0.0) + seconds
            result.info |= {"bound": max(shares, key=lambda b: shares[b]), "bound_seconds": sum(shares.values())}
        return result

    def _race(
        self, result: Result, racing: list[Contestant], sets: list[dict[str, Tensor]], timer: Timer, case: Case
    ) -> None:
        if self.rehearse:
            racing = [replace(c, run=lambda t: None) for c in racing]  # each ran when it was checked
        result.measured = race(racing, sets, timer, case.protocol)
        result.info["clocks"] = clocks.sample()  # at once: an idle GPU's clocks fall
        for name, measurement in list(result.measured.items()):
            if measurement.error:
                del result.measured[name]
                (result.wrong if is_ours(name) else result.absent)[name] = measurement.error


def entry(case: Case, result: Result, name: str) -> dict[str, Any]:
    """extra_info of one contestant's entry in the store."""
    info, seconds = result.info, result.measured[name].interval.median
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
