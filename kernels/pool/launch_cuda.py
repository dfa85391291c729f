"""Launchers of max, average and adaptive pooling; to one pixel, which is global pooling, there is a kernel of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch, chunk, reciprocal, strides, vectors
from convatlas.kernels.common.cuda.tiling import tiling
from convatlas.kernels.common.launch import cdiv, power_of_two

if TYPE_CHECKING:
    from torch import Tensor

    from convatlas.kernels.common.problem import Problem
    from convatlas.specs import Pool2dSpec

THREADS = 256
IMAGE_THREADS = 128
SOURCE = "pool/pool.cu"
# (size, stride) of the windows that are written out: those that overlap, of which a tile is shared, and those that do not.
TILED = ((3, 2), (3, 1))
SEPARATE = ((2, 2),)


# What a window is where the op has none of its own.
_FIXED = dict(
    R=0, S=0, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1, top=0, left=0, count_include_pad=1, divisor=0,
)  # fmt: skip


def _winners(p: Problem) -> tuple[Tensor | None, str]:
    """The operand that holds winners, and what it holds, as pool/winners.cuh names it."""
    for name, kind in (("indices", "PLACES"), ("winners", "TAPS")):
        if (x := p.get(name)) is not None:
            return x, kind if x.element_size() == 1 else "PLACES"
    return None, "NO_WINNERS"


def _arguments(p: Problem, **more: int) -> dict[str, Any]:
    spec, x = p.spec, p["input"]
    window = dict(_FIXED, r0=0, r1=0, s0=0, s1=0, lanes=0, groups=0, by_lanes=0, by_groups=0, by_P=0, by_Q=0, by_W=0)
    return dict(
        x=x, y=p.out, winners=_winners(p)[0], N=spec.N, C=spec.C, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q,
        **strides("x", x, "nchw"), **strides("y", p.out, "nchw"), channels_last=int(x.stride(1) == 1), **{**window, **more},
    )  # fmt: skip


def _window(s: Pool2dSpec) -> dict[str, int]:
    return dict(
        R=s.R, S=s.S, stride_h=s.stride[0], stride_w=s.stride[1],
        dilation_h=s.dilation[0], dilation_w=s.dilation[1], top=s.padding[0], left=s.padding[1],
        count_include_pad=int(s.count_include_pad), divisor=s.divisor_override or 0,
    )  # fmt: skip


def _any(kind: str, p: Problem, arguments: dict[str, Any]) -> list[CudaLaunch]:
    _, winners = _winners(p)
    VEC = chunk(p.out) if vectors(p["input"], p.out) and winners != "PLACES" else 1
    template = (TYPES[p.dtype], str(VEC), kind, winners)
    return [CudaLaunch(SOURCE, "pool_any", template, (cdiv(p.out.numel() // VEC, THREADS),), THREADS, arguments)]


def _windows(kind: str, p: Problem) -> list[CudaLaunch]:
    spec, x, out = p.spec, p["input"], p.out
    (r0, r1), (s0, s1) = spec.live(0), spec.live(1)
    arguments = _arguments(p, **_window(spec), r0=r0, r1=r1, s0=s0, s1=s1)
    shape, square = (spec.S, spec.stride[1]), spec.R == spec.S and spec.stride[0] == spec.stride[1]
    if _winners(p)[0] is not None or spec.dilation != (1, 1) or not square or not vectors(x, out):
        return _any(kind, p, arguments)
    n = chunk(x)
    template = (TYPES[p.dtype], str(n), kind, *map(str, shape))
    if shape in TILED and (tiles := tiling(spec, x, spec.C // n, spec.stride[0], p.target)):
        template += (str(tiles.height),)
        shared, arguments = tiles.shared(spec.R, spec.stride[0]), arguments | tiles.arguments
        return [CudaLaunch(SOURCE, "pool_tile", template, tiles.grid, tiles.threads, arguments, shared, True)]
    count = out.numel() // n
    if shape in SEPARATE and count < 2**31 - THREADS:
        arguments |= dict(
            groups=spec.C // n, by_groups=reciprocal(spec.C // n), by_P=reciprocal(spec.P), by_Q=reciprocal(spec.Q)
        )
        return [CudaLaunch(SOURCE, "pool_window", template, (cdiv(count, THREADS),), THREADS, arguments)]
    return _any(kind, p, arguments)


def max_pool2d(p: Problem) -> list[CudaLaunch]:
    """Max pooling. The operand "indices" or "winners", of out's shape and strides, gets each maximum's position or tap."""
    return _windows("MAX", p)


def avg_pool2d(p: Problem) -> list[CudaLaunch]:
    """One window for each output pixel."""
    return _windows("AVERAGE", p)


def _adaptive(p: Problem) -> list[CudaLaunch]:
    """The image kernel for a single output pixel, else, and where places are asked for, one window for each output pixel."""
    spec, x = p.spec, p["input"]
    arguments = _arguments(p)
    # The grid's second dimension counts images, up to 65535.
    if not spec.P == spec.Q == 1 or spec.N > 65535 or "indices" in p.operands:
        return _any("ADAPTIVE_MAX" if spec.kind == "max" else "ADAPTIVE", p, arguments)
    VEC = chunk(x) if vectors(x, p.out) else 1
    chunks = spec.C // VEC
    # 8 vectors of channels are 128 bytes of a pixel, and 16 threads share the pixels of each.
    lanes = min(power_of_two(chunks), 8)
    arguments |= dict(lanes=lanes, by_W=reciprocal(spec.W))
    grid = (cdiv(chunks, lanes), spec.N)
    template, shared = (TYPES[p.dtype], str(VEC), "MAX" if spec.kind == "max" else "AVERAGE"), 4 * IMAGE_THREADS * VEC
    return [CudaLaunch(SOURCE, "pool_image", template, grid, IMAGE_THREADS, arguments, shared, True)]


adaptive_avg_pool2d = adaptive_max_pool2d = _adaptive


def _adjacent(x: Tensor, VEC: int) -> bool:
    """Whether VEC winners of neighbouring channels lie side by side, at a multiple of their size."""
    whole = all(x.shape[d] == 1 or x.stride(d) % VEC == 0 for d in (0, 2, 3))
    return x.stride(1) == 1 and whole and (x.is_meta or x.data_ptr() % (VEC * x.element_size()) == 0)


def _gather(kind: str, p: Problem) -> list[CudaLaunch]:
    """A thread for each input pixel and vector of channels."""
    s, g, dx, (winners, held) = p.spec.forward, p["grad_output"], p.out, _winners(p)
    window = _window(s) if kind in ("MAX", "AVERAGE") else dict(_FIXED)
    VEC = chunk(dx)
    if not (vectors(g, dx) and (winners is None or _adjacent(winners, VEC))):
        VEC = 1
    (u, v), (d, e) = ((window[f"{name}_h"], window[f"{name}_w"]) for name in ("stride", "dilation"))
    arguments = dict(
        g=g, winners=winners, dx=dx, N=s.N, C=s.C, H=s.H, W=s.W, P=s.P, Q=s.Q, **window,
        **strides("g", g, "nchw"), **strides("w", winners, "nchw"), **strides("dx", dx, "nchw"),
        channels_last=int(dx.stride(1) == 1), by_h=reciprocal(u), by_w=reciprocal(v), by_d=reciprocal(d), by_e=reciprocal(e),
    )  # fmt: skip
    template, grid = (TYPES[p.dtype], str(VEC), kind, held), (cdiv(dx.numel() // VEC, THREADS),)
    return [CudaLaunch("pool/pool_grad.cu", "pool_grad", template, grid, THREADS, arguments)]


def max_pool2d_grad(p: Problem) -> list[CudaLaunch]:
    """The windows' winners are given by their place in the input or, in a byte, by their number in the window."""
    return _gather("MAX", p)


def avg_pool2d_grad(p: Problem) -> list[CudaLaunch]:
    """One pass over the windows of each input pixel."""
    return _gather("AVERAGE", p)


def adaptive_avg_pool2d_grad(p: Problem) -> list[CudaLaunch]:
    """The same with windows that differ in size."""
    return _gather("ADAPTIVE", p)


def adaptive_max_pool2d_grad(p: Problem) -> list[CudaLaunch]:
    """The same with winners."""
    return _gather("ADAPTIVE_MAX", p)
