"""Few input channels by tensor memory access: a row of a window is one run of memory.

    y[(n, p, q), k] = sum over r of  z[n, p*SH + r - top, q*SW ... , :] . w[k, r, :]

The image is packed once into z (N, H', W', CP): zeros fill its channels up to CP = 4 or 8, and its left and right padding are
written out. Then the S columns x CP channels that output (p, q) meets in one row lie within WINDOW >= S*CP adjacent numbers
that begin at column q*SW. The numbers of neighbouring outputs overlap: a descriptor whose pixels lie SW*CP numbers apart and
are WINDOW wide gives them as rows of a matrix. The filters are packed the same way, with zeros for columns beyond S and
channels beyond C. A convolution of 7x7x3 is then 7 steps of 32 products instead of 49 of 3.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, operand, row_of, store_tile, wide, widen
from convatlas.kernels.conv2d.triton_tma import corner, inside, phase


@triton.jit(do_not_specialize=["pixels", "H", "W"])
def stem_pack_kernel(
    x, w, z, packed, pixels, filters, H, W, ROWS, COLUMNS,
    LEFT: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, CP: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK: tl.constexpr, mode,
):  # fmt: skip
    """Packs the image (the first programs, a pixel a lane) and the filters (the others, CP numbers of a filter's row a lane)."""
    begin(mode)
    pid = tl.program_id(0)
    image_programs = tl.cdiv(pixels, BLOCK)
    channel = tl.arange(0, CP)
    if pid < image_programs:
        at = pid * BLOCK + tl.arange(0, BLOCK)
        column = at % COLUMNS - LEFT
        row = at // COLUMNS % ROWS
        n = at // COLUMNS // ROWS
        if mode.WIDE:
            n = n.to(tl.int64)
            at = at.to(tl.int64)
        seen = (at < pixels) & (row < H) & (column >= 0) & (column < W)
        place = row_of(x, n, row, column)
        value = tl.load(
            x.ptr + place[:, None] + (channel * x.c)[None, :], mask=seen[:, None] & (channel < C)[None, :], other=0.0
        )
        tl.store(z + at[:, None] * CP + channel[None, :], value, mask=(at < pixels)[:, None])
    else:
        at = (pid - image_programs) * BLOCK + tl.arange(0, BLOCK)
        slot = at % (WINDOW // CP)
        row = at // (WINDOW // CP)
        k = row // R
        r = row % R
        seen = (k < filters) & (slot < S)
        place = row_of(w, k, r, slot)
        value = tl.load(
            w.ptr + place[:, None] + (channel * w.c)[None, :], mask=seen[:, None] & (channel < C)[None, :], other=0.0
        )
        tl.store(packed + at[:, None] * CP + channel[None, :], value, mask=(k < filters)[:, None])


@triton.jit(do_not_specialize=["N", "P", "Q", "tiles_p", "tiles_q"])
def conv2d_rows_kernel(
    rows, filters, z, w, epilogue, y, N, P, Q, K, ROWS, COLUMNS, tiles_p, tiles_q, window, box, mode,
    C: tl.constexpr, CP: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    begin(mode)
    BM: tl.constexpr = box.TN * box.TH * box.TW
    k0, q0, p0, tile_n = corner(tl.program_id(0), tiles_p, tiles_q, K, box)
    n0 = tile_n * box.TN

    # The pixels are the second operand, as in conv2d_tma_kernel.
    acc = tl.zeros((box.BN, BM), tl.float32)
    for r in range(window.R):
        h0, phase_h = phase(p0, r - window.TOP, window.STRIDE_H)
        a = rows.load([n0, h0, phase_h, q0, 0])
        b = filters.load([k0, r * WINDOW])
        a = operand(a.reshape(BM, WINDOW), mode.INTERPRET)
        acc = tl.dot(operand(b, mode.INTERPRET), a.T, acc, input_precision=mode.PRECISION)
    acc = acc.T

    n, p, q, m_mask, k, k_mask = inside(n0, p0, q0, k0, N, P, Q, K, box)
    n, p, q = wide(n, mode.WIDE), wide(p, mode.WIDE), wide(q, mode.WIDE)
    # An infinity or NaN in a column beyond S, times that column's zero weight, is NaN: where the tile holds one it is computed
    # again from the S columns alone. (acc != acc: see conv2d_gather_kernel.)
    if tl.max((acc != acc).to(tl.int32)) > 0:
        acc = tl.zeros((BM, box.BN), tl.float32)
        for tap in range(window.R * window.S):
            h = p * window.STRIDE_H + tap // window.S - window.TOP
            seen = m_mask & (h >= 0) & (h < ROWS)
            pixel = ((n * ROWS + h) * COLUMNS + q * window.STRIDE_W + tap % window.S) * CP
            weight = ((k * window.R + tap // window.S) * WINDOW) + tap % window.S * CP
            for j in range(C):
                value = widen(tl.load(z + pixel + j, mask=seen, other=0.0), mode.INTERPRET)
                factor = widen(tl.load(w + weight + j, mask=k_mask, other=0.0), mode.INTERPRET)
                acc += value[:, None] * factor[None, :]

    mask = m_mask[:, None] & k_mask[None, :]
    store_tile(y, row_of(y, n, p, q), row_of(epilogue, n, p, q), k, k_mask, mask, acc, epilogue, mode)
