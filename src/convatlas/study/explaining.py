"""explain: why a layer runs as it does: its config, what the runners-up would cost, what fusing saves. All predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from convatlas.errors import ConvAtlasError
from convatlas.model.gpu import GPU
from convatlas.specs import itemsize
from convatlas.study.layer import IMAGE, Layer, Node
from convatlas.study.mapping import PREDICTED, LayerMap, Map, Progress, element_of, map, mapped, quiet

if TYPE_CHECKING:
    from convatlas.codegen.resources import Task

RUNNERS_UP = 6


@dataclass(frozen=True)
class Candidate:
    """A config that the chooser considered, and what the time model says of it.

    Attributes:
        config: a TileConfig or TmaConfig of Triton's kernels, or CUDA C++'s WarpTile.
        mapped: the layer with it: tile, waves, occupancy, predicted time.
        rank: its place in the chooser's own order, 1 for the best.
        chosen: whether it is the one that runs.
    """

    config: Any
    mapped: LayerMap
    rank: int
    chosen: bool

    @property
    def name(self) -> str:
        """Kernel, tile and the rest of the config."""
        work = self.mapped.main.work
        return f"{work.kernel.removesuffix('_kernel')} {work.tile}, {work.config}"


@dataclass(frozen=True)
class Fusion:
    """What one kernel for two neighbours saves.

    Attributes:
        what: the neighbours, in words.
        bytes: that are not written and not read.
        seconds: predicted, at the bandwidth that the model takes, with the launch that falls away.
        done: whether the kernel does it already.
    """

    what: str
    bytes: int
    seconds: float
    done: bool


@dataclass(frozen=True)
class Explanation:
    """A layer, explained.

    Attributes:
        found: the map that has the layer alone.
        candidates: the chosen config and the best of the others, the quickest by the time model first; empty for an only one.
        considered: how many the chooser compared.
        other: the layer by the other backend; None where that has no kernel for it.
        fusions: with its neighbours.
    """

    found: Map
    candidates: tuple[Candidate, ...]
    considered: int
    other: LayerMap | None
    fusions: tuple[Fusion, ...]

    @property
    def layer(self) -> LayerMap:
        return self.found.layers[0]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.found.as_dict(),
            "considered": self.considered,
            "candidates": [
                {
                    "config": asdict(one.config) if is_dataclass(one.config) else str(one.config), "rank": one.rank,
                    "chosen": one.chosen, **one.mapped.as_dict(),
                }
                for one in self.candidates
            ],
            "other_backend": self.other and self.other.as_dict(),
            "fusions": [{**asdict(one), "predicted_seconds": one.seconds} for one in self.fusions],
        }  # fmt: skip


def explain(
    net: Any,
    layer: str | None = None,
    *,
    gpu: str | GPU = "h100-sxm",
    dtype: str = "float16",
    backend: str = "auto",
    batch: int = 32,
    compile: bool = True,
    progress: Progress = quiet,
) -> Explanation:
    """One layer on a GPU that need not be here: see Explanation. Arguments are those of study.map and study.inspect.

    Raises what they raise.
    """
    from convatlas.study.inspecting import one_layer

    chosen = one_layer(net, layer, batch, None, dtype)
    options = dict(gpu=gpu, dtype=dtype, compile=compile, progress=progress)
    found = map(chosen, backend=backend, **options)
    one = found.layers[0]
    try:
        other = map(chosen, backend="cuda" if one.backend == "triton" else "triton", **options).layers[0]
    except ConvAtlasError:  # a layer that the other backend does not take
        other = None
    considered, candidates = _candidates(one, found.gpu, dtype, compile, progress)
    nodes = _nodes(net, batch, dtype) if layer is not None else []
    return Explanation(found, candidates, considered, other, tuple(fusions(chosen, nodes, found.gpu, dtype)))


def configs(task: Task) -> list[tuple[float, Any]]:
    """(cost by the chooser's own model, config) of all that is considered for a task, the least first; each config once."""
    from convatlas.kernels.common.override import noting

    with noting() as noted:
        _ = task.launches
    best: dict[Any, float] = {}
    for cost, config in noted:
        best[config] = min(cost, best.get(config, cost))
    return sorted(((cost, config) for config, cost in best.items()), key=lambda one: one[0])


def _candidates(
    one: LayerMap, gpu: GPU, dtype: str, compile: bool, progress: Progress
) -> tuple[int, tuple[Candidate, ...]]:
    """(how many were considered, the chosen one and the best of the others by the chooser's order)."""
    from convatlas.codegen.resources import Task
    from convatlas.kernels.common.target import of

    call = replace(one.layer.call, dtype=element_of(dtype), backend="meta")
    task = Task(call, dtype, of(gpu), one.backend)
    entries = [(one.layer, replace(task, config=config)) for _, config in configs(task)]
    works = [launch.work for launch in one.launches]
    # Which is the chosen one shows in its launches; those beyond the list are not compiled.
    chosen = [[launch.work for launch in seen.launches] == works for seen in mapped(entries, gpu, False)]
    if not any(chosen):
        return len(entries), ()
    mine = chosen.index(True)
    others = [i for i in range(len(entries)) if i != mine][:RUNNERS_UP]
    kept = mapped([entries[i] for i in others], gpu, compile, None, progress)
    found = [Candidate(entries[mine][1].config, one, mine + 1, True)]
    found += [Candidate(entries[i][1].config, seen, i + 1, False) for i, seen in zip(others, kept)]
    return len(entries), tuple(sorted(found, key=lambda candidate: candidate.mapped.seconds))


def _nodes(net: Any, batch: int, dtype: str) -> list[Node]:
    import torch

    from convatlas.nets.resolve import resolve
    from convatlas.study.dataflow import wired

    if isinstance(net, str):
        found = resolve(net)
        with torch.device("meta"):
            net, shape = found.build(), (batch, 3, found.size, found.size)
    else:
        shape = (batch, 3, 224, 224)
    return wired(net, shape)


def fusions(layer: Layer, nodes: Sequence[Node], gpu: GPU, dtype: str) -> list[Fusion]:
    """What the layer's epilogue saves, and what one kernel with each op that reads its output would.

    An intermediate is written once and read once by each of its readers; in one kernel it is neither.
    """
    from convatlas.model.time import FITTED

    size = itemsize(element_of(dtype))
    spec, epilogue = layer.spec, layer.epilogue
    out = prod(spec.output_shape) * size

    def saving(what: str, bytes: int, done: bool) -> Fusion:
        return Fusion(what, bytes, bytes / (FITTED.dram_share * gpu.dram_bytes_per_s) + FITTED.again, done)

    found = []
    if epilogue is not None:
        parts = [
            ("bias", epilogue.bias),
            ("the residual", epilogue.residual),
            (epilogue.activation, epilogue.activation),
        ]
        # As a kernel of its own each part would read the output and write it once more.
        found = [saving(f"{name} in its epilogue", 2 * out, True) for name, used in parts if used]
    here = [i for i, node in enumerate(nodes) if node.layer.path == layer.path and node.layer.key == layer.key]
    for i in here[:1]:
        readers = [node for node in nodes if any(i in source for source in node.sources)]
        for reader in readers:
            name = reader.layer.path or reader.layer.op
            only = "" if len(readers) == 1 else f", which leaves it to be written for {len(readers) - 1} other"
            bytes = out * (2 if len(readers) == 1 else 1)
            found.append(saving(f"{name} ({reader.layer.op}), which reads its output{only}", bytes, False))
        for source in dict.fromkeys(s for operand in nodes[i].sources for s in operand if s != IMAGE):
            before, count = nodes[source].layer, sum(any(source in s for s in node.sources) for node in nodes)
            name, only = (
                before.path or before.op,
                "" if count == 1 else f", which leaves it to be written for {count - 1} other",
            )
            bytes = prod(before.spec.output_shape) * size * (2 if count == 1 else 1)
            found.append(saving(f"{name} ({before.op}), whose output it reads{only}", bytes, False))
    return found


def why(one: Explanation) -> list[str]:
    """Why this config, in sentences."""
    if not one.candidates:
        return ["The launcher has one config for this layer: nothing was compared."]
    chosen = next(c for c in one.candidates if c.chosen)
    quicker = [c for c in one.candidates if c.mapped.seconds < chosen.mapped.seconds * 0.995]
    said = [
        f"The launcher compared {one.considered} configs by its own model (kernels/common/tiles.py, conv2d/configs_tma.py or "
        f"gemm/launch_cuda.py) and took {chosen.name}."
    ]
    if quicker:
        share = 100 * (1 - quicker[0].mapped.seconds / chosen.mapped.seconds)
        said.append(
            f"The time model, which is another one, has {quicker[0].name} quicker by {share:.0f} %: only a GPU can tell which is "
            "right."
        )
    else:
        said.append("By the time model too none of those listed is quicker.")
    for candidate in one.candidates:
        if not candidate.chosen:
            said.append(against(candidate, chosen))
    return said


def against(candidate: Candidate, chosen: Candidate) -> str:
    """How a runner-up differs from the chosen config, in a sentence."""
    a, b = candidate.mapped, chosen.mapped
    more = 100 * (a.seconds / b.seconds - 1)
    said = [f"predicted {a.seconds * 1e6:.1f} us, {abs(more):.0f} % {'more' if more >= 0 else 'less'}"]
    parts: dict[str, float] = {}
    for sign, side in ((1, a), (-1, b)):
        for launch in side.launches:
            for name, seconds in launch.time.parts.items():
                parts[name] = parts.get(name, 0.0) + sign * seconds
    name = max(parts, key=lambda part: parts[part] if more >= 0 else -parts[part])
    if abs(parts[name]) > 2e-7:
        said.append(f"{name} takes {abs(parts[name]) * 1e6:.1f} us {'more' if parts[name] > 0 else 'less'}")
    if abs(a.main.idle - b.main.idle) > 0.1:
        said.append(f"its last wave idles {100 * a.main.idle:.0f} % instead of {100 * b.main.idle:.0f} %")
    if a.waste is not None and b.waste is not None and a.waste - b.waste > 0.02:
        said.append(f"{100 * a.waste:.0f} % of its products are of no use instead of {100 * b.waste:.0f} %")
    if len(a.launches) > len(b.launches):
        said.append("it needs a second launch")
    return f"{candidate.name}: {', '.join(said)}."


def fused(one: Explanation) -> list[str]:
    """What fusing saves, in sentences."""
    if not one.fusions:
        return [
            "Nothing is fused behind it, and no neighbour is known: give a network and one of its layers to see its readers."
        ]
    said = [
        f"{'Fused already: ' if f.done else 'Not fused: '}{f.what}. {'Saves' if f.done else 'One kernel for both would save'} "
        f"{f.bytes / 1e6:.1f} MB not written and read, predicted {f.seconds * 1e6:.1f} us."
        for f in one.fusions
    ]
    if not all(f.done for f in one.fusions):
        said.append(
            "What a kernel for two layers would have to compute twice, or keep, where windows overlap is not reckoned."
        )
    return said


def notes(one: Explanation) -> list[str]:
    """What a reader must know."""
    said = [PREDICTED]
    if one.layer.note:
        said.append(f"registers and occupancy are not known: {one.layer.note}")
    if one.found.gpu.name != "h100-sxm":
        said.append(f"no time measured on the {one.found.gpu.title} was ever compared with the model")
    return said
