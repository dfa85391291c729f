"""y[m, k] = activation(sum over c of x[m, c] * w[k, c] + bias[k] + residual[m, k]).

A program owns a BM x BN tile of y and walks c in steps of BK (or, split-K, its share of them). Rows are pixels: m = (n*P + p)*Q + q
reads x at (n, p*stride_h, q*stride_w), so a strided 1x1 convolution is the same kernel. Where rows lie one distance apart
(FLAT), no index is taken apart.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import cast, finish, operand, tile_order, unravel


@triton.jit(do_not_specialize=["M", "P", "Q", "steps"])
def gemm_kernel(
    x,
    w,
    bias,
    residual,
    y,
    M,
    K,
    C,
    P,
    Q,
    steps,
    x_n,
    x_h,
    x_w,
    w_k,
    y_n,
    y_c,
    y_h,
    y_w,
    res_n,
    res_c,
    res_h,
    res_w,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FLAT: tl.constexpr,
    STEPS: tl.constexpr,
    EVEN_C: tl.constexpr,
    SPLIT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BM)
    tiles_k = tl.cdiv(K, BN)
    pid = tl.program_id(0)
    split = pid // (tiles_m * tiles_k)
    tile_m, tile_k = tile_order(pid % (tiles_m * tiles_k), tiles_m, tiles_k, GROUP)
    m = tile_m * BM + tl.arange(0, BM)
    k = tile_k * BN + tl.arange(0, BN)
    m_mask = m < M
    k_mask = k < K
    if FLAT:
        row = m.to(tl.int64) if WIDE else m
        x_row = row * x_w
    else:
        n, p, q = unravel(m, P, Q, WIDE)
        x_row = n * x_n + p * STRIDE_H * x_h + q * STRIDE_W * x_w
    filter = (k.to(tl.int64) if WIDE else k) * w_k
    c = tl.arange(0, BK)

    # A split takes every SPLIT-th of steps * SPLIT blocks. A compiled loop takes its bound at run time, so that layers share
    # code; an interpreted one as a constant, and unassigned: Triton 3.6's interpreter makes a tensor of what is assigned, and no
    # index of a tensor under NumPy 2.4.
    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(STEPS if INTERPRET else steps):
        block = (step * SPLIT + split) * BK + c
        if EVEN_C:
            a = tl.load(x + x_row[:, None] + block[None, :], mask=m_mask[:, None], other=0.0)
            b = tl.load(w + filter[None, :] + block[:, None], mask=k_mask[None, :], other=0.0)
        else:
            a = tl.load(x + x_row[:, None] + block[None, :], mask=m_mask[:, None] & (block < C)[None, :], other=0.0)
            b = tl.load(w + filter[None, :] + block[:, None], mask=k_mask[None, :] & (block < C)[:, None], other=0.0)
        acc = tl.dot(operand(a, INTERPRET), operand(b, INTERPRET), acc, input_precision=PRECISION)

    mask = m_mask[:, None] & k_mask[None, :]
    if SPLIT > 1:  # y is the float32 workspace [SPLIT, M, K]; the reduction does the epilogue
        place = (split * M + m).to(tl.int64)[:, None] * K + k[None, :]
        tl.store(y + place, acc, mask=mask)
    else:
        if FLAT:
            y_row = row * y_w
            res_row = row * res_w
        else:
            y_row = n * y_n + p * y_h + q * y_w
            res_row = n * res_n + p * res_h + q * res_w
        column = k.to(tl.int64) if WIDE else k
        out = finish(
            acc, bias, residual, k, k_mask, res_row[:, None] + column[None, :] * res_c, mask, ACTIVATION, INTERPRET
        )
        tl.store(y + y_row[:, None] + column[None, :] * y_c, cast(out, y.dtype.element_ty, INTERPRET), mask=mask)
