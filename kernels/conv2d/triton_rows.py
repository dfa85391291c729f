"""Few input channels by tensor memory access: a row of a window is one run of memory.

    y[(n, p, q), k] = sum over r of  z[n, p*SH + r - top, q*SW ... , :] . w[k, r, :]

The image is packed once into z (N, H', W', CP): its channels filled up to CP = 4 or 8 with zeros, its left and right padding
written out. Then the S columns x CP channels that output (p, q) meets in one row are WINDOW >= S*CP adjacent numbers that begin at
column q*SW, and runs of neighbouring outputs overlap: a descriptor whose pixels lie SW*CP numbers apart and are WINDOW wide gives
them as rows of a matrix. The filters are packed the same way, with zeros for columns beyond S and channels beyond C. A convolution
of 7x7x3 is then 7 steps of 32 products instead of 49 of 3.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import cast, finish, operand, widen
from convatlas.kernels.conv2d.triton_tma import phase


@triton.jit(do_not_specialize=["pixels", "H", "W"])
def stem_pack_kernel(
    x,
    w,
    z,
    packed,
    pixels,
    filters,
    H,
    W,
    ROWS,
    COLUMNS,
    x_n,
    x_c,
    x_h,
    x_w,
    w_k,
    w_c,
    w_r,
    w_s,
    LEFT: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    CP: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The first programs pack the image, a pixel a lane; the others the filters, a row of one filter a lane."""
    pid = tl.program_id(0)
    image_programs = tl.cdiv(pixels, BLOCK)
    channel = tl.arange(0, CP)
    if pid < image_programs:
        at = pid * BLOCK + tl.arange(0, BLOCK)
        column = at % COLUMNS - LEFT
        row = at // COLUMNS % ROWS
        n = at // COLUMNS // ROWS
        if WIDE:
            n = n.to(tl.int64)
            at = at.to(tl.int64)
        inside = (at < pixels) & (row < H) & (column >= 0) & (column < W)
        place = n * x_n + row * x_h + column * x_w
        v = tl.load(
            x + place[:, None] + (channel * x_c)[None, :], mask=inside[:, None] & (channel < C)[None, :], other=0.0
        )
        tl.store(z + at[:, None] * CP + channel[None, :], v, mask=(at < pixels)[:, None])
    else:
        at = (pid - image_programs) * BLOCK + tl.arange(0, BLOCK)
        slot = at % (WINDOW // CP)
        row = at // (WINDOW // CP)
        k = row // R
        r = row % R
        inside = (k < filters) & (slot < S)
        place = k * w_k + r * w_r + slot * w_s
        v = tl.load(
            w + place[:, None] + (channel * w_c)[None, :], mask=inside[:, None] & (channel < C)[None, :], other=0.0
        )
        tl.store(packed + at[:, None] * CP + channel[None, :], v, mask=(k < filters)[:, None])


@triton.jit(do_not_specialize=["N", "P", "Q", "tiles_p", "tiles_q"])
def conv2d_rows_kernel(
    rows,
    filters,
    z,
    w,
    bias,
    residual,
    y,
    N,
    P,
    Q,
    K,
    ROWS,
    COLUMNS,
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
    TOP: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    C: tl.constexpr,
    CP: tl.constexpr,
    WINDOW: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TN: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    BM: tl.constexpr = TN * TH * TW
    tiles_k = tl.cdiv(K, BN)
    pid = tl.program_id(0)
    k0 = pid % tiles_k * BN
    rest = pid // tiles_k
    q0 = rest % tiles_q * TW
    rest = rest // tiles_q
    p0 = rest % tiles_p * TH
    n0 = rest // tiles_p * TN

    # The pixels are the second operand, as in conv2d_tma_kernel.
    acc = tl.zeros((BN, BM), tl.float32)
    for r in range(R):
        h, phase_h = phase(p0, r - TOP, STRIDE_H)
        a = rows.load([n0, h, phase_h, q0, 0])
        b = filters.load([k0, r * WINDOW])
        a = operand(a.reshape(BM, WINDOW), INTERPRET)
        acc = tl.dot(operand(b, INTERPRET), a.T, acc, input_precision=PRECISION)
    acc = acc.T

    m = tl.arange(0, BM)
    k = k0 + tl.arange(0, BN)
    n = n0 + m // (TH * TW)
    p = p0 + m // TW % TH
    q = q0 + m % TW
    m_mask = (n < N) & (p < P) & (q < Q)
    k_mask = k < K
    column = k
    if WIDE:
        n = n.to(tl.int64)
        p = p.to(tl.int64)
        q = q.to(tl.int64)
        column = k.to(tl.int64)
    # An infinity or NaN in a column beyond S, times that column's zero weight, is NaN: where the tile holds one it is computed
    # again from the S columns alone. (acc != acc: see conv2d_gather_kernel.)
    if tl.max((acc != acc).to(tl.int32)) > 0:
        acc = tl.zeros((BM, BN), tl.float32)
        for tap in range(R * S):
            h = p * STRIDE_H + tap // S - TOP
            inside = m_mask & (h >= 0) & (h < ROWS)
            pixel = ((n * ROWS + h) * COLUMNS + q * STRIDE_W + tap % S) * CP
            weight = ((k * R + tap // S) * WINDOW) + tap % S * CP
            for j in range(C):
                u = widen(tl.load(z + pixel + j, mask=inside, other=0.0), INTERPRET)
                v = widen(tl.load(w + weight + j, mask=k_mask, other=0.0), INTERPRET)
                acc += u[:, None] * v[None, :]

    mask = m_mask[:, None] & k_mask[None, :]
    res_offset = (n * res_n + p * res_h + q * res_w)[:, None] + column[None, :] * res_c
    out = finish(acc, bias, residual, k, k_mask, res_offset, mask, ACTIVATION, INTERPRET)
    offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
    tl.store(y + offset, cast(out, y.dtype.element_ty, INTERPRET), mask=mask)
