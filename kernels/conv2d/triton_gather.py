"""Implicit GEMM by pointer gather: y[m, k] = sum over r, s, c of x[pixel of m shifted by (r, s), c] * w[k, r, s, c].

M = N*P*Q output pixels, GEMM K = R*S*C, its slices BK channels of one tap (r, s). Per output pixel the address of its first
tap and two bit masks (which of the R rows and S columns of its window lie inside the image) are computed once, so that a step
costs one addition and two shifts a row; outside pixels load zero, so padding costs nothing. Source of the mask idea: CUTLASS's
Conv2dFprop "optimized" iterator.

Groups: a program works inside one pack of PACK groups. Many-channel groups have PACK = 1; few-channel groups (ResNeXt: 4 to 32
channels) are packed so that an MMA is full, the weights of a pack forming a block-diagonal matrix.

The one flattened loop over taps and channels is what Triton can pipeline; with 8 warps such loops are reported to miscompile
(pytorch#173068, pytorch#183989), so configs keep to 4 warps here.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import operand, row_of, store_partial, store_tile, tile_order, unravel, widen


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
    h = p * window.STRIDE_H - window.TOP
    v = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h, v) + pack * C
    if BITS:
        row_bits = window_bits(h, H, window.R, window.DILATION_H)
        column_bits = window_bits(v, W, window.S, window.DILATION_W)
    column = pack * K + k
    if mode.WIDE:
        column = column.to(tl.int64)
    if PACK > 1:
        filter = column * (window.R * window.S * GROUP_C)
    else:
        filter = column * (window.R * window.S * C)

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
            at_h = h + r * window.DILATION_H
            at_w = v + s * window.DILATION_W
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
        # it is computed again without the zeros. Written as acc != acc: the ptxas of Triton 3.6 takes |acc| < infinity for true of
        # every wgmma accumulator, and drops the repair (seen on an H100; test_cross_compile reads the SASS).
        if tl.max((acc != acc).to(tl.int32)) > 0:
            acc = tl.zeros((tile.BM, tile.BN), tl.float32)
            own = k // GROUP_K * GROUP_C
            for tap in range(window.R * window.S):
                at_h = h + tap // window.S * window.DILATION_H
                at_w = v + tap % window.S * window.DILATION_W
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
        store_tile(y, row_of(y, n, p, q), row_of(epilogue.residual, n, p, q), column, k_mask, mask, acc, epilogue, mode)
