"""Depthwise convolution: y[n, k, p, q] = activation(sum over r, s of x[n, k // MULTIPLIER, .., ..] * w[k, r, s] + bias + residual).

Each output needs R*S products of one channel. A tensor core has nothing to share there, and there are 2*R*S FLOPs for each element
moved, so memory bandwidth is the bound. A program owns BM pixels x BC channels, channels innermost so that loads are whole vectors;
where the windows of neighbouring pixels overlap, L1 serves the second read.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, block_of, row_of, store_tile, wide, widen


@triton.jit
def product(x, w, origin, h0, w0, k, m_mask, k_mask, H, W, r, s, window, INTERPRET: tl.constexpr):
    """One tap of the window: x shifted by (r, s) times w[:, r, s], in float32."""
    at_h = h0 + r * window.DILATION_H
    at_w = w0 + s * window.DILATION_W
    inside = m_mask & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
    shift = r * window.DILATION_H * x.h + s * window.DILATION_W * x.w
    a = tl.load(x.ptr + origin + shift, mask=inside[:, None] & k_mask[None, :], other=0.0)
    b = tl.load(w.ptr + row_of(w, k, r, s), mask=k_mask, other=0.0)
    return widen(a, INTERPRET) * widen(b, INTERPRET)[None, :]


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def depthwise_kernel(x, w, epilogue, y, M, H, W, P, Q, K, window, block, mode, MULTIPLIER: tl.constexpr):
    begin(mode)
    n, p, q, m_mask, k, k_mask = block_of(M, K, P, Q, block, mode.WIDE)
    channel = wide(k, mode.WIDE)
    if MULTIPLIER > 1:
        channel = channel // MULTIPLIER
    h0 = p * window.STRIDE_H - window.TOP
    w0 = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h0, w0)[:, None] + channel[None, :] * x.c

    # A row of the window is unrolled, so that its loads are all in flight at once; a whole window, and a row of 7 taps, which
    # took all 255 registers, spilled.
    acc = tl.zeros((block.BM, block.BC), tl.float32)
    for r in range(window.R):
        if window.S <= 5:
            for s in tl.static_range(window.S):
                acc += product(x, w, origin, h0, w0, k, m_mask, k_mask, H, W, r, s, window, mode.INTERPRET)
        else:
            for s in range(window.S):
                acc += product(x, w, origin, h0, w0, k, m_mask, k_mask, H, W, r, s, window, mode.INTERPRET)

    mask = m_mask[:, None] & k_mask[None, :]
    store_tile(y, row_of(y, n, p, q), row_of(epilogue, n, p, q), k, k_mask, mask, acc, epilogue, mode)
