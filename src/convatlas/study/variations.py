"""What-if: a layer with another batch or other channels, and the nearest ones that fill the last wave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from convatlas.errors import ArgumentError, ConvAtlasError, ShapeError
from convatlas.model.gpu import GPU
from convatlas.model.time import waves
from convatlas.names import spelled
from convatlas.specs import ConcatSpec, LinearSpec, Spec
from convatlas.study.layer import Layer
from convatlas.study.mapping import LayerMap

# What may be changed, and what it is; "channels" of a depthwise convolution or of what has no filters are both.
NAMES = {"batch": "images", "channels": "input channels", "filters": "output channels"}
FULL = 0.05  # a last wave of which no more than this share idles counts as full
TRIED = 64  # sizes that are tried on either side


def changed(layer: Layer, wanted: str) -> Layer:
    """The layer with `wanted`, such as "channels=96", "filters=128" or "batch=64,channels=96"; its path says what was changed.

    Raises ArgumentError, with the nearest names, for what is no such change, ShapeError where the layer cannot have that size.
    """
    spec = layer.spec
    for part in wanted.split(","):
        found = re.fullmatch(r"\s*([\w-]+)\s*=\s*(\d+)\s*", part)
        if found is None:
            raise ArgumentError(f"what-if {wanted!r}, expected one like channels=96, filters=128 or batch=64")
        name = spelled(found[1], NAMES, "what-if", f"expected one of {', '.join(NAMES)}", ArgumentError)
        spec = sized(spec, name, int(found[2]))
    return replace(layer.of(spec), path=f"{layer.path or layer.op} [{wanted}]")


def sized(spec: Spec, name: str, n: int) -> Spec:
    """The spec with `n` images, input channels or filters. Raises ShapeError where it cannot have them."""
    if n < 1:
        raise ShapeError(f"{name}={n}, expected at least 1")
    if isinstance(spec, ConcatSpec):
        if name != "batch" or spec.dim == 0:
            raise ShapeError(f"{name}={n} of a concatenation: which of its inputs has them is not said")
        return replace(spec, shapes=tuple((n, *shape[1:]) for shape in spec.shapes))
    if isinstance(spec, LinearSpec):
        if name == "batch":
            return replace(spec, lead=(n, *spec.lead[1:]))
        return replace(spec, **{{"channels": "C", "filters": "K"}[name]: n})
    if not hasattr(spec, "N"):
        shape = spec.output_shape
        if len(shape) < 2:
            raise ShapeError(f"{name}={n} of a tensor of shape {shape}, expected one with channels")
        place = 0 if name == "batch" else 1
        return replace(spec, shape=(*shape[:place], n, *shape[place + 1 :]))
    if name == "batch":
        return replace(spec, N=n)
    if not hasattr(spec, "K"):
        return replace(spec, C=n)
    groups = spec.groups
    if spec.layer_kind == "depthwise":
        if spec.K % spec.C:
            raise ShapeError(f"{name}={n} of {spec}, whose filters are no multiple of its channels")
        times = spec.K // spec.C
        channels = n if name == "channels" else n // times
        return replace(spec, C=channels, K=channels * times, groups=channels)
    if n % groups:
        raise ShapeError(f"{name}={n} of {groups} groups, expected a multiple of {groups}")
    return replace(spec, **{{"channels": "C", "filters": "K"}[name]: n})


@dataclass(frozen=True)
class Filling:
    """The nearest size at which the last wave is full.

    Attributes:
        name: one of NAMES.
        given, size: what the layer has, and what would fill; None where none within reach does.
        waves, idle: at that size.
    """

    name: str
    given: int
    size: int | None
    waves: float | None = None
    idle: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "what": self.name, "given": self.given, "size": self.size, "waves": self.waves, "idle_last_wave": self.idle,
        }  # fmt: skip

    def __str__(self) -> str:
        if self.size is None:
            return f"{self.name} {self.given}: none nearby fills the last wave"
        kept = "fills it already" if self.size == self.given else f"{self.size} would"
        return f"{self.name} {self.given}: {kept}, {self.waves:.2f} waves, {100 * self.idle:.0f} % of the last idle"


def filling(one: LayerMap, gpu: GPU, dtype: str, names: Sequence[str] = ("batch", "filters")) -> list[Filling]:
    """For each name the nearest size whose last wave idles at most FULL, by the launch that stands for the layer.

    The config is chosen anew for every size. Sizes whose kernel or tile differs are passed over, since how many blocks of it an SM
    holds is not known. Nothing where the layer was not compiled.
    """
    held = one.main.occupancy
    if held is None or not held.blocks:
        return []
    return [found for name in names if (found := _nearest(one, gpu, dtype, name, held.blocks)) is not None]


def _nearest(one: LayerMap, gpu: GPU, dtype: str, name: str, blocks: int) -> Filling | None:
    given = _size(one.layer.spec, name)
    if given is None:
        return None
    step = 1 if name == "batch" else 8 if given % 8 == 0 else 1
    for size in _around(given, step):
        try:
            work = _main(one, sized(one.layer.spec, name, size), gpu, dtype)
        except ConvAtlasError:
            continue
        if work is None:
            continue
        held, idle = waves(work, blocks, gpu)
        if idle <= FULL:
            return Filling(name, given, size, held, idle)
    return Filling(name, given, None)


def _around(given: int, step: int) -> Iterator[int]:
    """`given`, then sizes farther and farther from it, the larger one first."""
    yield given
    for i in count(1):
        if i > TRIED:
            return
        yield given + i * step
        if given - i * step > 0:
            yield given - i * step


def _size(spec: Spec, name: str) -> int | None:
    if name == "batch":
        return getattr(spec, "N", None) or spec.output_shape[0]
    return getattr(spec, "K", None) if name == "filters" else getattr(spec, "C", None)


def _main(one: LayerMap, spec: Spec, gpu: GPU, dtype: str) -> Any:
    """The launch that stands for the layer in other sizes; None where its kernel is another one than what was compiled."""
    from convatlas.codegen.inventory import launches_of
    from convatlas.kernels.common.target import of
    from convatlas.kernels.common.work import works
    from convatlas.study.mapping import element_of

    call = replace(one.layer.call, spec=spec, dtype=element_of(dtype))
    found = works(call, launches_of(call, dtype, of(gpu), one.backend), element_of(dtype))
    main = next((work for work in found if work.gemm), found[0])
    before = one.main.work
    same = (main.kernel, main.config, str(main.tile)) == (before.kernel, before.config, str(before.tile))
    return main if same else None
