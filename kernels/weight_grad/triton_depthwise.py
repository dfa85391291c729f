"""The weight gradient of a depthwise convolution: dw[k, r, s] = sum over m of dy[m, k] * x[window of m at (r, s), k // MULTIPLIER].

Each product has factors of its own, so that a tensor core has nothing to share, and there are R*S multiplications for each two
elements read: memory bandwidth is the bound. A program owns BC filters, ROWS rows of their windows and one part of the pixels. It
reads dy once, and x from L1 and L2 where the taps of neighbouring pixels meet the same one. A thread keeps the sums of its own
pixels for every tap; only at the end are those of different threads added.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, cast, row_of, unravel, wide, widen


@triton.jit
def _tap(x, origin, h0, w0, m_mask, k_mask, H, W, r, s, window, INTERPRET: tl.constexpr):
    """What the pixels meet at one tap, in float32."""
    at_h = h0 + r * window.DILATION_H
    at_w = w0 + s * window.DILATION_W
    inside = m_mask & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
    shift = r * window.DILATION_H * x.h + s * window.DILATION_W * x.w
    return widen(tl.load(x.ptr + origin + shift, mask=inside[:, None] & k_mask[None, :], other=0.0), INTERPRET)


@triton.jit
def _store(y, partial, FILTERS, split, k, k_mask, r, s, sums, window, SPLIT: tl.constexpr, mode):
    total = tl.sum(sums, axis=0)
    if SPLIT:
        place = ((split * FILTERS + k) * window.R + r) * window.S + s
        tl.store(partial + place, total, mask=k_mask)
    else:
        place = y.ptr + wide(k, mode.WIDE) * y.n + r * y.h + s * y.w
        tl.store(place, cast(total, y.ptr.dtype.element_ty, mode.INTERPRET), mask=k_mask)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q", "steps"])
def depthwise_weight_grad_kernel(
    dy, x, y, partial, bias, bias_partial, M, H, W, P, Q, K, steps, window, block, mode,
    MULTIPLIER: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, BIAS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    begin(mode)
    tiles = tl.cdiv(K, block.BC)
    bands: tl.constexpr = window.R // ROWS
    pid = tl.program_id(0)
    k = pid % tiles * block.BC + tl.arange(0, block.BC)
    k_mask = k < K
    band = pid // tiles % bands
    split = pid // tiles // bands
    filter = wide(k, mode.WIDE)
    channel = filter
    if MULTIPLIER > 1:
        channel = channel // MULTIPLIER
    zero = tl.zeros((block.BM, block.BC), tl.float32)
    sums = (zero,) * (ROWS * window.S)
    alone = zero
    for step in range(STEPS if mode.INTERPRET else steps):
        m = (split * steps + step) * block.BM + tl.arange(0, block.BM)
        m_mask = m < M
        n, p, q = unravel(m, P, Q, mode.WIDE)
        place = dy.ptr + row_of(dy, n, p, q)[:, None] + filter[None, :] * dy.c
        d = widen(tl.load(place, mask=m_mask[:, None] & k_mask[None, :], other=0.0), mode.INTERPRET)
        if BIAS:
            alone += d
        h0 = p * window.STRIDE_H - window.TOP + band * ROWS * window.DILATION_H
        w0 = q * window.STRIDE_W - window.LEFT
        origin = row_of(x, n, h0, w0)[:, None] + channel[None, :] * x.c
        added = ()
        for tap in tl.static_range(ROWS * window.S):
            a = _tap(x, origin, h0, w0, m_mask, k_mask, H, W, tap // window.S, tap % window.S, window, mode.INTERPRET)
            added = added + (sums[tap] + d * a,)
        sums = added
    for tap in tl.static_range(ROWS * window.S):
        r = band * ROWS + tap // window.S
        _store(y, partial, K, split, k, k_mask, r, tap % window.S, sums[tap], window, SPLIT, mode)
    if BIAS:  # noqa: SIM102 (the outer condition is decided at compile time)
        if band == 0:
            total = tl.sum(alone, axis=0)
            if SPLIT:
                tl.store(bias_partial + split * K + k, total, mask=k_mask)
            else:
                tl.store(bias + k, cast(total, bias.dtype.element_ty, mode.INTERPRET), mask=k_mask)
