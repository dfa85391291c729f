"""y[m, k] = activation(sum over c of x[m, c] * w[k, c] + bias[k] + residual[m, k]).

A program owns a BM x BN tile of y and walks c in steps of BK; with split-K it walks its share of the steps. Rows are pixels: row
m = (n*P + p)*Q + q reads x at (n, p*stride_h, q*stride_w), so a strided 1x1 convolution is the same kernel. Where all rows lie
the same distance apart (FLAT), m is not split into n, p, q.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, operand, row_of, store_partial, store_tile, tile_order, unravel, wide


@triton.jit(do_not_specialize=["M", "P", "Q", "steps"])
def gemm_kernel(
    x, w, epilogue, y, M, K, C, P, Q, steps, w_k,
    window, tile, mode, FLAT: tl.constexpr, STEPS: tl.constexpr, EVEN_C: tl.constexpr,
):  # fmt: skip
    begin(mode)
    tiles_m = tl.cdiv(M, tile.BM)
    tiles_k = tl.cdiv(K, tile.BN)
    pid = tl.program_id(0)
    split = pid // (tiles_m * tiles_k)
    tile_m, tile_k = tile_order(pid % (tiles_m * tiles_k), tiles_m, tiles_k, tile.GROUP)
    m = tile_m * tile.BM + tl.arange(0, tile.BM)
    k = tile_k * tile.BN + tl.arange(0, tile.BN)
    m_mask = m < M
    k_mask = k < K
    if FLAT:
        row = wide(m, mode.WIDE)
        x_row = row * x.w
    else:
        n, p, q = unravel(m, P, Q, mode.WIDE)
        x_row = row_of(x, n, p * window.STRIDE_H, q * window.STRIDE_W)
    filter = wide(k, mode.WIDE) * w_k
    c = tl.arange(0, tile.BK)

    # A split takes every SPLIT-th of steps * SPLIT blocks. A compiled loop takes its bound at run time, so that layers share
    # code; an interpreted one as a constant, and unassigned: Triton 3.6's interpreter makes a tensor of what is assigned, and no
    # index of a tensor under NumPy 2.4.
    acc = tl.zeros((tile.BM, tile.BN), tl.float32)
    for step in range(STEPS if mode.INTERPRET else steps):
        block = (step * tile.SPLIT + split) * tile.BK + c
        if EVEN_C:
            a = tl.load(x.ptr + x_row[:, None] + block[None, :], mask=m_mask[:, None], other=0.0)
            b = tl.load(w + filter[None, :] + block[:, None], mask=k_mask[None, :], other=0.0)
        else:
            a = tl.load(x.ptr + x_row[:, None] + block[None, :], mask=m_mask[:, None] & (block < C)[None, :], other=0.0)
            b = tl.load(w + filter[None, :] + block[:, None], mask=k_mask[None, :] & (block < C)[:, None], other=0.0)
        acc = tl.dot(operand(a, mode.INTERPRET), operand(b, mode.INTERPRET), acc, input_precision=mode.PRECISION)

    mask = m_mask[:, None] & k_mask[None, :]
    if tile.SPLIT > 1:
        store_partial(y, split * M + m, k, K, mask, acc)
    elif FLAT:
        store_tile(y, row * y.w, row * epilogue.w, k, k_mask, mask, acc, epilogue, mode)
    else:
        store_tile(y, row_of(y, n, p, q), row_of(epilogue, n, p, q), k, k_mask, mask, acc, epilogue, mode)
