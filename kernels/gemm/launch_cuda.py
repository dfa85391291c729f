"""Launchers of everything that is a GEMM: dense, grouped and pointwise convolutions, and linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convatlas.errors import ShapeError
from convatlas.kernels.common.cuda.launch import (
    TYPES,
    CudaLaunch,
    aligned,
    chunk,
    reciprocal,
    strides,
    vectors,
    window,
    with_activation,
)
from convatlas.kernels.common.launch import cdiv
from convatlas.kernels.common.override import forced, note
from convatlas.kernels.common.packing import pack
from convatlas.kernels.gemm.configs import GEMV_ROWS
from convatlas.specs import Conv2dSpec

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem
    from convatlas.kernels.common.target import Target

SOURCE = "gemm/implicit_gemm.cu"
# Steps in flight: two arrive while one is multiplied, which with two or three blocks an SM covers DRAM's latency. Where a block has
# an SM nearly to itself (batch 1), five do.
STAGES, DEEP = 3, 6
STEP_CHUNKS = 8
GROUP_ROWS = 8  # implicit_gemm.cu's: row tiles of a band
REDUCE_THREADS = 256
GRID_LIMIT = 65535  # blocks along z


@dataclass(frozen=True)
class WarpTile:
    """BM x BN outputs a block; with tensor cores a warp owns WM x WN of them."""

    BM: int
    BN: int
    WM: int
    WN: int
    threads: int

    def shared(self, stages: int) -> int:
        """Bytes: the stages, in which the float32 stash of the epilogue must fit too."""
        return max(stages * (self.BM + self.BN) * 128, self.BM * (self.BN + 4) * 4)


# The larger a warp's tile, the fewer bytes of shared memory it reads a product: with 64 x 64 an ldmatrix of 512 bytes feeds four
# MMAs, with 32 x 32 only two, and shared memory, not the tensor cores, would be the bound.
_TILES = (
    WarpTile(128, 128, 64, 64, 128), WarpTile(128, 64, 64, 32, 128), WarpTile(64, 64, 32, 32, 128), WarpTile(128, 32, 32, 32, 128),
    WarpTile(64, 32, 32, 16, 128),
)  # fmt: skip
TENSOR_CORE = {(tile.BM, tile.BN): tile for tile in _TILES}
# Without tensor cores 16 x 16 threads own 8 x 8, 8 x 4, 4 x 4, 8 x 2 or 4 x 2 outputs each.
SIMT = {name: WarpTile(*name, 16, 16, 256) for name in TENSOR_CORE}


# Products a clock that a tile's shared-memory traffic allows, relative to 128 x 128's (docs/tuning/cuda.md), for one, two and three
# blocks an SM: a block alone waits for its own loads and barriers. Reckoned, not measured.
RATES = {(128, 128): (0.6, 1.0, 1.0), (128, 64): (0.4, 0.6, 0.7), (64, 64): (0.3, 0.45, 0.52)}


def tile_for(M: int, K: int, steps: int, problems: int, tensor_core: bool, gathered: bool, target: Target) -> WarpTile:
    """The tile whose blocks, dealt out to the SMs, take the least time; 32 filters wide where there are no more.

    A reduction of one or two steps consists of little but stores: with smaller tiles and three blocks an SM, one block stores while
    others load. gathered: operands are loaded element by element; their addresses take the registers that a larger tile's sums
    need.
    """
    tiles = TENSOR_CORE if tensor_core else SIMT
    if gathered:
        return tiles[64, 32 if K <= 32 else 64]
    if K <= 32:
        return tiles[128 if cdiv(M, 128) * problems >= target.sms else 64, 32]

    def time(name: tuple[int, int]) -> float:
        BM, BN = name
        each = cdiv(cdiv(M, BM) * cdiv(K, BN) * problems, target.sms)
        return each * BM * BN / RATES[name][min(each, 3) - 1] if each else 0.0

    names = [name for name in RATES if steps > 2 or name != (128, 128)]
    note(lambda: [(time(name), tiles[name]) for name in names])
    return tiles[min(names, key=time)]


def split_for(blocks: int, steps: int, target: Target) -> int:
    """Blocks along the reduction: enough to give each SM two, but at most 16, and each with 4 steps at least so that its
    pipeline fills.

    It is 1 where every second SM has a block already, since partial sums would cost more traffic than they save, and where fewer
    than 10 steps would be saved: a step whose latency counts takes about 0.2 us, and the second kernel of a split about 2 us.
    """
    if blocks > target.sms // 2:
        return 1
    split = max(1, min(2 * target.sms // max(blocks, 1), steps // 4, 16))
    return split if steps - cdiv(steps, split) >= 10 else 1


def stages_for(tile: WarpTile, blocks: int, target: Target) -> int:
    """DEEP where shared memory holds that many stages for all blocks that an SM gets, else STAGES."""
    resident = min(cdiv(blocks, target.sms), 3)
    return DEEP if resident * tile.shared(DEEP) <= target.shared else STAGES


def linear(p: Problem) -> list[CudaLaunch]:
    """(..., C) x (K, C) -> (..., K): a GEMV for up to 8 rows, else the GEMM with rows as images of one pixel."""
    M, K, C = p.spec.gemm
    x, y, w = p["input"].reshape(M, C), p.out.view(M, K), p["weight"].contiguous()
    if M <= GEMV_ROWS:
        return [gemv(p, x, w, y)]
    spec = Conv2dSpec(M, C, 1, 1, K, 1, 1)
    return gemm(p.seen_as(spec, y[:, :, None, None]), x[:, :, None, None], w[:, None, None, :])


def tensor_float(p: Problem) -> bool:
    """Whether to multiply in TF32: only on a GPU, since on a CPU float32 means float32 whatever torch's settings for CUDA say."""
    return p.tf32 and p.out.device.type != "cpu"


def gemv(p: Problem, x: Tensor, w: Tensor, y: Tensor) -> CudaLaunch:
    """x (M, C), w (K, C) contiguous, y (M, K): a warp a filter, which streams its weights once for all rows."""
    (M, C), K, n, bias = x.shape, w.shape[0], chunk(x), p.get("bias")
    whole = C % n == 0 and x.stride(1) == 1 and (M == 1 or x.stride(0) % n == 0) and aligned(x, w)
    source, activation = with_activation("gemm/gemv.cu", p.activation)
    arguments = dict(
        x=x, w=w, bias=bias, y=y, M=M, C=C, K=K,
        x_m=x.stride(0), x_c=x.stride(1), y_m=y.stride(0), y_k=y.stride(1), activation=activation,
    )  # fmt: skip
    template = (TYPES[p.dtype], str(n if whole else 1), "1" if M == 1 else str(GEMV_ROWS))
    grid = (cdiv(K, 8) if M else 0,)
    return CudaLaunch(source, "gemv", template, grid, 256, arguments, 0, True)


def gemm(p: Problem, x: Tensor, w: Tensor) -> list[CudaLaunch]:
    """x (N, C, H, W), w (K, R, S, C/groups) contiguous, p.out and the residual (N, K, P, Q)."""
    out, residual, bias, target, groups = p.out, p.get("residual"), p.get("bias"), p.target, p.spec.groups
    N, _, P, Q = out.shape
    group_k, group_c, n, T = w.shape[0] // groups, w.shape[3], chunk(x), TYPES[p.dtype]
    tensor_core = T != "float" or tensor_float(p)
    together = pack(groups, group_c, group_k)
    C, K = group_c * together, group_k * together
    whole = vectors(x) and C % n == 0
    if not whole:
        together, C, K = 1, group_c, group_k
    load = "ELEMENTS" if not whole else "VECTORS" if group_c % n == 0 and aligned(w) else "ELEMENTS_B"
    if load == "ELEMENTS_B" and together == 1:
        load = "ELEMENTS"
    if load == "VECTORS" and together > 1:
        load = "PACKED"
    packs, M = groups // together, N * P * Q
    steps = cdiv(w.shape[1] * w.shape[2] * C, STEP_CHUNKS * n)
    tile = forced(WarpTile) or tile_for(M, K, steps, packs, tensor_core, load == "ELEMENTS", target)
    blocks = cdiv(M, tile.BM) * cdiv(K, tile.BN)
    split = split_for(blocks, steps, target) if packs == 1 else 1
    # Gathered operands pass through registers: more stages would not bring more of them on their way.
    stages = STAGES if load == "ELEMENTS" else stages_for(tile, blocks * packs * split, target)
    partial = torch.empty((split, M, K), dtype=torch.float32, device=x.device) if split > 1 else None
    source, activation = with_activation(SOURCE, p.activation)
    arguments: dict[str, Any] = dict(
        x=x, w=w, bias=bias, residual=residual, y=out, partial=partial,
        M=M, H=x.shape[2], W=x.shape[3], P=P, Q=Q, **window(p.spec), C=C, K=K, group_c=group_c, group_k=group_k, pack=together,
        **strides("x", x, "nchw"), **strides("y", out, "nchw"), **strides("res", residual, "nchw"),
        activation=activation, split=split, steps=steps,
        vector_store=int(K % n == 0 and (split > 1 or vectors(out, residual))), vector_bias=int(aligned(bias)),
        by_P=reciprocal(P), by_Q=reciprocal(Q), by_C=reciprocal(C), by_S=reciprocal(p.spec.S),
        by_group_k=reciprocal(group_k), by_width=reciprocal(GROUP_ROWS * cdiv(K, tile.BN)),
    )  # fmt: skip
    template = (
        T, "true" if tensor_core else "false", str(tile.BM), str(tile.BN), str(tile.WM), str(tile.WN), str(stages), load,
        str(tile.threads),
    )  # fmt: skip
    if packs * split > GRID_LIMIT:
        raise ShapeError(
            f'{p.op}: {packs} packs of groups on backend "cuda", expected at most {GRID_LIMIT}; "triton" takes more'
        )
    grid = (blocks, 1, packs * split)
    gemm = CudaLaunch(
        source,
        "implicit_gemm",
        template,
        grid,
        tile.threads,
        arguments,
        tile.shared(min(stages, cdiv(steps, split))),
        True,
    )
    if split == 1:
        return [gemm]
    reduce = CudaLaunch(source, "split_reduce", (T,), (cdiv(M * K, REDUCE_THREADS),), REDUCE_THREADS, arguments)
    return [gemm, reduce]
