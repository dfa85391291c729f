"""The second kernel of split-K: sums the partial tiles in a fixed order, so that results do not vary, and does the epilogue."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from convatlas.kernels.common.arguments import Tile, epilogue, image, mode
from convatlas.kernels.common.device import begin, row_of, store_tile, unravel
from convatlas.kernels.common.launch import Launch, cdiv, power_of_two
from convatlas.kernels.common.problem import Problem


@triton.jit(do_not_specialize=["M", "P", "Q"])
def splitk_reduce_kernel(partial, epilogue, y, M, K, P, Q, tile, mode):
    begin(mode)
    tiles_k = tl.cdiv(K, tile.BN)
    pid = tl.program_id(0)
    m = pid // tiles_k * tile.BM + tl.arange(0, tile.BM)
    k = pid % tiles_k * tile.BN + tl.arange(0, tile.BN)
    k_mask = k < K
    mask = (m < M)[:, None] & k_mask[None, :]
    acc = tl.zeros((tile.BM, tile.BN), tl.float32)
    for split in range(tile.SPLIT):
        acc += tl.load(partial + (split * M + m).to(tl.int64)[:, None] * K + k[None, :], mask=mask, other=0.0)
    n, p, q = unravel(m, P, Q, mode.WIDE)
    store_tile(y, row_of(y, n, p, q), row_of(epilogue, n, p, q), k, k_mask, mask, acc, epilogue, mode)


def workspace(out: Tensor, split: int) -> Tensor:
    """Where the programs of a split leave their sums: float32 (SPLIT, M, K) for an output (N, K, P, Q)."""
    N, K, P, Q = out.shape
    return torch.empty((split, N * P * Q, K), dtype=torch.float32, device=out.device)


def reduce_launch(partial: Tensor, p: Problem) -> Launch:
    """The launch that turns the workspace (SPLIT, M, K) into p.out (N, K, P, Q), with the epilogue."""
    split, M, K = partial.shape
    y, residual, unbounded = p.out, p.get("residual"), p.target.unbounded
    # Bandwidth-bound: 16-byte rows of float32, enough programs to fill the SMs even at M = 49.
    BN = min(power_of_two(K), 1024 if unbounded else 64)
    BM = min(power_of_two(M), 1024 if unbounded else 8)
    return Launch(
        splitk_reduce_kernel,
        (cdiv(M, BM) * cdiv(K, BN),),
        dict(partial=partial, epilogue=epilogue(p), y=image(y), M=M, K=K, P=y.shape[2], Q=y.shape[3]),
        dict(tile=Tile(BM, BN, 0, SPLIT=split), mode=mode(p, y, residual)),
    )
