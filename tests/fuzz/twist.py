"""From a right case to one that is wrong or at an edge: another out, odd arguments, integers near 2^31, threads, derivatives."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import torch

from fuzz import like_torch
from fuzz.cases import Case, T
from fuzz.draw import DTYPES, OPS, Draw
from fuzz.outs import OUTS

EDGES = (2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**40, 2**62, 2**63 - 1, 2**63, -(2**31), -(2**63))
WINDOWS = ("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
ODD_NUMBERS: tuple[Any, ...] = (
    -1,
    0,
    1,
    2,
    3,
    1.0,
    "1",
    "same",
    "full",
    True,
    (),
    (1, 1, 1),
    (True, 1),
    (2, 1),
    (1, -1),
)
# Of a parameter, then of a tensor: what no op takes, and what torch and Python may take without anybody meaning it.
ODD: tuple[Any, ...] = (
    *ODD_NUMBERS, None, 1.5, [1.5, 1], nan, inf, torch.tensor(1.5), torch.tensor(1.5), torch.tensor(2), {}, b"1",
    ((1, 1), (1, 1)), ((1,), (1, 1)), T((2,)),
)  # fmt: skip
WORDS: tuple[Any, ...] = ("gelu", "median", "ReLU", "", 1, True, T((1,)), [], ("relu",), float("nan"))
NUMBERS = (
    "stride", "padding", "output_padding", "dilation", "groups", "kernel_size", "output_size", "divisor_override", "size", "dim",
)  # fmt: skip
REALS = ("eps", "alpha", "beta", "k")

SECOND = ("return_indices", "bias_grad")  # ask for a second result, which neither an `out` nor a derivative goes with

# The kinds of twenty seeds in a row, so that few seeds have each of them.
SCHEDULE = [*("right", "out", "odd", "edge") * 4, "right", "out", "derivative", "threads"]


def draw(op: str, backend: str | None, seed: int) -> Case:
    """The seed's case of an op on a backend. The same on every machine and in every version of Python."""
    d = Draw(f"{op}/{backend}/{seed}")
    kind = SCHEDULE[seed % len(SCHEDULE)]
    if backend == "reference":  # NumPy arrays: no out, no threads, no derivatives
        kind = d.choice(["right", "odd"]) if op in WINDOWS else "right"
    data = d.often("normal", "integers", "nan", "infinite", "zeros", "subnormal")
    args = OPS[op](d, "float32" if backend == "reference" else d.choice(DTYPES), data)
    if args.get("residual") == "output":
        args["residual"] = _residual(d, args)
    if d.random() < 0.03 and backend != "reference":
        backend = None  # the default: numpy, on a CPU
    case = Case(op, backend, args)
    return _out(d, case, seed) if kind == "out" else TWISTS[kind](d, case)


def _residual(d: Draw, args: dict[str, Any]) -> T | None:
    """A residual of the output's shape, which torch tells on the meta device."""
    shapes = {n: replace(a, layout="meta").make() if isinstance(a, T) else a for n, a in args.items()}
    result = like_torch.answer("conv2d", {**shapes, "residual": None}).result
    return None if result is None else d.tensor(tuple(result.shape), args["input"].dtype, args["input"].data)


def _out(d: Draw, case: Case, seed: int) -> Case:
    """Each way to give an `out` in turn, every op beginning at another."""
    args = {name: value for name, value in case.args.items() if name not in SECOND}
    turn = seed // 4 + 5 * list(OPS).index(case.op)
    return replace(case, args=args, out=list(OUTS)[turn % len(OUTS)])


def _odd(d: Draw, case: Case) -> Case:
    """One argument is replaced, mostly by something wrong."""
    args = dict(case.args)
    numpy = case.backend == "reference"
    if (
        case.op in ("conv2d", "conv_transpose2d", "linear", "residual_add", "channel_scale", "batch_norm")
        and d.random() < 0.3
        and not numpy
    ):
        return replace(case, args={**args, "activation": d.choice(WORDS)})
    name = d.choice([n for n in args if n not in ("activation", "gate")])
    value = args[name]
    if not isinstance(value, T):
        return replace(case, args={**args, name: d.choice(ODD_NUMBERS if numpy else ODD)})
    if d.random() < 0.2 and not numpy:
        return replace(case, args={**args, name: d.choice(ODD)})
    shape = list(value.shape) or [1]
    shape[d.randrange(len(shape))] = d.choice([0, 1, 2, 5])
    dtype = d.choice(["float64", "int64", "bool", "float16", "float32"])
    shapes = [tuple(shape), tuple(shape), value.shape[1:], (2, *value.shape)]
    changed = [replace(value, shape=s) for s in shapes] + [replace(value, dtype=dtype, layout="contiguous")] * (
        not numpy
    )
    return replace(case, args={**args, name: d.choice(changed)})


def _edge(d: Draw, case: Case) -> Case:
    """A parameter near 2^31, or a tensor without memory whose size is."""
    args = dict(case.args)
    numbers = [n for n in args if n in NUMBERS]
    reals = [n for n in args if n in REALS]
    tensors = [n for n in args if isinstance(args[n], T) and args[n].shape]
    if numbers and d.random() < 0.7:
        name = d.choice(numbers + [n for n in numbers if n in ("stride", "divisor_override")] * 2)
        edge = d.choice(EDGES[:5] if d.random() < 0.6 else EDGES)
        args[name] = d.choice([edge, (edge, 1), (1, edge)]) if name not in ("groups", "size", "dim") else edge
    elif reals and d.random() < 0.3:
        args[d.choice(reals)] = d.choice([nan, inf, -inf, -1.0, 0.0, 1e300, 1e-300, 10**400])
    elif tensors:
        args = {n: replace(a, layout="meta") if isinstance(a, T) else a for n, a in args.items()}
        args = {
            n: [replace(t, layout="meta") for t in a] if isinstance(a, list) and n == "tensors" else a
            for n, a in args.items()
        }
        name = d.choice(tensors)
        shape = list(args[name].shape)
        shape[d.randrange(len(shape))] = d.choice(EDGES[:5])
        args[name] = replace(args[name], shape=tuple(shape))
    return replace(case, args=args)


def _mode(mode: str) -> Any:
    def make(d: Draw, case: Case) -> Case:
        args = {name: value for name, value in case.args.items() if name not in SECOND}
        return replace(case, args=args, mode=mode)

    return make


TWISTS = {
    "right": lambda d, case: case,
    "odd": _odd,
    "edge": _edge,
    "derivative": _mode("jvp"),
    "threads": _mode("threads"),
}
