"""What is raced, in which order: layers and networks by precision and batch, the most wanted first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch

from convatlas import nets
from convatlas.bench.published import published
from convatlas.bench.timing import Protocol
from convatlas.call import Call
from convatlas.errors import InputError
from convatlas.nets import names
from convatlas.results.kinds import KINDS
from convatlas.specs import (
    Conv2dInputGradSpec,
    Conv2dSpec,
    Conv2dWeightGradSpec,
    ConvTranspose2dSpec,
    Epilogue,
    Spec,
)
from convatlas.specs.activations import FLOPS
from convatlas.study.tracing import Layer, trace

# Precision by name: the tensors' dtype, and what float32 products are computed in.
PRECISIONS = {
    "float16": (torch.float16, "ieee"),
    "bfloat16": (torch.bfloat16, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "float32": (torch.float32, "ieee"),
}
SHORT = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "ieee": "float32"}
BATCHES = (32, 1, 128)
# The lecture's, in the order in which their times are wanted.
MAIN = ("resnet50", "mobilenet_v2", "googlenet", "resnext50_32x4d", "vgg16", "alexnet", "squeezenet1_0")
# Cases that are checked and timed in a second at the very best: 15 samples of 200 us of four contestants, with their warm-up,
# their graphs and the float32 computation before them, take a quarter of one.
MOST_A_SECOND = 4
GRADIENTS = ("dgrad", "wgrad")
UNASKED = ("other", *GRADIENTS)  # kinds that race only where they are named
# (precision, batch), the most wanted first: a run that is cut short has these.
WAVES = (
    ("float16", 32), ("float16", 1), ("bfloat16", 32), ("tf32", 32), ("float32", 32), ("bfloat16", 1), ("tf32", 1), ("float32", 1),
    ("float16", 128), ("bfloat16", 128), ("tf32", 128), ("float32", 128),
)  # fmt: skip


def precision(name: str) -> str:
    """The full name of a precision. Raises InputError for an unknown one."""
    full = SHORT.get(name, name)
    if full not in PRECISIONS:
        raise InputError(f"dtype {name!r}, expected one of {', '.join([*PRECISIONS, *SHORT])}")
    return full


@dataclass
class Timed:
    """One layer, and where it occurs.

    Attributes:
        layer: op, spec, epilogue.
        places: how many times each net runs it.
    """

    layer: Layer
    places: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Readable and unique among layers of one batch size and dtype."""
        return " ".join([self.layer.op, str(self.layer.spec), fused(self.layer.epilogue)]).strip()


def fused(epilogue: Epilogue | None) -> str:
    """An epilogue as a name has it: "bias+residual+relu"; "" for none."""
    if epilogue is None:
        return ""
    parts = ["bias"] * epilogue.bias + ["residual"] * epilogue.residual + [epilogue.activation or ""]
    return "+".join(part for part in parts if part)


@cache
def layers_of(name: str, batch: int, size: int | None = None, **options: bool) -> tuple[Layer, ...]:
    """The layers of net `name` at `size` pixels or its own, as a half-precision net runs them; `options` are nets.create's."""
    size = size or nets.info(name).size
    with torch.device("meta"):
        return tuple(trace(nets.create(name, **options), (batch, 3, size, size), torch.float16))


def distinct(names: Sequence[str], batch: int) -> list[Timed]:
    """The distinct layers of the nets, in the order in which they are first met."""
    return counted((name, layer) for name in names for layer in layers_of(name, batch) if layer.op != "residual_add")


def residual_adds(names: Sequence[str], batch: int) -> list[Timed]:
    """residual_add as a kernel of its own: what ResNets launch where it is not fused into a convolution."""
    resnets = [name for name in names if nets.info(name).module == "resnet" and "plain" not in name]
    layers = ((name, layer) for name in resnets for layer in layers_of(name, batch, fuse_residual=False))
    return counted((name, layer) for name, layer in layers if layer.op == "residual_add")


def gradients(names: Sequence[str], batch: int) -> list[Timed]:
    """The gradients of the nets' convolutions by weight and, but for the image's, by input: what a backward pass runs."""
    found = []
    for timed in distinct(names, batch):
        if timed.layer.op == "conv2d":
            specs = gradients_of(timed.layer.spec)
            found += [
                (name, Layer(timed.layer.path, Call(op, spec)))
                for op, spec in specs.items()
                if timed.layer.spec.kind != "stem" or op == "conv2d_weight_grad"
                for name, count in timed.places.items()
                for _ in range(count)
            ]
    return counted(found)


def gradients_of(f: Conv2dSpec) -> dict[str, Spec]:
    """The specs of a convolution's gradients, by op."""
    dy, x, w = f.output_shape, f.input_shape, f.weight_shape
    return {
        "conv2d_input_grad": Conv2dInputGradSpec.of(dy, w, x, **f.arguments),
        "conv2d_weight_grad": Conv2dWeightGradSpec.of(dy, x, w, **f.arguments),
    }


def counted(layers: Iterable[tuple[str, Layer]]) -> list[Timed]:
    """The distinct ones among the (net, layer), each with its places."""
    found: dict[tuple, Timed] = {}
    for name, layer in layers:
        timed = found.setdefault(layer.key, Timed(layer))
        timed.places[name] = timed.places.get(name, 0) + 1
    return list(found.values())


@dataclass(frozen=True)
class Case:
    """One race.

    Attributes:
        suite: "layers", "gradients", "published", "networks" or "profile".
        precision: one of PRECISIONS.
        batch: images.
        protocol: cache, form, samples.
        layer: what is run; None for the network that `places` names.
        places: how many times each net runs it.
        pixels: of a network's square input; None is the network's own size.
    """

    suite: str
    precision: str
    batch: int
    protocol: Protocol
    layer: Layer | None
    places: dict[str, int]
    pixels: int | None = None

    @property
    def size(self) -> int:
        """Pixels of the network's input."""
        (name,) = self.places
        return self.pixels or nets.info(name).size

    @property
    def op(self) -> str:
        """The layer's, "net" for a network."""
        return self.layer.op if self.layer else "net"

    @property
    def spec(self) -> str:
        """The layer's in words, or the network and its input."""
        if self.layer:
            return described(self.layer.spec)
        (name,) = self.places
        return f"{name} {self.batch}x3x{self.size}x{self.size}"

    @property
    def epilogue(self) -> str:
        """What is fused, "" for nothing."""
        return fused(self.layer.epilogue if self.layer else None)

    @property
    def name(self) -> str:
        """Unique: the group of its entries in the store."""
        what = " ".join(part for part in (self.op, self.spec, self.epilogue) if part)
        return f"{what} | {self.precision} batch{self.batch} {self.protocol.cache} {self.protocol.form}"

    @property
    def kind(self) -> str:
        """One of kinds.KINDS."""
        return "network" if self.layer is None else self.layer.spec.layer_kind

    @property
    def priority(self) -> tuple[int, int, int]:
        """Sorts: the lecture's nets and published layers before the rest, then by wave, then by net."""
        wave = (self.precision, self.batch)
        found = [i for i, name in enumerate(MAIN) if name in self.places]
        rest = self.suite != "published" and not found
        return int(rest), WAVES.index(wave) if wave in WAVES else len(WAVES), found[0] if found else len(MAIN)


def _named(name: str, kind: str) -> bool:
    return name == kind or name in kind.split()


@dataclass(frozen=True)
class Choice:
    """What a user asked for. Raises InputError, NetError for names that are not known.

    Attributes:
        kinds: each by its name in kinds.KINDS or a word of it ("dense"); without any, all but "other" and gradients.
    """

    precisions: Sequence[str] = tuple(PRECISIONS)
    batches: Sequence[int] = BATCHES
    nets: Sequence[str] = ()
    protocol: Protocol = field(default_factory=Protocol)
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "nets", tuple(nets.info(name).name for name in self.nets))
        if any(batch < 1 for batch in self.batches):
            raise InputError(f"batches {list(self.batches)}, expected each to be at least 1")
        if unknown := [name for name in self.kinds if not any(_named(name, kind) for kind in KINDS)]:
            raise InputError(f"kind {unknown[0]!r}, expected some of {', '.join(KINDS)}")

    def wants(self, kind: str) -> bool:
        """Whether a kind was chosen."""
        return any(_named(name, kind) for name in self.kinds) if self.kinds else kind not in UNASKED

    @property
    def net_names(self) -> list[str]:
        """The chosen nets, by default all, the lecture's first."""
        return list(self.nets) if self.nets else [*MAIN, *(name for name in names() if name not in MAIN)]


def described(spec: Spec) -> str:
    """str(spec), and the padding where it is not the usual half of the window: two layers may differ in nothing else."""
    text, padding = str(spec), getattr(spec, "padding", None)
    if padding is not None:
        sides = [tuple(side) if isinstance(side, tuple) else (side, side) for side in padding]
        usual = [(reach // 2,) * 2 for reach in (spec.R, spec.S)]
        if sides != usual and (isinstance(spec, Conv2dSpec) or any(map(any, sides))):
            text += " pad" + "x".join(str(a) if a == b else f"{a}:{b}" for a, b in sides)
    return text + (" ceil" if getattr(spec, "ceil_mode", False) else "")


def suite_of(layer: Layer) -> str:
    """ "gradients" for a convolution's, else "layers": means over layers are of inference."""
    return "gradients" if layer.spec.layer_kind in GRADIENTS else "layers"


def layer_cases(choice: Choice) -> list[Case]:
    """The distinct layers of the chosen nets and kinds, the most wanted first."""
    found = [
        Case(suite_of(timed.layer), precision, batch, choice.protocol, timed.layer, timed.places)
        for batch in choice.batches
        for listed in (distinct, residual_adds, *(gradients,) * any(map(choice.wants, GRADIENTS)))
        for timed in listed(tuple(choice.net_names), batch)
        if choice.wants(timed.layer.spec.layer_kind)
        for precision in choice.precisions
        if precision != "tf32" or timed.layer.spec.products
    ]
    return sorted(found, key=lambda case: case.priority)


def published_cases(choice: Choice) -> list[Case]:
    """The published layers, at the batch sizes that they were published with; a layer in two lists once, with both named."""
    found = counted(published())
    return [
        Case("published", precision, timed.layer.spec.output_shape[0], choice.protocol, timed.layer, timed.places)
        for precision in sorted(choice.precisions, key=list(PRECISIONS).index)
        for timed in found
        if choice.wants(timed.layer.spec.layer_kind)
    ]


def net_protocol(samples: int) -> Protocol:
    """Networks' contestants have forms of their own, and the net's own traffic decides what the cache holds."""
    return Protocol("warm", "graph+eager", samples)


def net_cases(choice: Choice) -> list[Case]:
    """Whole networks."""
    found = [
        Case("networks", precision, batch, net_protocol(choice.protocol.samples), None, {name: 1})
        for name in choice.net_names
        if choice.wants("network")
        for batch in choice.batches
        for precision in choice.precisions
    ]
    return sorted(found, key=lambda case: case.priority)


def within_reach(cases: Iterable[Case], seconds: float) -> set[str]:
    """Names of the first cases, as many as `seconds` may be enough for at the very best, and at least one."""
    names = dict.fromkeys(case.name for case in cases)
    return set(list(names)[: max(1, int(seconds * MOST_A_SECOND))])


def shrink(layer: Layer) -> Layer:
    """A layer of the same kind, window, stride and epilogue that a CPU computes in no time: one image, few pixels and channels."""
    spec = layer.spec
    if isinstance(spec, (Conv2dInputGradSpec, Conv2dWeightGradSpec)):
        forward = shrink(Layer("", Call("conv2d", spec.forward))).spec
        return layer.of(gradients_of(forward)[layer.op])
    if isinstance(spec, Conv2dSpec):
        groups = min(spec.groups, 16 if spec.kind == "depthwise" else 4)
        C, K = (groups * min(channels // spec.groups, 16) for channels in (spec.C, spec.K))
        pads = [sum(side) for side in spec.padding]
        H, W = (min(size, max(8, reach - pad)) for size, reach, pad in zip((spec.H, spec.W), spec.reach, pads))
        return layer.of(replace(spec, N=1, C=C, K=K, H=H, W=W, groups=groups))
    if isinstance(spec, ConvTranspose2dSpec):
        groups = min(spec.groups, 4)
        C, K = (groups * min(channels // spec.groups, 16) for channels in (spec.C, spec.K))
        return layer.of(replace(spec, N=1, C=C, K=K, H=min(spec.H, 8), W=min(spec.W, 8), groups=groups))
    if layer.op in ("max_pool2d", "avg_pool2d"):
        return layer.of(replace(spec, N=1, C=min(spec.C, 16), H=min(spec.H, 8), W=min(spec.W, 8)))
    if layer.op in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return layer.of(replace(spec, N=1, C=min(spec.C, 16)))
    if layer.op == "linear":
        return layer.of(replace(spec, lead=(1,), C=min(spec.C, 64), K=min(spec.K, 16)))
    if layer.op == "channel_scale":
        _, C, H, W = spec.shape
        C = min(C, 16)
        return layer.of(replace(spec, shape=(1, C, min(H, 8), min(W, 8)), scale=(1, C, 1, 1)))
    if layer.op in ("residual_add", "batch_norm", "local_response_norm", *FLOPS) and len(spec.shape) == 4:
        _, C, H, W = spec.shape
        return layer.of(replace(spec, shape=(1, min(C, 16), min(H, 8), min(W, 8))))
    return layer
