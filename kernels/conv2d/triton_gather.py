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

from convatlas.kernels.common.device import cast, finish, operand, tile_order, unravel, widen


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
    x,
    w,
    bias,
    residual,
    y,
    M,
    H,
    W,
    P,
    Q,
    C,
    K,
    x_n,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    res_n,
    res_c,
    res_h,
    res_w,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    C_BLOCKS: tl.constexpr,
    EVEN_C: tl.constexpr,
    GROUP_C: tl.constexpr,
    GROUP_K: tl.constexpr,
    PACK: tl.constexpr,
    BITS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SPLIT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    # C and K count the channels and filters of one pack; GROUP_C and GROUP_K those of one group, where PACK > 1.
    tiles_m = tl.cdiv(M, BM)
    tiles_k = tl.cdiv(K, BN)
    tiles = tiles_m * tiles_k
    pid = tl.program_id(0)
    pack = pid // (tiles * SPLIT)
    split = pid // tiles % SPLIT
    tile_m, tile_k = tile_order(pid % tiles, tiles_m, tiles_k, GROUP)
    m = tile_m * BM + tl.arange(0, BM)
    k = tile_k * BN + tl.arange(0, BN)
    c = tl.arange(0, BK)
    m_mask = m < M
    k_mask = k < K
    n, p, q = unravel(m, P, Q, WIDE)
    h = p * STRIDE_H - TOP
    v = q * STRIDE_W - LEFT
    origin = n * x_n + h * x_h + v * x_w + pack * C
    if BITS:
        row_bits = window_bits(h, H, R, DILATION_H)
        column_bits = window_bits(v, W, S, DILATION_W)
    column = pack * K + k
    if WIDE:
        column = column.to(tl.int64)
    if PACK > 1:
        filter = column * (R * S * GROUP_C)
    else:
        filter = column * (R * S * C)

    acc = tl.zeros((BM, BN), tl.float32)
    for i in range(R * S * C_BLOCKS // SPLIT):
        step = i * SPLIT + split
        tap = step // C_BLOCKS
        block = step % C_BLOCKS * BK + c
        r = tap // S
        s = tap % S
        if BITS:
            inside = m_mask & (((row_bits >> r) & (column_bits >> s) & 1) != 0)
        else:
            at_h = h + r * DILATION_H
            at_w = v + s * DILATION_W
            inside = m_mask & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
        shift = r * DILATION_H * x_h + s * DILATION_W * x_w
        a_place = x + (origin + shift)[:, None] + block[None, :]
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
        acc = tl.dot(operand(a, INTERPRET), operand(b, INTERPRET), acc, input_precision=PRECISION)

    mask = m_mask[:, None] & k_mask[None, :]
    if PACK > 1:  # noqa: SIM102 (the outer condition is decided at compile time)
        # An infinity or NaN of one group times another group's structural zero is NaN: where the tile holds one, and only there,
        # it is computed again without the zeros. Written as acc != acc: the ptxas of Triton 3.6 takes |acc| < infinity for true of
        # every wgmma accumulator, and drops the repair (seen on an H100; test_cross_compile reads the SASS).
        if tl.max((acc != acc).to(tl.int32)) > 0:
            acc = tl.zeros((BM, BN), tl.float32)
            own = k // GROUP_K * GROUP_C
            for tap in range(R * S):
                at_h = h + tap // S * DILATION_H
                at_w = v + tap % S * DILATION_W
                inside = m_mask & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
                shift = tap // S * DILATION_H * x_h + tap % S * DILATION_W * x_w
                for j in range(GROUP_C):
                    a = tl.load(
                        x + (origin + shift)[:, None] + (own + j)[None, :],
                        mask=inside[:, None] & k_mask[None, :],
                        other=0.0,
                    )
                    b = tl.load(w + filter + tap * GROUP_C + j, mask=k_mask, other=0.0)
                    acc += widen(a, INTERPRET) * widen(b, INTERPRET)[None, :]
    if SPLIT > 1:  # y is the float32 workspace [SPLIT, M, K]; the reduction does the epilogue
        place = (split * M + m).to(tl.int64)[:, None] * K + k[None, :]
        tl.store(y + place, acc, mask=mask)
    else:
        res_offset = (n * res_n + p * res_h + q * res_w)[:, None] + column[None, :] * res_c
        out = finish(acc, bias, residual, column, k_mask, res_offset, mask, ACTIVATION, INTERPRET)
        offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
        tl.store(y + offset, cast(out, y.dtype.element_ty, INTERPRET), mask=mask)
