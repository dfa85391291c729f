"""Launchers of the weight gradient: one launch, or with a split one more that adds the parts in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from convatlas.errors import ShapeError
from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch, chunk, reciprocal, strides, vectors, window
from convatlas.kernels.common.launch import cdiv, channels_adjacent, power_of_two
from convatlas.kernels.gemm.launch_cuda import GRID_LIMIT, tensor_float
from convatlas.kernels.weight_grad.configs import SPLITS, packed, parts
from convatlas.specs.conv import STEM_CHANNELS

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

SOURCE = "weight_grad/weight_grad.cu"
THREADS, BK, REDUCE_THREADS = 128, 32, 256  # weight_grad.cu's


# Square windows and strides that the depthwise kernel is written out for; its blocks an SM, and the least rows of a share.
WINDOWS, STRIDES, RESIDENT, ROWS = (3, 5, 7), (1, 2), 4, 2


def conv2d_weight_grad(p: Problem) -> list[CudaLaunch]:
    """The launches of a weight gradient, and of the bias's where it is among the operands."""
    f = p.spec.forward
    own = f.kind == "depthwise" and f.K == f.C and f.R == f.S and f.stride[0] == f.stride[1] and f.dilation == (1, 1)
    return _depthwise(p) if own and f.R in WINDOWS and f.stride[0] in STRIDES else _products(p)


def _workspace(p: Problem, split: int) -> torch.Tensor | None:
    """Room for `split` parts of all weights and biases, where there is more than one."""
    f, device = p.spec.forward, p.out.device
    return torch.empty(split * f.K * (f.reduction + 1), dtype=torch.float32, device=device) if split > 1 else None


def _sum_of_parts(p: Problem, partial: torch.Tensor | None, split: int) -> list[CudaLaunch]:
    if partial is None:
        return []
    f = p.spec.forward
    arguments = dict(
        partial=partial, y=p.out, bias=p.get("bias_grad"), filters=f.K, R=f.R, S=f.S, group_c=f.C // f.groups, split=split,
        **strides("y", p.out, "nchw"),
    )  # fmt: skip
    grid = (cdiv(f.K * (f.reduction + 1), REDUCE_THREADS),)
    return [CudaLaunch(SOURCE, "weight_reduce", (TYPES[p.dtype],), grid, REDUCE_THREADS, arguments)]


def _depthwise(p: Problem) -> list[CudaLaunch]:
    """dy and x once from memory."""
    f, x, dy, y = p.spec.forward, channels_adjacent(p["input"]), channels_adjacent(p["grad_output"]), p.out
    VEC = chunk(x) if vectors(x, dy) else 1
    lanes = min(power_of_two(f.K // VEC), 8 if VEC > 1 else 32)  # 8 vectors are 128 bytes of a pixel
    shares = power_of_two(256 // (lanes * f.R) + 1) // 2  # the largest power of two that fits 256 threads
    blocks, rows = cdiv(f.K, lanes * VEC), f.N * f.P
    split = max(min(cdiv(RESIDENT * p.target.sms, blocks), rows // (ROWS * shares), SPLITS[-1]), 1)
    size = max(cdiv(rows, split), 1)
    split = max(cdiv(rows, size), 1)
    partial = _workspace(p, split)
    arguments = dict(
        dy=dy, x=x, y=y, bias=p.get("bias_grad"), partial=partial, K=f.K, H=f.H, W=f.W, P=f.P, Q=f.Q, rows=rows,
        top=f.padding[0][0], left=f.padding[1][0], **strides("dy", dy, "nchw"), **strides("x", x, "nchw"),
        **strides("y", y, "nhw"), lanes=lanes, shares=shares, size=size, split=split, by_P=reciprocal(f.P),
    )  # fmt: skip
    threads = lanes * f.R * shares
    template = (TYPES[p.dtype], str(VEC), str(f.R), str(f.stride[0]))
    source, shared = "weight_grad/depthwise_grad.cu", 4 * threads * VEC
    first = CudaLaunch(source, "depthwise_grad", template, (blocks, split), threads, arguments, shared, True)
    return [first, *_sum_of_parts(p, partial, split)]


def _products(p: Problem) -> list[CudaLaunch]:
    """A GEMM on tensor cores, groups of few channels in packs."""
    spec, f, bias, out, T = p.spec, p.spec.forward, p.get("bias_grad"), p.out, TYPES[p.dtype]
    together, packs, K, C = packed(spec)
    # A few channels are copied one by one anyway, in whatever order they lie.
    x = p["input"] if C < STEM_CHANNELS else channels_adjacent(p["input"])
    dy, n = channels_adjacent(p["grad_output"]), chunk(x)
    by_filters, by_columns = vectors(dy) and K % n == 0, vectors(x) and C % n == 0
    tensor_core = T != "float" or tensor_float(p)
    wide = T != "float" and by_filters and by_columns and K >= 128 and C >= 128
    BM = BN = 128 if wide else 64
    blocks, taps = cdiv(C, BN), f.R * f.S
    columns = taps * blocks if by_columns else cdiv(taps * C, BN)
    tiles_c, steps = columns + (bias is not None), cdiv(spec.reduction, BK)
    tiles = cdiv(K, BM) * tiles_c
    split = parts(tiles * packs, steps, p.target)
    if packs > GRID_LIMIT:
        raise ShapeError(
            f'{p.op}: {packs} packs of groups on backend "cuda", expected at most {GRID_LIMIT}; "triton" takes more'
        )
    partial = _workspace(p, split)
    arguments: dict[str, Any] = dict(
        dy=dy, x=x, y=out, bias=bias, partial=partial,
        M=spec.reduction, H=f.H, W=f.W, P=f.P, Q=f.Q, **window(f), C=C, K=K, filters=f.K,
        group_c=f.C // f.groups, group_k=f.K // f.groups, pack=together,
        **strides("dy", dy, "nchw"), **strides("x", x, "nchw"), **strides("y", out, "nchw"),
        split=split, steps=steps, columns=columns,
        by_P=reciprocal(f.P), by_Q=reciprocal(f.Q), by_C=reciprocal(C), by_S=reciprocal(f.S),
        by_group_k=reciprocal(f.K // f.groups), by_group_c=reciprocal(f.C // f.groups), by_blocks=reciprocal(blocks),
        by_columns=reciprocal(tiles_c),
    )  # fmt: skip
    stages = 3 if wide or T == "float" else 4
    shared = stages * (BM + BN) * BK * out.element_size()
    flags = (str(value).lower() for value in (by_filters, by_columns))
    template = (T, str(tensor_core).lower(), str(BM), str(BN), str(stages), *flags)
    first = CudaLaunch(SOURCE, "weight_grad", template, (tiles, split, packs), THREADS, arguments, shared, True)
    return [first, *_sum_of_parts(p, partial, split)]
