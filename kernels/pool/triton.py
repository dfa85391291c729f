"""Max and average pooling over R x S windows, and average pooling to a given size.

One comparison or addition for every element read: bandwidth is the bound. A program owns BM output pixels x BC channels; the
overlap of neighbouring windows is served by L1.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import block_of, cast, row_of, store_block, wide, widen


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def max_pool_kernel(x, y, indices, M, H, W, P, Q, C, window, live, block, mode):
    """y = max over the window, -inf outside the image. A NaN wins. indices: h*W + w of the maximum, the first of equal ones.

    live: the window's rows and columns that lie inside the image for any output at all.
    """
    n, p, q, m_mask, c, c_mask = block_of(M, C, P, Q, block, mode.WIDE)
    h = p * window.STRIDE_H - window.TOP
    v = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h, v)[:, None] + wide(c, mode.WIDE)[None, :] * x.c
    valid = m_mask[:, None] & c_mask[None, :]
    best = tl.full((block.BM, block.BC), float("-inf"), tl.float32)
    if indices is not None:
        # As PyTorch: before any element has won, the window's first place that is not above or left of the image.
        first_h = h + (tl.maximum(-h, 0) + window.DILATION_H - 1) // window.DILATION_H * window.DILATION_H
        first_v = v + (tl.maximum(-v, 0) + window.DILATION_W - 1) // window.DILATION_W * window.DILATION_W
        where = (first_h * W + first_v)[:, None] + tl.zeros((block.BM, block.BC), tl.int64 if mode.WIDE else tl.int32)
    for r in range(live.R0, live.R1):
        at_h = h + r * window.DILATION_H
        for s in range(live.S0, live.S1):
            at_w = v + s * window.DILATION_W
            inside = ((at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W))[:, None]
            shift = r * window.DILATION_H * x.h + s * window.DILATION_W * x.w
            value = widen(tl.load(x.ptr + origin + shift, mask=valid & inside, other=float("-inf")), mode.INTERPRET)
            if indices is not None:
                wins = inside & ((value > best) | (value != value))  # a later NaN replaces an earlier one
                where = tl.where(wins, (at_h * W + at_w)[:, None], where)
            best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    store_block(y, n, p, q, c, best, valid, mode)
    if indices is not None:
        offset = row_of(y, n, p, q)[:, None] + wide(c, mode.WIDE)[None, :] * y.c
        tl.store(indices + offset, where.to(tl.int64), mask=valid)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def avg_pool_kernel(
    x, y, M, H, W, P, Q, C, window, live, block, mode, COUNT_INCLUDE_PAD: tl.constexpr, DIVISOR: tl.constexpr,
):  # fmt: skip
    """y = sum over the window / divisor: DIVISOR unless it is 0, else the window's pixels, those of the padding counted or not."""
    n, p, q, m_mask, c, c_mask = block_of(M, C, P, Q, block, mode.WIDE)
    h = p * window.STRIDE_H - window.TOP
    v = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h, v)[:, None] + wide(c, mode.WIDE)[None, :] * x.c
    valid = m_mask[:, None] & c_mask[None, :]
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for r in range(live.R0, live.R1):
        for s in range(live.S0, live.S1):
            inside = ((h + r >= 0) & (h + r < H) & (v + s >= 0) & (v + s < W))[:, None]
            acc += widen(tl.load(x.ptr + origin + r * x.h + s * x.w, mask=valid & inside, other=0.0), mode.INTERPRET)
    # In ceil mode a window may reach past the padding, too; what lies there never counts.
    if COUNT_INCLUDE_PAD:
        rows = tl.minimum(h + window.R, H + window.TOP) - h
        columns = tl.minimum(v + window.S, W + window.LEFT) - v
    else:
        rows = tl.minimum(h + window.R, H) - tl.maximum(h, 0)
        columns = tl.minimum(v + window.S, W) - tl.maximum(v, 0)
    count = tl.full((block.BM,), DIVISOR, tl.float32) if DIVISOR != 0 else (rows * columns).to(tl.float32)
    # A window that lies wholly in the padding (kernel 2, padding 1, ceil mode) averages nothing: 0, not 0 / 0.
    empty = ((tl.minimum(h + window.R, H) <= tl.maximum(h, 0)) | (tl.minimum(v + window.S, W) <= tl.maximum(v, 0)))[
        :, None
    ]
    acc = tl.where(empty, 0.0, acc / count[:, None])
    store_block(y, n, p, q, c, acc, valid, mode)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def adaptive_pool_kernel(x, y, M, H, W, P, Q, C, window, block, mode, LONG: tl.constexpr):
    """y = mean over rows floor(p*H/P) .. ceil((p+1)*H/P) - 1 and columns likewise; R x S is the largest such window."""
    n, p, q, m_mask, c, c_mask = block_of(M, C, P, Q, block, mode.WIDE)
    # LONG, products that need 64 bits: 60,000 columns times 60,001.
    row, at = wide(p, LONG), wide(q, LONG)
    h = row * H // P
    v = at * W // Q
    rows = ((row + 1) * H + P - 1) // P - h
    columns = ((at + 1) * W + Q - 1) // Q - v
    origin = row_of(x, n, h, v)[:, None] + wide(c, mode.WIDE)[None, :] * x.c
    valid = m_mask[:, None] & c_mask[None, :]
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for r in range(window.R):
        for s in range(window.S):
            inside = ((r < rows) & (s < columns))[:, None]
            acc += widen(tl.load(x.ptr + origin + r * x.h + s * x.w, mask=valid & inside, other=0.0), mode.INTERPRET)
    acc = acc / (rows * columns).to(tl.float32)[:, None]
    store_block(y, n, p, q, c, acc, valid, mode)


@triton.jit(do_not_specialize=["W"])
def global_pool_kernel(x, y, W, C, block, mode, PIXELS: tl.constexpr):
    """The mean over PIXELS = H*W pixels: a program owns BC channels of one image, reads BM pixels a step, and sums as a tree."""
    tiles_c = tl.cdiv(C, block.BC)
    pid = tl.program_id(0)
    n = wide(pid // tiles_c, mode.WIDE)
    c = pid % tiles_c * block.BC + tl.arange(0, block.BC)
    column = wide(c, mode.WIDE)
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for first in range(0, PIXELS, block.BM):
        i = first + tl.arange(0, block.BM)
        place = row_of(x, n, wide(i // W, mode.WIDE), i % W)[:, None] + (column * x.c)[None, :]
        acc += widen(tl.load(x.ptr + place, mask=(i < PIXELS)[:, None] & (c < C)[None, :], other=0.0), mode.INTERPRET)
    mean = tl.sum(acc, axis=0) / PIXELS
    tl.store(y.ptr + n * y.n + column * y.c, cast(mean, y.ptr.dtype.element_ty, mode.INTERPRET), mask=c < C)
