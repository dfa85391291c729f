"""The gradients of pooling: a program owns BM input pixels x BC channels and gathers from the windows that hold them.

Nothing is scattered and nothing is added atomically, so that two runs give the same bits. Bandwidth is the bound.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, block_of, row_of, store_block, wide, widen


@triton.jit
def window_at(h, tap, pad, step, dilation, count):
    """The output along one axis whose window has input h at this tap, and whether there is one."""
    at = h + pad - tap * dilation
    p = at // step
    return p, (at >= 0) & (p * step == at) & (p < count)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def max_pool_grad_kernel(g, winners, dx, M, H, W, P, Q, C, window, live, block, mode, TAPS: tl.constexpr):
    """dx = the sum of g over the windows whose winner is this pixel; winners holds h*W + w of each, or with TAPS r*S + s."""
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    valid = m_mask[:, None] & c_mask[None, :]
    channel = wide(c, mode.WIDE)[None, :]
    own = (h * W + w)[:, None]  # 32 bits count the pixels of an image
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for r in range(live.R0, live.R1):
        p, there = window_at(h, r, window.TOP, window.STRIDE_H, window.DILATION_H, P)
        for s in range(live.S0, live.S1):
            q, too = window_at(w, s, window.LEFT, window.STRIDE_W, window.DILATION_W, Q)
            met = valid & (there & too)[:, None]
            place = winners.ptr + row_of(winners, n, p, q)[:, None] + channel * winners.c
            if TAPS:
                won = met & (tl.load(place, mask=met, other=0).to(tl.int32) == r * window.S + s)
            else:
                won = met & (tl.load(place, mask=met, other=-1).to(own.dtype) == own)
            value = tl.load(g.ptr + row_of(g, n, p, q)[:, None] + channel * g.c, mask=won, other=0.0)
            acc += widen(value, mode.INTERPRET)
    store_block(dx, n, h, w, c, acc, valid, mode)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def avg_pool_grad_kernel(
    g, dx, M, H, W, P, Q, C, window, live, block, mode, COUNT_INCLUDE_PAD: tl.constexpr, DIVISOR: tl.constexpr,
):  # fmt: skip
    """dx = the sum of g / divisor over the windows that hold this pixel; the divisor is that of avg_pool_kernel."""
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    valid = m_mask[:, None] & c_mask[None, :]
    channel = wide(c, mode.WIDE)[None, :]
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for r in range(live.R0, live.R1):
        p, there = window_at(h, r, window.TOP, window.STRIDE_H, 1, P)
        h0 = p * window.STRIDE_H - window.TOP
        for s in range(live.S0, live.S1):
            q, too = window_at(w, s, window.LEFT, window.STRIDE_W, 1, Q)
            w0 = q * window.STRIDE_W - window.LEFT
            if COUNT_INCLUDE_PAD:
                rows = tl.minimum(h0 + window.R, H + window.TOP) - h0
                columns = tl.minimum(w0 + window.S, W + window.LEFT) - w0
            else:
                rows = tl.minimum(h0 + window.R, H) - tl.maximum(h0, 0)
                columns = tl.minimum(w0 + window.S, W) - tl.maximum(w0, 0)
            met = there & too
            count = tl.full((block.BM,), DIVISOR, tl.float32) if DIVISOR != 0 else (rows * columns).to(tl.float32)
            count = tl.where(met, count, 1.0)
            place = g.ptr + row_of(g, n, p, q)[:, None] + channel * g.c
            value = widen(tl.load(place, mask=valid & met[:, None], other=0.0), mode.INTERPRET)
            acc += value / count[:, None]
    store_block(dx, n, h, w, c, acc, valid, mode)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def adaptive_pool_grad_kernel(g, winners, dx, M, H, W, P, Q, C, window, block, mode, LONG: tl.constexpr):
    """dx = the sum of g / (pixels of the window) over the windows that hold this pixel: along an axis those from floor(h*P/H) to
    floor(((h+1)*P - 1) / H), at most window.R of them. With winners, of g over the windows that this pixel won.
    """
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    valid = m_mask[:, None] & c_mask[None, :]
    channel = wide(c, mode.WIDE)[None, :]
    own = (h * W + w)[:, None]
    h_long, w_long = wide(h, LONG), wide(w, LONG)
    p0, q0 = h_long * P // H, w_long * Q // W
    last_p, last_q = ((h_long + 1) * P - 1) // H, ((w_long + 1) * Q - 1) // W
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for i in range(window.R):
        p = p0 + i
        rows = ((p + 1) * H + P - 1) // P - p * H // P
        for j in range(window.S):
            q = q0 + j
            columns = ((q + 1) * W + Q - 1) // Q - q * W // Q
            met = (p <= last_p) & (q <= last_q)
            mask = valid & met[:, None]
            if winners.ptr is not None:
                won = tl.load(
                    winners.ptr + row_of(winners, n, p, q)[:, None] + channel * winners.c, mask=mask, other=-1
                )
                mask = mask & (won.to(own.dtype) == own)
            value = tl.load(g.ptr + row_of(g, n, p, q)[:, None] + channel * g.c, mask=mask, other=0.0)
            value = widen(value, mode.INTERPRET)
            if winners.ptr is None:
                value = value / tl.where(met, rows * columns, 1).to(tl.float32)[:, None]
            acc += value
    store_block(dx, n, h, w, c, acc, valid, mode)
