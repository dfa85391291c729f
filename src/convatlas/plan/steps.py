"""What a plan is made of: values, weights, and the steps that turn some values into others. No step knows where its values lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convatlas.call import Call

OURS, TORCH, VIEW, COPY = "convatlas", "torch", "view", "copy"


class Ref(NamedTuple):
    """A value by name, where a step's operand or argument is one."""

    name: str


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input.

    Attributes:
        name: its own.
        shape, dtype: as PyTorch has them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that depends on parameters and buffers only, so that it is computed once and kept until one of them changes.

    Attributes:
        name: for people.
        shape, dtype: as PyTorch has them.
        make: computes it; its argument turns a name of the module's state, or another Weight, into a tensor.
        sources: names in the module's state that it depends on.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[Callable[[Any], Tensor]], Tensor]
    sources: frozenset[str] = frozenset()

    def then(self, name: str, change: Callable[[Tensor], Tensor], like: Any = None) -> Weight:
        """change(this), of the shape and dtype of `like`, or of this."""
        like = self if like is None else like
        return Weight(name, tuple(like.shape), like.dtype, lambda get: change(get(self)), self.sources)


Operand = Ref | Weight


@dataclass(frozen=True)
class Step:
    """One op of a plan.

    Attributes:
        path: the module that it belongs to, such as "layer1.0.conv1"; "" for an op of the network's own forward.
        outputs: names of the values that it writes.
        call: what it computes, for an op of ours, whose tensors are `operands`; else None.
        operands: tensors by the names that the op has for them.
        target, args, keywords: PyTorch's op and its arguments, with Ref and Weight where tensors were.
        kind: who runs it: OURS, TORCH; VIEW where it only looks at memory in another way; COPY where it moves elements only.
        index: which result of `target` a VIEW is (split); None for the only one.
        merged: paths of what the passes fused into it.
    """

    path: str
    outputs: tuple[str, ...]
    call: Call | None = None
    operands: dict[str, Operand] = field(default_factory=dict)
    target: Any = None
    args: tuple = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    kind: str = TORCH
    index: int | None = None
    merged: tuple[str, ...] = ()

    @property
    def op(self) -> str:
        """The op's name: ours, or PyTorch's."""
        return self.call.op if self.call else self.kind if self.kind == COPY else name_of(self.target)

    @property
    def output(self) -> str:
        """The value that it writes, of a step that writes one."""
        return self.outputs[0]

    @property
    def inputs(self) -> list[str]:
        """Names of the values that it reads, one for each time."""
        found = (self.operands, self.args, self.keywords)
        return [leaf.name for leaf in leaves(found) if isinstance(leaf, Ref)]

    @property
    def weights(self) -> list[Weight]:
        """The weights that it reads."""
        return [leaf for leaf in leaves((self.operands, self.args, self.keywords)) if isinstance(leaf, Weight)]


@dataclass
class Graph:
    """The steps of a plan in the order in which they run, and what they read and write.

    Attributes:
        inputs: names of the values that a caller gives.
        outputs: what a caller gets: values, weights, and constants that are no tensors.
        values: by name.
        steps: in order.
        strides: of the outputs as PyTorch returns them, by value.
        rebuild: makes of the list of outputs what the module returns.
        torch_peak: bytes of activations that PyTorch has at most at once, running the same network.
        torch_layers: ops that PyTorch launches for it, views not counted.
    """

    inputs: list[str]
    outputs: list[Any]
    values: dict[str, Value]
    steps: list[Step]
    strides: dict[str, tuple[int, ...]]
    rebuild: Callable[[list[Any]], Any]
    torch_peak: int = 0
    torch_layers: int = 0

    @property
    def weights(self) -> list[Weight]:
        """All weights that its steps read, and those that a caller gets."""
        returned = [out for out in self.outputs if isinstance(out, Weight)]
        return [weight for step in self.steps for weight in step.weights] + returned

    @property
    def users(self) -> Counter[str]:
        """How often each value is read, the caller counted."""
        count = Counter(name for step in self.steps for name in step.inputs)
        count.update(out.name for out in self.outputs if isinstance(out, Ref))
        return count

    @property
    def producers(self) -> dict[str, int]:
        """The place of the step that writes each value."""
        return {name: i for i, step in enumerate(self.steps) for name in step.outputs}


def leaves(value: Any) -> Iterator[Any]:
    """What lies in nested tuples, lists and dicts; a Ref is a leaf."""
    if isinstance(value, (tuple, list)) and not isinstance(value, Ref):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nested tuples, lists and dicts with every leaf changed."""
    if isinstance(value, (tuple, list)) and not isinstance(value, Ref):
        return type(value)(mapped(part, change) for part in value)
    if isinstance(value, dict):
        return {name: mapped(part, change) for name, part in value.items()}
    return change(value)


def name_of(target: Any) -> str:
    """PyTorch's name of an op: "silu" for torch.ops.aten.silu.default."""
    schema = getattr(target, "_schema", None)
    return schema.name.split("::")[-1] if schema is not None else getattr(target, "__name__", str(target))
