"""A net in numbers: a row an op, and the totals, as `convatlas summary` prints them. All from shapes: nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from convatlas.errors import ConvAtlasError, NetError, ShapeError
from convatlas.nets import create, info
from convatlas.specs import Conv2dSpec, ConvTranspose2dSpec, LinearSpec, Pool2dSpec, dtype_name, itemsize
from convatlas.study.layer import IMAGE, Layer, Node, Uncounted, by_name
from convatlas.study.receptive import Fields, fields

if TYPE_CHECKING:
    from torch import nn

    from convatlas.nets.resolve import Found

KINDS = ("1x1", "3x3", "depthwise", "fc", "other")

COUNTED = (
    "parameters: learned numbers as the state_dict has them, those of a folded batch norm (weight, bias) with their convolution, "
    "shared ones once; no running statistics",
    "MACs: of convolutions, linear layers and torch's other products, those with padding's zeros included; 1 MAC = 2 FLOPs",
    "FLOPs: 2 a MAC, and those of pooling, normalisation and additions of their own; what is fused behind a layer (bias, residual, "
    "activation) is not counted",
    "bytes: compulsory, each input, weight and output once, with the operands fused behind it; intensity: FLOPs a byte",
    "activations: the image and every op's output; peak: the most alive at once",
    "receptive field: pixels that an output can depend on, padding included; where paths meet, the smallest field that holds "
    "every path's",
)


@dataclass(frozen=True)
class Row:
    """One op of a net.

    Attributes:
        layer: path, op, spec, epilogue.
        parameters: learned numbers that are used here first.
        bytes: compulsory bytes in the summary's dtype, the epilogue's operands included.
        fields: receptive field along H and W.
        sources: rows each image-dependent operand comes from (study.dataflow.Node).
    """

    layer: Layer
    parameters: int
    bytes: int
    fields: Fields
    sources: tuple[tuple[int, ...], ...] = ()

    @property
    def path(self) -> str:
        return self.layer.path or self.layer.op

    @property
    def spec(self) -> Any:
        return self.layer.spec

    @property
    def macs(self) -> int:
        return self.spec.macs

    @property
    def flops(self) -> int:
        return self.spec.flops

    @property
    def intensity(self) -> float:
        """FLOPs a compulsory byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def weighted(self) -> bool:
        """Whether it counts as a layer of the net's depth: a convolution, a transposed one or a linear layer."""
        return self.spec.products

    @property
    def kind(self) -> str:
        """The kind that its work counts as, one of KINDS; "" for an op without MACs.

        A grouped 3x3 that is not depthwise is a 3x3.
        """
        if isinstance(self.spec, LinearSpec):
            return "fc"
        if not isinstance(self.spec, Conv2dSpec):
            return "other" if self.macs else ""
        if self.spec.kind == "depthwise":
            return "depthwise"
        window = f"{self.spec.R}x{self.spec.S}"
        return window if window in KINDS else "other"

    @property
    def window(self) -> str:
        """Kernel, stride and groups in short: "3x3 /2 g32"; "" where there is no window."""
        if not isinstance(self.spec, (Conv2dSpec, ConvTranspose2dSpec, Pool2dSpec)):
            return ""
        u, v = self.spec.stride
        stride = "" if (u, v) == (1, 1) else f" /{u}" if u == v else f" /{u}x{v}"
        groups = getattr(self.spec, "groups", 1)
        return f"{self.spec.R}x{self.spec.S}{stride}{f' g{groups}' if groups > 1 else ''}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV: one flat row of exact numbers."""
        spec, shape = self.spec, getattr(self.spec, "input_shape", None)
        if isinstance(spec, LinearSpec):
            shape = (*spec.lead, spec.C)
        high, wide = self.fields
        same = high == wide

        def both(name: str) -> Any:
            a, b = getattr(high, name), getattr(wide, name)
            return a if same else f"{a}x{b}"

        return {
            "path": self.path,
            "op": self.layer.op,
            "run_by": self.layer.run_by,
            "input_shape": "x".join(map(str, shape or spec.output_shape)),
            "output_shape": "x".join(map(str, spec.output_shape)),
            "window": self.window,
            "epilogue": str(self.layer.epilogue or "none"),
            "parameters": self.parameters,
            "macs": self.macs,
            "flops": self.flops,
            "bytes": self.bytes,
            "intensity": round(self.intensity, 4),
            "receptive_field": both("size"),
            "jump": both("jump"),
            "start": both("start"),
        }


@dataclass(frozen=True)
class Summary:
    """A net's rows and their totals.

    Attributes:
        name: the net's name.
        input_shape, dtype: what it was traced with.
        rows: in the order in which they run.
        parameters: parameters of the whole net, whether they are used in this mode or not.
        uncounted: the other ops of torch that the net ran and no spec describes, most of them element by element.
    """

    name: str
    input_shape: tuple[int, ...]
    dtype: str
    rows: tuple[Row, ...] = field(repr=False)
    parameters: int
    uncounted: tuple[Uncounted, ...] = field(default=(), repr=False)

    @property
    def warning(self) -> str:
        """A line that names what is in no number of this summary; "" where all that ran is counted."""
        if not self.uncounted:
            return ""
        return f"run but NOT counted, convatlas has no spec for it: {by_name(self.uncounted)}"

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def flops(self) -> int:
        return sum(row.flops for row in self.rows)

    @property
    def bytes(self) -> int:
        """Compulsory bytes of all ops: what one kernel writes and the next reads is counted twice."""
        return sum(row.bytes for row in self.rows)

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def idle_parameters(self) -> int:
        """Those of modules that did not run, such as GoogLeNet's auxiliary heads at inference."""
        return self.parameters - sum(row.parameters for row in self.rows)

    @property
    def activations(self) -> int:
        """Numbers in the image and in every op's output."""
        return prod(self.input_shape) + sum(prod(row.spec.output_shape) for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        return self.activations * itemsize(self.dtype)

    @cached_property
    def alive_bytes(self) -> list[int]:
        """Bytes of activations alive while each row runs: a tensor lives from its op to the last op that reads it."""
        last = {IMAGE: -1} | {i: i for i in range(len(self.rows))}
        for i, row in enumerate(self.rows):
            last.update((source, i) for operand in row.sources for source in operand)
        sizes = {IMAGE: prod(self.input_shape)} | {i: prod(r.spec.output_shape) for i, r in enumerate(self.rows)}
        alive = [sum(n for j, n in sizes.items() if j <= i <= last[j]) for i in range(len(self.rows))]
        return [n * itemsize(self.dtype) for n in alive]

    @property
    def peak_bytes(self) -> int:
        """The most bytes of activations alive at once."""
        return max(self.alive_bytes, default=prod(self.input_shape) * itemsize(self.dtype))

    @cached_property
    def depth(self) -> int:
        """Weighted layers on the longest path from the image to an output, as papers count a net's layers."""
        return max(self.depths, default=0)

    @property
    def depths(self) -> list[int]:
        """For each row, the weighted layers on the longest path from the image to its output."""
        found: list[int] = []
        for row in self.rows:
            before = [found[i] for operand in row.sources for i in operand if i != IMAGE]
            found.append(max(before, default=0) + row.weighted)
        return found

    def share(self, kind: str, of: str = "macs") -> float:
        """The part of the net's `of` ("macs", "parameters" or "bytes") that is in rows of this kind, from 0 to 1."""
        total = sum(getattr(row, of) for row in self.rows)
        return sum(getattr(row, of) for row in self.rows if row.kind == kind) / total if total else 0.0

    def totals(self) -> dict[str, Any]:
        """For JSON: the exact totals."""
        return {
            "parameters": self.parameters,
            "parameters_not_used_here": self.idle_parameters,
            "weighted_layers": self.depth,
            "macs": self.macs,
            "flops": self.flops,
            "bytes": self.bytes,
            "intensity": round(self.intensity, 4),
            "activation_bytes": self.activation_bytes,
            "peak_activation_bytes": self.peak_bytes,
            "share_of_macs": {kind: round(self.share(kind), 6) for kind in KINDS},
        }


def summarise(
    name: str, size: int | None = None, batch: int = 1, dtype: str = "float16", *, train: bool = False, **options: Any
) -> Summary:
    """The summary of the net called `name` on `batch` images of size x size pixels (None: its own size).

    Args:
        dtype: that bytes are counted in.
        train: in training mode, where auxiliary heads run and batch norms are not folded.
        options: as nets.create takes them.

    Raises NetError for an unknown net, ShapeError for a size that it cannot take, DtypeError for an unknown dtype.
    """
    row = info(name)
    for what, value in (("size", row.size if size is None else size), ("batch", batch)):
        if value < 1:
            raise ShapeError(f"summary: {what}={value}, expected at least 1")
    side = size or row.size
    import torch

    with torch.device("meta"):  # no memory and no random numbers: only shapes are asked for
        net = create(name, **options)
    return summarise_net(net.train(train), (batch, 3, side, side), dtype, row.name)


def summarise_found(found: Found, input_shape: tuple[int, ...], dtype: str) -> Summary:
    """The summary of what nets.resolve found. That may be a user's net, so whatever it raises becomes a NetError of one line."""
    import torch

    try:
        with torch.device("meta"):
            net = found.build()
        return summarise_net(net, input_shape, dtype, found.name)
    except ConvAtlasError:
        raise
    except Exception as error:
        shape = "x".join(map(str, input_shape))
        lines = str(error).strip().splitlines() or [""]
        raise NetError(f"{found.name} on an input of {shape}: {type(error).__name__}: {lines[0]}") from error


def summarise_net(net: nn.Module, input_shape: tuple[int, ...], dtype: str, name: str = "") -> Summary:
    """The summary of any net, of our ops, of torch's or of both, in the mode that it is in.

    What no spec describes is named in the summary's `uncounted`. Raises as study.trace.
    """
    import torch

    from convatlas.study.dataflow import observed_run

    sizes = {name: p.numel() for name, p in net.named_parameters()}
    dtype = dtype_name(dtype)
    nodes, uncounted = observed_run(net, input_shape, getattr(torch, dtype))
    rows = rows_of(nodes, sizes, dtype)
    return Summary(name or type(net).__name__, tuple(input_shape), dtype, rows, sum(sizes.values()), tuple(uncounted))


def rows_of(nodes: Sequence[Node], sizes: dict[str, int], dtype: str) -> tuple[Row, ...]:
    """A row a node; `sizes` are the net's parameters by name, each given to the first row that uses it."""
    left, rows = dict(sizes), []
    for node, seen in zip(nodes, fields(nodes)):
        used = sum(left.pop(name, 0) for name in node.weights)
        moved = node.layer.spec.bytes(dtype, node.layer.epilogue)
        rows.append(Row(node.layer, used, moved, seen, node.sources))
    return tuple(rows)
