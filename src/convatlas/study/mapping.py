"""map: what each layer of a net becomes on a GPU: algorithm, tiles, waves, occupancy, roofline, predicted time. Nothing is run.

Registers and shared memory are those of the layer's real kernels, compiled for the GPU (codegen/resources.py); times are predicted
(model/time.py). `convatlas map` prints what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from convatlas.errors import DtypeError
from convatlas.model.ceilings import Ceilings
from convatlas.model.gpu import GPU
from convatlas.model.gpu import gpu as named
from convatlas.model.occupancy import Occupancy, occupancy
from convatlas.model.time import LaunchTime, predict, waves
from convatlas.model.uncertainty import within
from convatlas.model.work import Work
from convatlas.specs import dtype_name
from convatlas.study.layer import Layer

if TYPE_CHECKING:
    from torch import nn

    from convatlas.codegen.resources import Task
    from convatlas.nets.resolve import Found
    from convatlas.plan.plan import Plan
    from convatlas.study.summary import Summary
    from convatlas.study.variations import Filling

PREDICTED = "times are predicted, not measured (docs/model.md)"
BACKENDS = ("auto", "triton", "cuda")


@dataclass(frozen=True)
class LaunchMap:
    """One launch of a layer on a GPU.

    Attributes:
        work: kernel, config, grid, tile.
        registers, shared, stack: of a thread, of a block in bytes, of a thread in bytes; None where it was not compiled.
        occupancy: None where it was not compiled.
        waves: rounds of blocks that fill all SMs.
        idle: share of the last wave's places that no block takes, 0 to 1.
        time: its part of the prediction.
    """

    work: Work
    registers: int | None
    shared: int | None
    stack: int | None
    occupancy: Occupancy | None
    waves: float
    idle: float
    time: LaunchTime

    def as_dict(self) -> dict[str, Any]:
        """For JSON: exact numbers."""
        w, o = self.work, self.occupancy
        return {
            "kernel": w.kernel, "config": w.config, "grid": w.grid, "threads": w.threads, "stages": w.stages,
            "tile": asdict(w.tile), "registers": self.registers, "shared_bytes": self.shared, "stack_bytes": self.stack,
            "blocks_an_sm": o and o.blocks, "occupancy": o and o.share, "occupancy_limiter": o and list(o.limiters),
            "waves": self.waves, "idle_last_wave": self.idle, "moved_bytes": w.moved, "loaded_bytes": w.loaded,
            "predicted_seconds": self.time.seconds, "predicted_chip_seconds": self.time.chip,
            "predicted_dram_seconds": self.time.dram,
        }  # fmt: skip


@dataclass(frozen=True)
class LayerMap:
    """One layer on a GPU.

    Attributes:
        layer: path, op, spec, epilogue.
        backend: whose kernels: "triton" or "cuda".
        launches: in their order; the first that is a matrix product, or the first, stands for the layer.
        kind: the spec's layer_kind, such as "3x3 dense".
        bytes: compulsory bytes, the epilogue's operands included.
        bound, binds: seconds below which no kernel goes, by the published peaks or measured ceilings, and which of them binds.
        seconds: predicted.
        low, high: nine of ten layers of this kind that the model was not fitted on lay within.
        limiter: what takes the most of the predicted time, one of model.time.LIMITS.
        note: why nothing was compiled; "" where it was.
        fills: the nearest batch and filters at which the last wave is full; None where nobody asked.
    """

    layer: Layer
    backend: str
    launches: tuple[LaunchMap, ...]
    kind: str
    bytes: int
    bound: float
    binds: str
    seconds: float
    low: float
    high: float
    limiter: str
    note: str = ""
    fills: tuple[Filling, ...] | None = None

    @property
    def main(self) -> LaunchMap:
        """The launch that stands for the layer."""
        return next((launch for launch in self.launches if launch.work.gemm), self.launches[0])

    @property
    def flops(self) -> int:
        return self.layer.spec.flops

    @property
    def intensity(self) -> float:
        """FLOPs a compulsory byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def gemm(self) -> tuple[int, int, int] | None:
        """(M, N, K) of the layer's GEMM, of one group; None for what is none, or one a phase, as a transposed convolution is."""
        return getattr(self.layer.spec, "gemm", None) if self.main.work.gemm else None

    @property
    def waste(self) -> float | None:
        """Share of the tiles' products that no output needs: what overhangs, and the zeros of packed groups. None without tiles."""
        flops = sum(launch.work.flops for launch in self.launches)
        return max(0.0, 1 - self.flops / flops) if flops else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV: one row of exact numbers; of the launches the one that stands for the layer."""
        main, gemm = self.main.as_dict(), self.gemm or (None,) * 3
        tile = self.main.work.tile
        fills = {one.name: one.size for one in self.fills or ()}
        return {
            "path": self.layer.path, "op": self.layer.op, "spec": str(self.layer.spec),
            "epilogue": str(self.layer.epilogue or "none"), "kind": self.kind, "backend": self.backend,
            **dict(zip(("gemm_m", "gemm_n", "gemm_k"), gemm)), "tile": str(tile), "split": tile.split, "tile_waste": self.waste,
            **{name: main[name] for name in (
                "kernel", "config", "grid", "threads", "registers", "shared_bytes", "stack_bytes", "blocks_an_sm",
                "occupancy", "waves", "idle_last_wave",
            )},
            "flops": self.flops, "bytes": self.bytes, "intensity": self.intensity,
            "bound_seconds": self.bound, "bound_by": self.binds, "predicted_seconds": self.seconds,
            "predicted_low": self.low, "predicted_high": self.high, "limiter": self.limiter, "note": self.note,
            "full_wave_batch": fills.get("batch"), "full_wave_filters": fills.get("filters"),
        }  # fmt: skip


@dataclass(frozen=True)
class Map:
    """A net, or one layer, on a GPU.

    Attributes:
        name: of the net, or the layer as it was written.
        gpu: the GPU.
        dtype: one of codegen.inventory.MODES.
        batch: images.
        layers: in the order in which they run.
        uncounted: what the net ran besides, by name, that no spec describes; "" for nothing.
    """

    name: str
    gpu: GPU
    dtype: str
    batch: int
    layers: tuple[LayerMap, ...]
    uncounted: str = ""

    @property
    def seconds(self) -> float:
        """Predicted: the sum of the layers, each alone with a cold L2 cache."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def images_per_second(self) -> float:
        """Predicted."""
        return self.batch / self.seconds if self.seconds else 0.0

    @property
    def by_kind(self) -> dict[str, tuple[int, float]]:
        """(layers, predicted seconds) of each kind, the longest first."""
        found: dict[str, tuple[int, float]] = {}
        for layer in self.layers:
            count, seconds = found.get(layer.kind, (0, 0.0))
            found[layer.kind] = count + 1, seconds + layer.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "net": self.name, "gpu": self.gpu.name, "gpu_title": self.gpu.title, "dtype": self.dtype, "batch": self.batch,
            "predicted": PREDICTED,
            "layers": [
                {
                    **layer.as_dict(), "launches": [x.as_dict() for x in layer.launches],
                    "full_waves": layer.fills and [one.as_dict() for one in layer.fills],
                }
                for layer in self.layers
            ],
            "total": {
                "flops": sum(layer.flops for layer in self.layers), "bytes": sum(layer.bytes for layer in self.layers),
                "bound_seconds": sum(layer.bound for layer in self.layers), "predicted_seconds": self.seconds,
                "predicted_images_per_second": self.images_per_second,
                "predicted_seconds_by_kind": {kind: seconds for kind, (_, seconds) in self.by_kind.items()},
            },
            "not_counted": self.uncounted,
        }  # fmt: skip


Progress = Callable[[str, int, int], None]


def quiet(what: str, done: int, total: int) -> None:
    """Shows no progress."""


def map(
    net: nn.Module | str | Layer | Plan,
    shape: tuple[int, ...] | None = None,
    *,
    gpu: str | GPU = "h100-sxm",
    dtype: str = "float16",
    backend: str = "auto",
    batch: int = 32,
    compile: bool = True,
    ceilings: Ceilings | None = None,
    progress: Progress = quiet,
    fill: bool = False,
) -> Map:
    """What each layer of a net becomes on a GPU that need not be here.

    Args:
        net: a module of our ops, of PyTorch's or of both; a name, torchvision:NAME or FILE.py:NAME; a layer, as a Layer or as
            text ("conv 32x64x56x56 64 3x3 s1 p1"); or a plan, each of whose steps is a layer, a block of several too.
        shape: of the input; None is `batch` images of the net's own size.
        gpu: a name of model.gpu.names(), a JSON file, or a GPU.
        dtype: float16, bfloat16, tf32 or float32.
        backend: triton, cuda or auto, the one that measured quicker on an H100 on such layers.
        compile: False leaves registers, shared memory and occupancy out; predictions then take one block an SM, or as many as a
            kernel's launcher bounds its registers for.
        ceilings: measured rates, for the bound in place of the published peaks.
        progress: called with (what, done, total) while kernels are compiled.
        fill: whether the nearest batch and filters that fill each layer's last wave are looked for, some 0.1 s a layer.

    Raises InputError for an unknown GPU, NetError for an unknown net or layer, DtypeError for another dtype, or one that the GPU's
    tensor cores do not multiply, ShapeError where a layer does not fit its input.
    """
    one = named(gpu) if isinstance(gpu, str) else gpu
    name, layers, uncounted, batch = layers_of(net, shape, batch, dtype)
    found = _mapped(layers, one, dtype, backend, compile, ceilings, progress)
    return Map(name, one, dtype, batch, tuple(_filled(found, one, dtype) if fill else found), uncounted)


def _filled(layers: Sequence[LayerMap], gpu: GPU, dtype: str) -> list[LayerMap]:
    """The layers with what fills their last waves; equal layers are asked once."""
    from convatlas.study.variations import filling

    known: dict[Any, tuple[Filling, ...]] = {}
    for layer in layers:
        key = layer.layer.key, layer.backend
        if key not in known:
            known[key] = tuple(filling(layer, gpu, dtype))
    return [replace(layer, fills=known[layer.layer.key, layer.backend]) for layer in layers]


def layers_of(
    net: nn.Module | str | Layer | Plan, shape: tuple[int, ...] | None, batch: int, dtype: str
) -> tuple[str, list[Layer], str, int]:
    """(name, layers, what is not counted, images) of what `map` takes."""
    from convatlas.study.written import is_layer, layer

    if isinstance(net, str) and is_layer(net):
        net = layer(net)
    if hasattr(net, "program"):  # a Plan, whose class is not imported for nets that are none
        from convatlas.study.tracing import plan_layers

        foreign = ", ".join(dict.fromkeys(step.op for step in net.layers if not step.ours))
        said = f"not counted, PyTorch's own: {foreign}" if foreign else ""
        return type(net.module).__name__, plan_layers(net), said, net.example[0].shape[0]
    if isinstance(net, Layer):
        sizes = getattr(net.spec, "input_shape", None) or net.spec.output_shape
        return net.path or net.op, [net], "", sizes[0]
    summary = summary_of(net, shape, batch, dtype)
    return summary.name, [row.layer for row in summary.rows], summary.warning, summary.input_shape[0]


def summary_of(net: nn.Module | str, shape: tuple[int, ...] | None, batch: int, dtype: str) -> Summary:
    """The summary of a net that `map` takes, its layers wired."""
    from convatlas.study.summary import summarise_found, summarise_net

    counted = "float32" if dtype == "tf32" else dtype_name(dtype)
    if not isinstance(net, str):
        return summarise_net(net, shape or (batch, 3, 224, 224), counted)
    from convatlas.nets.resolve import resolve

    if ":" not in net and shape is None and (kept := _stored(net, batch, counted)) is not None:
        return kept
    found: Found = resolve(net)
    return summarise_found(found, shape or (batch, 3, found.size, found.size), counted)


def _stored(net: str, batch: int, dtype: str) -> Summary | None:
    """The summary of one of our nets at its own size, from its stored trace, which is two seconds quicker."""
    from convatlas.nets.registry import info
    from convatlas.study import stored
    from convatlas.study.variations import sized

    kept = stored.load().get(stored.Key(info(net).name))
    if kept is None or batch < 1:
        return None
    rows = []
    for row in kept.rows:
        layer = row.layer.of(sized(row.layer.spec, "batch", batch))
        rows.append(replace(row, layer=layer, bytes=layer.spec.bytes(dtype, layer.epilogue)))
    return replace(kept, rows=tuple(rows), input_shape=(batch, *kept.input_shape[1:]), dtype=dtype)


def _mapped(
    layers: Sequence[Layer],
    gpu: GPU,
    dtype: str,
    backend: str,
    compile: bool,
    ceilings: Ceilings | None,
    progress: Progress,
) -> list[LayerMap]:
    from convatlas.codegen.inventory import MODES
    from convatlas.codegen.resources import Task
    from convatlas.kernels.common.target import of
    from convatlas.ops.automatic import preferred

    if dtype not in MODES:
        raise DtypeError(f"dtype {dtype!r}, expected one of {', '.join(MODES)}")
    gpu.rate(dtype)  # raises for a mode that the GPU lacks
    target = of(gpu)
    tasks: dict[tuple, Task] = {}
    for layer in layers:
        if layer.key not in tasks:
            call = replace(layer.call, dtype=element_of(dtype))
            chosen = preferred(call) if backend == "auto" or call.op == "block" else backend
            tasks[layer.key] = Task(replace(call, backend="meta"), dtype, target, chosen)
    firsts = {layer.key: layer for layer in reversed(layers)}
    entries = [(firsts[key], task) for key, task in tasks.items()]
    done = dict(zip(tasks, mapped(entries, gpu, compile, ceilings, progress)))
    return [replace(done[layer.key], layer=layer) for layer in layers]


def element_of(mode: str) -> str:
    """The dtype of tensors in a mode of computing."""
    return "float32" if mode == "tf32" else mode


def mapped(
    entries: Sequence[tuple[Layer, Task]],
    gpu: GPU,
    compile: bool = True,
    ceilings: Ceilings | None = None,
    progress: Progress = quiet,
) -> list[LayerMap]:
    """Each layer as its task says it is computed: by which backend, with which config. All are compiled together."""
    from convatlas.codegen.resources import Resources, resources
    from convatlas.kernels.common.work import works

    kept = resources([task for _, task in entries], progress) if compile else ["not compiled"] * len(entries)
    done = []
    for (layer, task), compiled in zip(entries, kept):
        found = works(task.call, task.launches, element_of(task.mode))
        taken: list[Resources | None] = [None] * len(found) if isinstance(compiled, str) else list(compiled)
        note = compiled if isinstance(compiled, str) else ""
        done.append(_layer(layer, found, taken, gpu, task, ceilings or Ceilings.published(gpu), note))
    return done


def blocks_per_sm(work: Work, held: Occupancy | None) -> int:
    """Blocks that an SM holds, by what was compiled, else by what the launcher knows."""
    return work.resident if held is None else held.blocks


def _layer(
    layer: Layer, found: list[Work], taken: list[Any], gpu: GPU, task: Task, rates: Ceilings, note: str
) -> LayerMap:
    held = [
        None if r is None else occupancy(gpu.architecture, w.threads, r.registers, r.shared)
        for w, r in zip(found, taken)
    ]
    per_sm = [blocks_per_sm(w, o) for w, o in zip(found, held)]
    prediction = predict(found, per_sm, gpu, task.mode)
    launches = []
    for work, r, o, n, time in zip(found, taken, held, per_sm, prediction.launches):
        count, idle = waves(work, n, gpu)
        launches.append(LaunchMap(work, r and r.registers, r and r.shared, r and r.stack, o, count, idle, time))
    element = element_of(task.mode)
    bound, binds = rates.bound(layer.spec, layer.epilogue, element, task.mode == "tf32")
    which = layer.spec.layer_kind
    error = within(which, task.backend)
    return LayerMap(
        layer, task.backend, tuple(launches), which, layer.spec.bytes(element, layer.epilogue), bound, binds,
        prediction.seconds, prediction.seconds * (1 - error), prediction.seconds * (1 + error), prediction.limiter, note,
    )  # fmt: skip
