"""Max and average pooling over R x S windows, and both to a given size.

There is one comparison or addition for every element read, so bandwidth is the bound. A program owns BM output pixels x BC
channels; where neighbouring windows overlap, L1 serves the second read.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, block_of, cast, row_of, store_block, wide, widen


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def max_pool_kernel(x, y, indices, M, H, W, P, Q, C, window, live, block, mode, TAPS: tl.constexpr):
    """y = the maximum of the window, -inf outside the image. A NaN wins.

    indices: gets h*W + w of each maximum, with TAPS its number r*S + s in the window, of the first where several are equal. live:
    the window's rows and columns that lie inside the image for any output at all.
    """
    begin(mode)
    n, p, q, m_mask, c, c_mask = block_of(M, C, P, Q, block, mode.WIDE)
    h0 = p * window.STRIDE_H - window.TOP
    w0 = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h0, w0)[:, None] + wide(c, mode.WIDE)[None, :] * x.c
    valid = m_mask[:, None] & c_mask[None, :]
    best = tl.full((block.BM, block.BC), float("-inf"), tl.float32)
    if indices is not None:
        # As PyTorch: before any element has won, the window's first place that is not above or left of the image.
        first_h = h0 + (tl.maximum(-h0, 0) + window.DILATION_H - 1) // window.DILATION_H * window.DILATION_H
        first_w = w0 + (tl.maximum(-w0, 0) + window.DILATION_W - 1) // window.DILATION_W * window.DILATION_W
        where = first_h * W + first_w
        if TAPS:
            where = (first_h - h0) // window.DILATION_H * window.S + (first_w - w0) // window.DILATION_W
        where = where[:, None] + tl.zeros((block.BM, block.BC), tl.int64 if mode.WIDE else tl.int32)
    for r in range(live.R0, live.R1):
        at_h = h0 + r * window.DILATION_H
        for s in range(live.S0, live.S1):
            at_w = w0 + s * window.DILATION_W
            inside = ((at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W))[:, None]
            shift = r * window.DILATION_H * x.h + s * window.DILATION_W * x.w
            value = widen(tl.load(x.ptr + origin + shift, mask=valid & inside, other=float("-inf")), mode.INTERPRET)
            if indices is not None:
                wins = inside & ((value > best) | (value != value))  # a later NaN replaces an earlier one
                where = tl.where(wins, r * window.S + s if TAPS else (at_h * W + at_w)[:, None], where)
            best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    store_block(y, n, p, q, c, best, valid, mode)
    if indices is not None:
        offset = row_of(y, n, p, q)[:, None] + wide(c, mode.WIDE)[None, :] * y.c
        tl.store(indices + offset, where.to(indices.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def avg_pool_kernel(
    x, y, M, H, W, P, Q, C, window, live, block, mode, COUNT_INCLUDE_PAD: tl.constexpr, DIVISOR: tl.constexpr,
):  # fmt: skip
    """y = sum over the window / divisor. The divisor is DIVISOR or, where that is 0, the number of the window's pixels.

    COUNT_INCLUDE_PAD: pixels of the padding are counted too.
    """
    begin(mode)
    n, p, q, m_mask, c, c_mask = block_of(M, C, P, Q, block, mode.WIDE)
    h0 = p * window.STRIDE_H - window.TOP
    w0 = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h0, w0)[:, None] + wide(c, mode.WIDE)[None, :] * x.c
    valid = m_mask[:, None] & c_mask[None, :]
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for r in range(live.R0, live.R1):
        for s in range(live.S0, live.S1):
            inside = ((h0 + r >= 0) & (h0 + r < H) & (w0 + s >= 0) & (w0 + s < W))[:, None]
            acc += widen(tl.load(x.ptr + origin + r * x.h + s * x.w, mask=valid & inside, other=0.0), mode.INTERPRET)
    # In ceil mode a window may reach past the padding, too; what lies there never counts.
    if COUNT_INCLUDE_PAD:
        rows = tl.minimum(h0 + window.R, H + window.TOP) - h0
        columns = tl.minimum(w0 + window.S, W + window.LEFT) - w0
    else:
        rows = tl.minimum(h0 + window.R, H) - tl.maximum(h0, 0)
        columns = tl.minimum(w0 + window.S, W) - tl.maximum(w0, 0)
    count = tl.full((block.BM,), DIVISOR, tl.float32) if DIVISOR != 0 else (rows * columns).to(tl.float32)
    # A window that lies wholly in the padding (kernel 2, padding 1, ceil mode) averages nothing: 0, not 0 / 0.
    empty = ((tl.minimum(h0 + window.R, H) <= tl.maximum(h0, 0)) | (tl.minimum(w0 + window.S, W) <= tl.maximum(w0, 0)))[
        :, None
    ]
    acc = tl.where(empty, 0.0, acc / count[:, None])
    store_block(y, n, p, q, c, acc, valid, mode)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def adaptive_pool_kernel(
    x, y, indices, M, H, W, P, Q, C, window, block, mode, LONG: tl.constexpr, MAX: tl.constexpr,
):  # fmt: skip
    """y = mean, or maximum (MAX), over rows floor(p*H/P) .. ceil((p+1)*H/P) - 1 and columns likewise.

    window: R x S, the largest of them. indices: as max_pool_kernel's.
    """
    begin(mode)
    n, p, q, m_mask, c, c_mask = block_of(M, C, P, Q, block, mode.WIDE)
    # LONG: some product needs 64 bits, such as 60,000 columns times 60,001.
    p_long, q_long = wide(p, LONG), wide(q, LONG)
    h0 = p_long * H // P
    w0 = q_long * W // Q
    rows = ((p_long + 1) * H + P - 1) // P - h0
    columns = ((q_long + 1) * W + Q - 1) // Q - w0
    origin = row_of(x, n, h0, w0)[:, None] + wide(c, mode.WIDE)[None, :] * x.c
    valid = m_mask[:, None] & c_mask[None, :]
    acc = tl.full((block.BM, block.BC), float("-inf") if MAX else 0.0, tl.float32)
    if indices is not None:
        where = (h0 * W + w0)[:, None] + tl.zeros((block.BM, block.BC), tl.int64 if mode.WIDE else tl.int32)
    for r in range(window.R):
        for s in range(window.S):
            inside = ((r < rows) & (s < columns))[:, None]
            other = float("-inf") if MAX else 0.0
            value = tl.load(x.ptr + origin + r * x.h + s * x.w, mask=valid & inside, other=other)
            value = widen(value, mode.INTERPRET)
            if indices is not None:
                wins = inside & ((value > acc) | (value != value))  # a later NaN replaces an earlier one
                where = tl.where(wins, ((h0 + r) * W + w0 + s)[:, None], where)
            if MAX:
                acc = tl.maximum(acc, value, propagate_nan=tl.PropagateNan.ALL)
            else:
                acc += value
    if not MAX:
        acc = acc / (rows * columns).to(tl.float32)[:, None]
    store_block(y, n, p, q, c, acc, valid, mode)
    if indices is not None:
        offset = row_of(y, n, p, q)[:, None] + wide(c, mode.WIDE)[None, :] * y.c
        tl.store(indices + offset, where.to(tl.int64), mask=valid)


@triton.jit(do_not_specialize=["W"])
def global_pool_kernel(x, y, W, C, block, mode, PIXELS: tl.constexpr, MAX: tl.constexpr):
    """The mean or the maximum over PIXELS = H*W pixels: a program owns BC channels of one image, reads BM pixels a step, and ends
    with a tree.
    """
    begin(mode)
    tiles_c = tl.cdiv(C, block.BC)
    pid = tl.program_id(0)
    n = wide(pid // tiles_c, mode.WIDE)
    c = pid % tiles_c * block.BC + tl.arange(0, block.BC)
    channel = wide(c, mode.WIDE)
    acc = tl.full((block.BM, block.BC), float("-inf") if MAX else 0.0, tl.float32)
    for first in range(0, PIXELS, block.BM):
        i = first + tl.arange(0, block.BM)
        place = row_of(x, n, wide(i // W, mode.WIDE), i % W)[:, None] + (channel * x.c)[None, :]
        other = float("-inf") if MAX else 0.0
        value = tl.load(x.ptr + place, mask=(i < PIXELS)[:, None] & (c < C)[None, :], other=other)
        value = widen(value, mode.INTERPRET)
        if MAX:
            acc = tl.maximum(acc, value, propagate_nan=tl.PropagateNan.ALL)
        else:
            acc += value
    if MAX:  # tl.max drops a NaN
        nans = tl.sum((acc != acc).to(tl.int32), axis=0)
        result = tl.where(nans > 0, float("nan"), tl.max(tl.where(acc != acc, float("-inf"), acc), axis=0))
    else:
        result = tl.sum(acc, axis=0) / PIXELS
    tl.store(y.ptr + n * y.n + channel * y.c, cast(result, y.ptr.dtype.element_ty, mode.INTERPRET), mask=c < C)
