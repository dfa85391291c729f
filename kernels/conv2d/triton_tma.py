"""Implicit GEMM by tensor memory access (TMA), for Hopper and later.

A box of pixels x channels, loaded by one descriptor at a tap's offset, is one slice of the im2col matrix:

    A[(n, p, q), c] = x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]

The copy engine computes the addresses, and what lies outside the image it fills with zeros: padding costs nothing, and no thread
holds an address or a mask. A program owns TN x TH x TW output pixels (the boxes span images, so that small maps fill a tile)
and BN filters.

Strides: the image is seen as (N, H/SH, SH, W/SW, SW*C), so that the pixels that a tap meets lie one step apart in the second and
fourth dimension: with e = r*dilation - top, row p*SH + e is row p + floor(e / SH) of phase e mod SH. One descriptor serves every
phase; H and W must be multiples of the stride.

Source: NVIDIA PTX ISA, "Tensors" (tiled mode, out-of-bounds access); CUDA driver API, cuTensorMapEncodeTiled (rank at most 5,
strides multiples of 16 bytes, boxes of at most 256 elements a side).
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import cast, finish, operand

# Added before a division and taken off after it: a negative offset must round down, and Triton's division truncates.
BIAS = tl.constexpr(1 << 12)


@triton.jit
def phase(first, offset, STRIDE: tl.constexpr):
    """first + floor(offset / STRIDE), and offset mod STRIDE: where a tap meets an axis that was split by the stride."""
    at = offset + BIAS * STRIDE
    return first + at // STRIDE - BIAS, at % STRIDE


@triton.jit
def _tile(
    tile,
    x,
    w,
    bias,
    residual,
    y,
    N,
    P,
    Q,
    K,
    tiles_p,
    tiles_q,
    y_n,
    y_c,
    y_h,
    y_w,
    res_n,
    res_c,
    res_h,
    res_w,
    C: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SPLIT: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """Tile number `tile` of y. Tiles of filters are innermost: programs that run together read the same pixels."""
    tiles_k = tl.cdiv(K, BN)
    k0 = tile % tiles_k * BN
    rest = tile // tiles_k
    q0 = rest % tiles_q * TW
    rest = rest // tiles_q
    p0 = rest % tiles_p * TH
    rest = rest // tiles_p
    tiles_n = tl.cdiv(N, TN)
    n0 = rest % tiles_n * TN
    split = rest // tiles_n

    # wgmma takes its second operand from shared memory only, and there Triton (3.6 to 3.8) folds the reshape of a loaded box away.
    # A reshaped first operand it loads into registers, which it overwrites while the wgmma still reads them (wrong results with 8
    # warps, seen on an H100). So the pixels are the second operand, unless the box is one row and needs no reshape.
    ROW: tl.constexpr = TN * TH == 1
    acc = tl.zeros((TW, BN), tl.float32) if ROW else tl.zeros((BN, TN * TH * TW), tl.float32)
    for i in range(R * S * (C // BK) // SPLIT):
        step = i * SPLIT + split
        tap = step // (C // BK)
        c = step % (C // BK) * BK
        h, phase_h = phase(p0, tap // S * DILATION_H - TOP, STRIDE_H)
        v, phase_w = phase(q0, tap % S * DILATION_W - LEFT, STRIDE_W)
        a = x.load([n0, h, phase_h, v, phase_w * C + c])
        b = w.load([k0, tap * C + c])
        a = operand(a.reshape(TN * TH * TW, BK), INTERPRET)
        b = operand(b, INTERPRET)
        if ROW:
            acc = tl.dot(a, b.T, acc, input_precision=PRECISION)
        else:
            acc = tl.dot(b, a.T, acc, input_precision=PRECISION)
    if not ROW:
        acc = acc.T

    m = tl.arange(0, TN * TH * TW)
    k = k0 + tl.arange(0, BN)
    n = n0 + m // (TH * TW)
    p = p0 + m // TW % TH
    q = q0 + m % TW
    k_mask = k < K
    mask = ((n < N) & (p < P) & (q < Q))[:, None] & k_mask[None, :]
    column = k
    if WIDE:
        n = n.to(tl.int64)
        p = p.to(tl.int64)
        q = q.to(tl.int64)
        column = k.to(tl.int64)
    if SPLIT > 1:  # y is the float32 workspace [SPLIT, M, K]; the reduction does the epilogue
        place = (((split * N + n) * P + p) * Q + q).to(tl.int64)[:, None] * K + k[None, :]
        tl.store(y + place, acc, mask=mask)
    else:
        res_offset = (n * res_n + p * res_h + q * res_w)[:, None] + column[None, :] * res_c
        out = finish(acc, bias, residual, k, k_mask, res_offset, mask, ACTIVATION, INTERPRET)
        offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
        tl.store(y + offset, cast(out, y.dtype.element_ty, INTERPRET), mask=mask)


@triton.jit(do_not_specialize=["N", "P", "Q", "tiles_p", "tiles_q", "tiles"])
def conv2d_tma_kernel(
    x,
    w,
    bias,
    residual,
    y,
    N,
    P,
    Q,
    K,
    tiles_p,
    tiles_q,
    tiles,
    y_n,
    y_c,
    y_h,
    y_w,
    res_n,
    res_c,
    res_h,
    res_w,
    C: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SPLIT: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
    RESIDENT: tl.constexpr,
    TILES: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    if RESIDENT > 0:
        # One loop over the steps of all tiles of this program (flatten): the next tile's loads are on their way while one is
        # stored. The interpreter gets its bounds as constants, as in gemm_kernel, and adds the program's number to them; a tile
        # past the last has no pixel in the image.
        pid = tl.program_id(0)
        first, end, step = (0, TILES, PROGRAMS) if INTERPRET else (pid, tiles, tl.num_programs(0))
        for at in tl.range(first, end, step, flatten=True):
            _tile(
                at + pid if INTERPRET else at,
                x,
                w,
                bias,
                residual,
                y,
                N,
                P,
                Q,
                K,
                tiles_p,
                tiles_q,
                y_n,
                y_c,
                y_h,
                y_w,
                res_n,
                res_c,
                res_h,
                res_w,
                C,
                TOP,
                LEFT,
                R,
                S,
                STRIDE_H,
                STRIDE_W,
                DILATION_H,
                DILATION_W,
                ACTIVATION,
                SPLIT,
                TN,
                TH,
                TW,
                BN,
                BK,
                PRECISION,
                WIDE,
                INTERPRET,
            )
    else:
        _tile(
            tl.program_id(0),
            x,
            w,
            bias,
            residual,
            y,
            N,
            P,
            Q,
            K,
            tiles_p,
            tiles_q,
            y_n,
            y_c,
            y_h,
            y_w,
            res_n,
            res_c,
            res_h,
            res_w,
            C,
            TOP,
            LEFT,
            R,
            S,
            STRIDE_H,
            STRIDE_W,
            DILATION_H,
            DILATION_W,
            ACTIVATION,
            SPLIT,
            TN,
            TH,
            TW,
            BN,
            BK,
            PRECISION,
            WIDE,
            INTERPRET,
        )
