"""One case from operands to samples: correctness first, then the race; and what is written beside the times."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from convatlas.bench import clocks
from convatlas.bench.cases import PRECISIONS, Case, layers_of, shrink
from convatlas.bench.ceilings import Ceilings
from convatlas.bench.contestants import AUTO, contestants, data_sets, tuned
from convatlas.bench.environment import cpu_name, gpu_name, versions
from convatlas.bench.networks import FORMS, NAMES, NetJudge, net_contestants, rehearsal_size, work
from convatlas.bench.timing import Contestant, CudaTimer, FakeTimer, Protocol, Run, Timer, race, reason
from convatlas.errors import BackendError, DtypeError
from convatlas.kernels.common.precision import float32_products
from convatlas.model.gpu import gpu
from convatlas.ops.automatic import preferred
from convatlas.results.kinds import sizes_of
from convatlas.results.standings import OURS, Race, is_ours
from convatlas.specs import dtype_name
from convatlas.study.tracing import Layer
from convatlas.verify.on_device import Accuracy, Judge

LAUNCH = 2e-6  # seconds; what a rehearsal takes for the least time of a launch


@dataclass
class Checked:
    """What one run of each contestant showed.

    Attributes:
        accuracy: of each contestant that ran.
        absent: why a contestant does not race, by name.
        wrong: what is wrong with a contestant of ours, by name; it is not timed.
    """

    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def check(racing: Sequence[Contestant], data: dict[str, Tensor], judge: Judge | NetJudge) -> Checked:
    """Runs each contestant once and judges it."""
    found = Checked()
    judged: dict[Run, Accuracy] = {}  # two contestants may be one function in two forms
    for contestant in racing:
        name, run = contestant.name, contestant.run
        try:
            accuracy = judged[run] if run in judged else judged.setdefault(run, judge(run(data)))
        except (BackendError, DtypeError) as error:
            found.absent[name] = reason(error)
        except Exception as error:  # a library without a plan for this layer raises anything
            if is_ours(name) and not isinstance(error, torch.OutOfMemoryError):
                found.wrong[name] = f"raised {reason(error)}"
            else:
                found.absent[name] = reason(error)
        else:
            found.accuracy[name] = accuracy
            if is_ours(name) and not accuracy.ok:
                found.wrong[name] = str(accuracy)
    return found


def timed(
    found: Checked, racing: Sequence[Contestant], sets: list[dict[str, Tensor]], timer: Timer, protocol: Protocol
) -> dict[str, list[float]]:
    """Seconds of those that `check` found right, by name; one that fails only now is wrong or absent in `found`."""
    racing = [c for c in racing if c.name in found.accuracy and c.name not in found.wrong]
    seconds, failed = race(racing, sets, timer, protocol)
    for name, error in failed.items():
        (found.wrong if is_ours(name) else found.absent)[name] = error
    return seconds


def _bound(rates: Ceilings, layers: Sequence[Layer], dtype: str, tf32: bool) -> dict[str, Any]:
    """Seconds below which no kernels go on the layers, one after another, and what sets most of them."""
    shares: dict[str, float] = {}
    for layer in layers:
        seconds, binds = rates.bound(layer.spec, layer.epilogue, dtype, tf32)
        shares[binds] = shares.get(binds, 0.0) + seconds
    return {"bound": max(shares, key=lambda b: shares[b]), "bound_seconds": sum(shares.values())}


class Racer:
    """Runs cases on a GPU, or rehearses them on the CPU.

    Args:
        rehearse: contestants run once, on shrunken layers; times are made up (timing.FakeTimer).
        ceilings: measured rates of this GPU, for the share of the bound; None leaves it out.
        compile: torch.compile races on the nets that are named.
        backend: of ours that races, or "auto", the one that would be chosen; None is both.
        nets: contestants of networks that race, of networks.NAMES.
        fuse: which blocks of layers plans make one kernel of, as convatlas.compile has it.
    """

    def __init__(
        self, rehearse: bool = False, ceilings: Ceilings | None = None, compile: tuple[str, ...] = (),
        backend: str | None = None, nets: Sequence[str] = NAMES,
        fuse: str | Collection[str] = "auto",
    ) -> None:  # fmt: skip
        self.rehearse, self.ceilings, self.compile, self.backend, self.nets = rehearse, ceilings, compile, backend, nets
        self.fuse = fuse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self._seen: dict[tuple, Checked] = {}

    def run(self, case: Case) -> Race:
        """Checks, then times. Raises what the hardware raises, such as running out of memory."""
        before = clocks.sample()
        layers = (case.layer,) if case.layer else layers_of(*case.places, case.batch, case.pixels)
        dtype, products = PRECISIONS[case.precision]
        flops, bytes = work(layers, dtype_name(dtype))
        mode = dtype_name(dtype), products == "tf32"
        least = _bound(Ceilings.published(gpu("h100-sxm")), layers, *mode)["bound_seconds"]
        bound = _bound(self.ceilings, layers, *mode) if self.ceilings else {}
        made_up = FakeTimer(max(least, len(layers) * LAUNCH), zlib.crc32(case.name.encode()))
        timer = made_up if self.rehearse else CudaTimer()
        try:
            with tuned(), float32_products(products):
                found, seconds, about = self._timed(case, timer)
        finally:
            self._free()
        shared = {
            "op": case.op, "kind": case.kind, "spec": case.spec,
            **({"sizes": sizes_of(case.layer.spec)} if case.layer else {"layers": len(layers)}),
            "epilogue": case.epilogue, "dtype": case.precision, "batch": case.batch, "cache": case.protocol.cache,
            "places": case.places, "flops": flops, "bytes": bytes, **bound,
            "timer": timer.label, "gpu": gpu_name(), "versions": versions(), "clocks_before": before, "absent": found.absent,
            **about,
        }  # fmt: skip
        device = gpu_name() or cpu_name()
        raced = Race.of(case.suite, case.name, seconds, device, shared, found.absent, found.wrong)
        for name, entry in raced.entries.items():
            entry.extra.update(self._own(case, entry.extra, entry.median, name, found.accuracy[name]))
        return raced

    def _own(self, case: Case, shared: dict[str, Any], seconds: float, name: str, accuracy: Accuracy) -> dict[str, Any]:
        """What the extra_info of one contestant holds beside what all do."""
        own = {
            "form": FORMS.get(name, case.protocol.form), "tflops": shared["flops"] / seconds / 1e12,
            "gbps": shared["bytes"] / seconds / 1e9, "relative_error": accuracy.error, "error_bound": accuracy.bound,
        }  # fmt: skip
        if "bound_seconds" in shared:
            own["roofline_share"] = shared["bound_seconds"] / seconds
        if case.layer is None:
            own["images_per_s"] = case.batch / seconds
        return own

    def _free(self) -> None:
        """What one case held must not be missing to the next."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _ours(self, layer: Layer, dtype: torch.dtype) -> tuple[str, ...]:
        if self.backend is None:
            return OURS
        return (preferred(replace(layer.call, dtype=dtype_name(dtype))) if self.backend == AUTO else self.backend,)

    def _timed(self, case: Case, timer: Timer) -> tuple[Checked, dict[str, list[float]], dict[str, Any]]:
        """(what the check showed, seconds by contestant, what is written about both)."""
        found, racing, sets, on = (self._layer if case.layer else self._net)(case, timer)
        if self.rehearse:
            racing = [replace(c, run=lambda t: None) for c in racing]  # each ran when it was checked
        seconds = timed(found, racing, sets, timer, case.protocol)
        # The clocks at once: an idle GPU's fall.
        about = {"clocks": clocks.sample(), "sets": len(sets)}
        return found, seconds, about | ({"rehearsed_on": on} if self.rehearse else {})

    def _layer(self, case: Case, timer: Timer) -> tuple[Checked, list[Contestant], list[dict[str, Tensor]], str]:
        """(what the check showed, who races, the data sets, what on)."""
        dtype, products = PRECISIONS[case.precision]
        layer, ours = shrink(case.layer) if self.rehearse else case.layer, self._ours(case.layer, dtype)
        sets = data_sets(layer, dtype, self.device, timer, case.protocol.cache)
        racing, key = contestants(layer, ours), (layer.key, case.precision, ours)
        if key in self._seen:  # rehearsals meet one shrunken layer many times
            return deepcopy(self._seen[key]), racing, sets, str(layer.spec)
        found = check(racing, sets[0], Judge(layer, sets[0], products == "tf32" and layer.spec.products))
        if self.rehearse:
            self._seen[key] = deepcopy(found)
        return found, racing, sets, str(layer.spec)

    def _net(self, case: Case, timer: Timer) -> tuple[Checked, list[Contestant], list[dict[str, Tensor]], str]:
        (name,) = case.places
        size, batch = (rehearsal_size(name), 1) if self.rehearse else (case.size, case.batch)
        compiled = not self.rehearse and name in self.compile
        shape, (dtype, _) = (batch, 3, size, size), PRECISIONS[case.precision]
        racing, judge, data = net_contestants(
            name, shape, dtype, self.device, compiled, self.backend or AUTO, self.fuse
        )
        racing = [contestant for contestant in racing if contestant.name in self.nets]
        return check(racing, data, judge), racing, [data], "x".join(map(str, shape))
