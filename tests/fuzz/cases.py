"""A case: an op, a backend, and arguments in which tensors are described rather than held, so that it prints as Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64", "int64", "bool")}


class Short:
    """A dataclass that prints as the call that makes it, without the arguments that equal their defaults."""

    def __repr__(self) -> str:
        parts = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.default is MISSING and f.default_factory is MISSING:
                parts.append(repr(value))
            elif f.default is MISSING or value != f.default:
                parts.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class T(Short):
    """A tensor to be made.

    Attributes:
        shape, dtype: its own.
        layout: how it lies in memory, a key of LAYOUTS; "meta" has no memory, "everywhere" is one number at stride 0.
        data: what is in it, a key of DATA.
        seed: of the data, and of what the layout leaves open.
        scale: every number is multiplied by it.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    data: str = "normal"
    seed: int = 0
    scale: float = 1.0

    def make(self) -> Tensor:
        """The tensor; an equal one every time."""
        dtype = DTYPES[self.dtype]
        if self.layout == "meta":
            return torch.empty(self.shape, dtype=dtype, device="meta")
        generator = torch.Generator().manual_seed(self.seed)
        if self.layout == "everywhere":
            return (DATA[self.data]((1,), dtype, generator) * self.scale).to(dtype).expand(self.shape)
        x = DATA[self.data](self.shape, dtype, generator)
        if self.scale != 1:
            x = x * self.scale
        return LAYOUTS[self.layout](x.to(dtype), random.Random(self.seed))


@dataclass(frozen=True, repr=False)
class Case(Short):
    """One call.

    Attributes:
        op: the public name.
        backend: the argument of that name; None leaves it out.
        args: the other arguments by name; a T, or a list of them, stands for its tensor.
        out: where the result goes, a key of fuzz.outs.OUTS; None leaves it out.
        mode: "call"; "jvp" for a forward-mode derivative; "threads" for the same call in four threads at once.
    """

    op: str
    backend: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    out: str | None = None
    mode: str = "call"


def made(value: Any) -> Any:
    """An argument as the op gets it."""
    if isinstance(value, list):
        return [made(v) for v in value]
    return value.make() if isinstance(value, T) else value


# What is in a tensor: functions (shape, dtype, generator) -> tensor


def _integers(shape: tuple, dtype: torch.dtype, g: torch.Generator) -> Tensor:
    """Small integers of which half are zero: sums of their products are exact, and maxima have ties."""
    return (torch.randint(-2, 3, shape, generator=g) * torch.randint(0, 2, shape, generator=g)).float()


def _sprinkled(*values: float) -> Callable[[tuple, torch.dtype, torch.Generator], Tensor]:
    def make(shape: tuple, dtype: torch.dtype, g: torch.Generator) -> Tensor:
        x, which = torch.randn(shape, generator=g), torch.randint(0, len(values), shape, generator=g)
        return torch.where(torch.rand(shape, generator=g) < 0.1, torch.tensor(values)[which], x)

    return make


def _subnormal(shape: tuple, dtype: torch.dtype, g: torch.Generator) -> Tensor:
    """Multiples of the dtype's smallest subnormal, none of them normal."""
    least = torch.finfo(dtype).tiny * torch.finfo(dtype).eps if dtype.is_floating_point else 1.0
    steps = int(1 / torch.finfo(dtype).eps) if dtype.is_floating_point else 100
    return torch.randint(1 - steps, steps, shape, generator=g).double() * least


DATA: dict[str, Callable[[tuple, torch.dtype, torch.Generator], Tensor]] = {
    "normal": lambda shape, dtype, g: torch.randn(shape, generator=g),
    "integers": _integers,
    "infinite": _sprinkled(inf, -inf),
    "nan": _sprinkled(nan, inf, -inf, -0.0, 0.0),
    "subnormal": _subnormal,
    "minus infinity": lambda shape, dtype, g: torch.full(shape, -inf),
    "zeros": lambda shape, dtype, g: torch.zeros(shape),
    "positive": lambda shape, dtype, g: torch.rand(shape, generator=g) + 0.1,
}

# How it lies in memory: functions (contiguous tensor, rng) -> tensor of its shape and values (of some of them, if expanded)


def _channels_last(x: Tensor, rng: random.Random) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _sliced(x: Tensor, rng: random.Random) -> Tensor:
    """Every second index of every dimension of a larger tensor, from the second on, with NaN between."""
    whole = torch.full([2 * n + 1 for n in x.shape], nan).to(x.dtype)
    return whole[tuple(slice(1, 2 * n + 1, 2) for n in x.shape)].copy_(x)


def _channel_slice(x: Tensor, rng: random.Random) -> Tensor:
    """Some channels of a wider channels_last tensor."""
    if x.dim() != 4:
        return _sliced(x, rng)
    N, C, H, W = x.shape
    before, after = rng.choice([(0, 3), (1, 0), (8, 8), (3, 2)])
    whole = torch.full((N, H, W, before + C + after), nan).to(x.dtype)
    return whole[..., before : before + C].permute(0, 3, 1, 2).copy_(x)


def _permuted(x: Tensor, rng: random.Random) -> Tensor:
    order = rng.sample(range(x.dim()), x.dim())
    return x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])


def _expanded(x: Tensor, rng: random.Random) -> Tensor:
    """Stride 0 along at least one dimension of more than one element, where there is one."""
    wide = [d for d in range(x.dim()) if x.shape[d] > 1]
    chosen = {d for d in wide if rng.random() < 0.4} | {rng.choice(wide)} if wide else set()
    first = x[tuple(slice(0, 1) if d in chosen else slice(None) for d in range(x.dim()))]
    return first.clone().expand(x.shape)


def _offset(x: Tensor, rng: random.Random) -> Tensor:
    """Contiguous, beginning at an odd element of its storage."""
    start = rng.choice([1, 3, 7])
    whole = torch.full((x.numel() + start + 1,), nan).to(x.dtype)
    return whole[start : start + x.numel()].view(x.shape).copy_(x)


LAYOUTS: dict[str, Callable[[Tensor, random.Random], Tensor]] = {
    "contiguous": lambda x, rng: x,
    "channels_last": _channels_last,
    "channel slice": _channel_slice,
    "sliced": _sliced,
    "permuted": _permuted,
    "expanded": _expanded,
    "offset": _offset,
}
