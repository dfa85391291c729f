"""Launcher of the weight gradient: one launch, or with a split one more that adds the parts in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from convatlas.errors import ShapeError
from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch, chunk, reciprocal, strides, vectors, window
from convatlas.kernels.common.launch import cdiv, channels_adjacent
from convatlas.kernels.gemm.launch_cuda import GRID_LIMIT, tensor_float
from convatlas.kernels.weight_grad.configs import packed, parts
from convatlas.specs.conv import STEM_CHANNELS

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

SOURCE = "weight_grad/weight_grad.cu"
THREADS, BK, REDUCE_THREADS = 128, 32, 256  # weight_grad.cu's


def conv2d_weight_grad(p: Problem) -> list[CudaLaunch]:
    """The launches of a weight gradient, and of the bias's where it is among the operands."""
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
    sums = split * f.K * (f.reduction + 1) if split > 1 else 0
    arguments: dict[str, Any] = dict(
        dy=dy, x=x, y=out, bias=bias, partial=torch.empty(sums, dtype=torch.float32, device=out.device) if sums else None,
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
    launches = [CudaLaunch(SOURCE, "weight_grad", template, (tiles, split, packs), THREADS, arguments, shared, True)]
    if split > 1:
        grid = (cdiv(f.K * (f.reduction + 1), REDUCE_THREADS),)
        launches.append(CudaLaunch(SOURCE, "weight_reduce", (T,), grid, REDUCE_THREADS, arguments))
    return launches
