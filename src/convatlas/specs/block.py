"""BlockSpec: several ops as one, a chain (or a small graph) whose middle maps never reach DRAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from convatlas.errors import ShapeError
from convatlas.specs.common import Epilogue, Shapes, Spec, itemsize

INPUT = "input"  # what the block reads from outside, beside weights


@dataclass(frozen=True)
class Part:
    """One op of a block.

    Attributes:
        name: its own in the block, such as "expand"; the block calls its weights "expand.weight" and so on.
        op: the public op's name.
        spec: shapes and shape arithmetic of the op alone.
        epilogue: what is fused behind it.
        reads: where those of its operands come from that are no weights, by the op's names for them: INPUT, or an earlier part.
    """

    name: str
    op: str
    spec: Spec
    epilogue: Epilogue | None = None
    reads: tuple[tuple[str, str], ...] = (("input", INPUT),)

    @property
    def sources(self) -> dict[str, str]:
        """`reads` as a dict."""
        return dict(self.reads)

    @property
    def operands(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Each operand's name in the block and its shape, by the op's name for it; one that another part makes has that part's."""
        sources = self.sources
        shapes = self.spec.operands(self.epilogue)
        return {name: (sources.get(name, f"{self.name}.{name}"), shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class BlockSpec(Spec):
    """Parts that run as one kernel. The last part's result is the block's; results of the others are rounded to `stored` and stay
    on the chip.

        value[part] = activation(op(value[source], weights) + bias + value[residual])      for each part in turn

    Attributes:
        pattern: which fused pattern it is (plan/blocks.py), and the folder of its kernels.
        parts: in the order in which one needs the other.
        stored: the dtype, by name, in which a kernel keeps the maps between two parts.
    """

    pattern: str
    parts: tuple[Part, ...] = ()
    stored: str = "float16"
    products: ClassVar[bool] = True

    @classmethod
    def of(cls, pattern: str, parts: tuple[Part, ...], stored: str) -> BlockSpec:
        """Raises ShapeError for a part that reads what no earlier part makes, or a map of another size."""
        spec = cls(pattern, tuple(parts), stored)
        itemsize(stored)
        made: Shapes = {}
        for part in spec.parts:
            for name, source in part.reads:
                shape = part.spec.operands(part.epilogue)[name]
                if source == INPUT:
                    made.setdefault(INPUT, shape)
                if source not in made:
                    raise ShapeError(f"{pattern}: {part.name} reads {source!r}, expected {INPUT!r} or an earlier part")
                if _size(made[source]) != _size(shape):
                    raise ShapeError(f"{pattern}: {part.name} reads {source} of {made[source]}, expected {shape}")
            made[part.name] = part.spec.output_shape
        if not spec.parts:
            raise ShapeError(f"{pattern}: no parts, expected at least one")
        return spec

    def part(self, name: str) -> Part | None:
        """The part of this name."""
        return next((part for part in self.parts if part.name == name), None)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.parts[-1].spec.output_shape

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.inputs[INPUT]

    @property
    def inputs(self) -> Shapes:
        """The block's operands: its input, and each part's weights and biases as "part.weight" and "part.bias"."""
        made = {part.name for part in self.parts}
        given = [pair for part in self.parts for pair in part.operands.values() if pair[0] not in made]
        return dict(sorted(given, key=lambda pair: pair[0] != INPUT))

    @property
    def elements(self) -> dict[str, int]:
        """Each operand once, the output once: what is between the parts does not move."""
        counted = {INPUT: 0}
        for part in self.parts:
            own = part.spec.elements
            for name, (source, shape) in part.operands.items():
                count = own[name] if name in own else _size(shape)
                if source == INPUT:  # what some part reads of it, and what another reads may be less
                    counted[INPUT] = max(counted[INPUT], count)
                elif "." in source:
                    counted[source] = count
        return {**counted, "output": _size(self.output_shape)}

    @property
    def apart(self) -> int:
        """Elements that move where each part is a launch of its own."""
        total = 0
        for part in self.parts:
            own = part.spec.elements
            added = (name for name in part.operands if name not in own)
            total += sum(own.values()) + sum(_size(part.operands[name][1]) for name in added)
        return total

    @property
    def macs(self) -> int:
        return sum(part.spec.macs for part in self.parts)

    @property
    def flops(self) -> int:
        return sum(part.spec.flops for part in self.parts)

    @property
    def parameters(self) -> int:
        return sum(part.spec.parameters for part in self.parts)

    @property
    def reduction(self) -> int:
        """The longest sum of any part."""
        return max(getattr(part.spec, "reduction", 1) for part in self.parts)

    @property
    def reductions(self) -> dict[str, int]:
        return {f"{part.name}.{name}": length for part in self.parts for name, length in part.spec.reductions.items()}

    def __str__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        shown = [_short(part) for part in self.parts]
        if len(shown) > 6:
            shown = [*shown[:2], f"... {len(shown) - 3} more", shown[-1]]
        return f"{self.pattern} {shape} -> " + " -> ".join(shown)


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _short(part: Part) -> str:
    """ "96x56x56 3x3/2": a part's map, and its window where it has one."""
    spec, shape = part.spec, "x".join(map(str, part.spec.output_shape[1:]))
    window = f" {spec.R}x{spec.S}" if hasattr(spec, "R") else f" {part.op}"
    stride = getattr(spec, "stride", (1, 1))[0]
    return shape + window + (f"/{stride}" if stride > 1 else "")
