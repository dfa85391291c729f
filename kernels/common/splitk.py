"""The second half of split-K: sums the partial tiles in a fixed order, so that results do not vary, and does the epilogue."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from convatlas.kernels.common.device import cast, finish, unravel
from convatlas.kernels.common.launch import Launch, cdiv, is_wide, power_of_two, strides
from convatlas.kernels.common.target import Target


@triton.jit(do_not_specialize=["M", "P", "Q"])
def splitk_reduce_kernel(
    partial,
    bias,
    residual,
    y,
    M,
    K,
    P,
    Q,
    y_n,
    y_c,
    y_h,
    y_w,
    res_n,
    res_c,
    res_h,
    res_w,
    SPLIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    tiles_k = tl.cdiv(K, BN)
    pid = tl.program_id(0)
    m = pid // tiles_k * BM + tl.arange(0, BM)
    k = pid % tiles_k * BN + tl.arange(0, BN)
    k_mask = k < K
    mask = (m < M)[:, None] & k_mask[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for split in range(SPLIT):
        acc += tl.load(partial + (split * M + m).to(tl.int64)[:, None] * K + k[None, :], mask=mask, other=0.0)
    n, p, q = unravel(m, P, Q, WIDE)
    column = k.to(tl.int64) if WIDE else k
    res_offset = (n * res_n + p * res_h + q * res_w)[:, None] + column[None, :] * res_c
    out = finish(acc, bias, residual, k, k_mask, res_offset, mask, ACTIVATION, INTERPRET)
    offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
    tl.store(y + offset, cast(out, y.dtype.element_ty, INTERPRET), mask=mask)


def reduce_launch(
    partial: Tensor, bias: Tensor | None, residual: Tensor | None, y: Tensor, activation: str | None, target: Target
) -> Launch:
    """The launch that turns the workspace (SPLIT, M, K) into y (N, K, P, Q)."""
    split, M, K = partial.shape
    # Bandwidth-bound: 16-byte rows of float32, enough programs to fill the SMs even at M = 49.
    BN = min(power_of_two(K), 1024 if target.unbounded else 64)
    BM = min(power_of_two(M), 1024 if target.unbounded else 8)
    return Launch(
        splitk_reduce_kernel,
        (cdiv(M, BM) * cdiv(K, BN),),
        dict(
            partial=partial,
            bias=bias,
            residual=residual,
            y=y,
            M=M,
            K=K,
            P=y.shape[2],
            Q=y.shape[3],
            **strides("y", y, "nchw"),
            **strides("res", residual, "nchw"),
        ),
        dict(SPLIT=split, ACTIVATION=activation, BM=BM, BN=BN, WIDE=is_wide(y, residual), INTERPRET=target.interpreted),
        num_warps=4,
    )
