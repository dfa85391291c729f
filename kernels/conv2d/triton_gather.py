"""Implicit GEMM by pointer gather: y[m, k] = sum over r, s, c of x[pixel of m shifted by (r, s), c] * w[k, r, s, c].

The GEMM has M = N*P*Q output pixels and a reduction of R*S*C; a step of it is BK channels of one tap (r, s). For each output pixel
the address of its first tap and two bit masks (which of the R rows and S columns of its window lie inside the image) are computed
once. A step then costs one addition and two shifts a row. Pixels outside the image load zero, so padding costs nothing. Source
of the
masks: CUTLASS's Conv2dFprop "optimized" iterator.

Groups: a program works inside one pack of PACK groups. Many-channel groups have PACK = 1; few-channel groups (ResNeXt: 4 to 32
channels) are packed so that an MMA is full, the weights of a pack forming a block-diagonal matrix.

Taps and channels are one flattened loop, since that is what Triton can pipeline; docs/kernels.md says why such a loop has at most 4
warps.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import (
    begin,
    operand,
    row_of,
    store_partial,
    store_tile,
    tile_order,
    unravel,
    widen,
)


@triton.jit
def window_bits(first, size, TAPS: tl.constexpr, DILATION: tl.constexpr):
    """Bit r is set when first + r*DILATION lies in [0, size)."""
    bits = tl.zeros_like(first).to(tl.int32)
    for tap in tl.static_range(TAPS):
        at = first + tap * DILATION
        bits |= ((at >= 0) & (at < size)).to(tl.int32) << tap
    return bits


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def conv2d_gather_kernel(
    x, w, epilogue, y, M, H, W, P, Q, C, K, window, tile, mode,
    C_BLOCKS: tl.constexpr, EVEN_C: tl.constexpr, GROUP_C: tl.constexpr, GROUP_K: tl.constexpr, PACK: tl.constexpr,
    BITS: tl.constexpr,
):  # fmt: skip
    # C and K count the channels and filters of one pack; GROUP_C and GROUP_K those of one group, where PACK > 1.
    begin(mode)
    tiles_m = tl.cdiv(M, tile.BM)
    tiles_k = tl.cdiv(K, tile.BN)
    tiles = tiles_m * tiles_k
    pid = tl.program_id(0)
    pack = pid // (tiles * tile.SPLIT)
    split = pid // tiles % tile.SPLIT
    tile_m, tile_k = tile_order(pid % tiles, tiles_m, tiles_k, tile.GROUP)
    m = tile_m * tile.BM + tl.arange(0, tile.BM)
    k = tile_k * tile.BN + tl.arange(0, tile.BN)
    c = tl.arange(0, tile.BK)
    m_mask = m < M
    k_mask = k < K
    n, p, q = unravel(m, P, Q, mode.WIDE)
    h0 = p * window.STRIDE_H - window.TOP
    w0 = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h0, w0) + pack * C
    if BITS:
        row_bits = window_bits(h0, H, window.R, window.DILATION_H)
        column_bits = window_bits(w0, W, window.S, window.DILATION_W)
    k_out = pack * K + k
    if mode.WIDE:
        k_out = k_out.to(tl.int64)
    if PACK > 1:
        filter = k_out * (window.R * window.S * GROUP_C)
    else:
        filter = k_out * (window.R * window.S * C)

    acc = tl.zeros((tile.BM, tile.BN), tl.float32)
    for i in range(window.R * window.S * C_BLOCKS // tile.SPLIT):
        step = i * tile.SPLIT + split
        tap = step // C_BLOCKS
        block = step % C_BLOCKS * tile.BK + c
        r = tap // window.S
        s = tap % window.S
        if BITS:
            inside = m_mask & (((row_bits >> r) & (column_bits >> s) & 1) != 0)
        else:
            at_h = h0 + r * window.DILATION_H
            at_w = w0 + s * window.DILATION_W
            inside = m_mask & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
        shift = r * window.DILATION_H * x.h + s * window.DILATION_W * x.w
        a_place = x.ptr + (origin + shift)[:, None] + block[None, :]
        a_mask = inside[:, None] if EVEN_C else inside[:, None] & (block < C)[None, :]
        a = tl.load(a_place, mask=a_mask, other=0.0)
        if PACK > 1:
            same = (k // GROUP_K)[None, :] == (block // GROUP_C)[:, None]
            b_place = w + filter[None, :] + (tap * GROUP_C + block % GROUP_C)[:, None]
            b_mask = same & k_mask[None, :] & (block < C)[:, None]
        else:
            b_place = w + filter[None, :] + (tap * C + block)[:, None]
            b_mask = k_mask[None, :] if EVEN_C else k_mask[None, :] & (block < C)[:, None]
        b = tl.load(b_place, mask=b_mask, other=0.0)
        acc = tl.dot(operand(a, mode.INTERPRET), operand(b, mode.INTERPRET), acc, input_precision=mode.PRECISION)

    mask = m_mask[:, None] & k_mask[None, :]
    if PACK > 1:  # noqa: SIM102 (the outer condition is decided at compile time)
        # An infinity or NaN of one group times another group's structural zero is NaN: where the tile holds one, and only there,
        # it is computed again without the zeros. A compiler folds other ways to ask (docs/tuning/triton.md, "ptxas folds").
        if tl.max((acc != acc).to(tl.int32)) > 0:
            acc = tl.zeros((tile.BM, tile.BN), tl.float32)
            own = k // GROUP_K * GROUP_C
            for tap in range(window.R * window.S):
                at_h = h0 + tap // window.S * window.DILATION_H
                at_w = w0 + tap % window.S * window.DILATION_W
                inside = m_mask & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
                shift = tap // window.S * window.DILATION_H * x.h + tap % window.S * window.DILATION_W * x.w
                for j in range(GROUP_C):
                    a = tl.load(
                        x.ptr + (origin + shift)[:, None] + (own + j)[None, :],
                        mask=inside[:, None] & k_mask[None, :],
                        other=0.0,
                    )
                    b = tl.load(w + filter + tap * GROUP_C + j, mask=k_mask, other=0.0)
                    acc += widen(a, mode.INTERPRET) * widen(b, mode.INTERPRET)[None, :]
    if tile.SPLIT > 1:
        store_partial(y, split * M + m, k, K, mask, acc)
    else:
        store_tile(y, row_of(y, n, p, q), row_of(epilogue, n, p, q), k_out, k_mask, mask, acc, epilogue, mode)
