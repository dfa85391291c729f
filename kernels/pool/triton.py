"""Max and average pooling over R x S windows, and average pooling to a given size.

One comparison or addition for every element read: bandwidth is the bound. A program owns BM output pixels x BC channels; the
overlap of neighbouring windows is served by L1.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import cast, unravel, widen


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def max_pool_kernel(
    x,
    y,
    indices,
    M,
    H,
    W,
    P,
    Q,
    C,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    R0: tl.constexpr,
    R1: tl.constexpr,
    S0: tl.constexpr,
    S1: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """y = max over the window, -inf outside the image. A NaN wins. indices: h*W + w of the maximum, the first of equal ones.

    R0 .. R1 and S0 .. S1 are the window's rows and columns that lie inside the image for any output at all.
    """
    tiles_c = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    m = pid // tiles_c * BM + tl.arange(0, BM)
    c = pid % tiles_c * BC + tl.arange(0, BC)
    n, p, q = unravel(m, P, Q, WIDE)
    column = c.to(tl.int64) if WIDE else c
    h = p * STRIDE_H - TOP
    v = q * STRIDE_W - LEFT
    origin = (n * x_n + h * x_h + v * x_w)[:, None] + column[None, :] * x_c
    valid = (m < M)[:, None] & (c < C)[None, :]
    best = tl.full((BM, BC), float("-inf"), tl.float32)
    if indices is not None:
        # As PyTorch: before any element has won, the window's first place that is not above or left of the image.
        first_h = h + (tl.maximum(-h, 0) + DILATION_H - 1) // DILATION_H * DILATION_H
        first_v = v + (tl.maximum(-v, 0) + DILATION_W - 1) // DILATION_W * DILATION_W
        where = (first_h * W + first_v)[:, None] + tl.zeros((BM, BC), tl.int64 if WIDE else tl.int32)
    for r in range(R0, R1):
        at_h = h + r * DILATION_H
        for s in range(S0, S1):
            at_w = v + s * DILATION_W
            inside = ((at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W))[:, None]
            shift = r * DILATION_H * x_h + s * DILATION_W * x_w
            value = widen(tl.load(x + origin + shift, mask=valid & inside, other=float("-inf")), INTERPRET)
            if indices is not None:
                wins = inside & ((value > best) | (value != value))  # a later NaN replaces an earlier one
                where = tl.where(wins, (at_h * W + at_w)[:, None], where)
            best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
    tl.store(y + offset, cast(best, y.dtype.element_ty, INTERPRET), mask=valid)
    if indices is not None:
        tl.store(indices + offset, where.to(tl.int64), mask=valid)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def avg_pool_kernel(
    x,
    y,
    M,
    H,
    W,
    P,
    Q,
    C,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    COUNT_INCLUDE_PAD: tl.constexpr,
    DIVISOR: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    R0: tl.constexpr,
    R1: tl.constexpr,
    S0: tl.constexpr,
    S1: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """y = sum over the window / divisor: DIVISOR unless it is 0, else the window's pixels, those of the padding counted or not."""
    tiles_c = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    m = pid // tiles_c * BM + tl.arange(0, BM)
    c = pid % tiles_c * BC + tl.arange(0, BC)
    n, p, q = unravel(m, P, Q, WIDE)
    column = c.to(tl.int64) if WIDE else c
    h = p * STRIDE_H - TOP
    v = q * STRIDE_W - LEFT
    origin = (n * x_n + h * x_h + v * x_w)[:, None] + column[None, :] * x_c
    valid = (m < M)[:, None] & (c < C)[None, :]
    acc = tl.zeros((BM, BC), tl.float32)
    for r in range(R0, R1):
        for s in range(S0, S1):
            inside = ((h + r >= 0) & (h + r < H) & (v + s >= 0) & (v + s < W))[:, None]
            acc += widen(tl.load(x + origin + r * x_h + s * x_w, mask=valid & inside, other=0.0), INTERPRET)
    # In ceil mode a window may reach past the padding, too; what lies there never counts.
    if COUNT_INCLUDE_PAD:
        rows = tl.minimum(h + R, H + TOP) - h
        columns = tl.minimum(v + S, W + LEFT) - v
    else:
        rows = tl.minimum(h + R, H) - tl.maximum(h, 0)
        columns = tl.minimum(v + S, W) - tl.maximum(v, 0)
    count = tl.full((BM,), DIVISOR, tl.float32) if DIVISOR != 0 else (rows * columns).to(tl.float32)
    # A window that lies wholly in the padding (kernel 2, padding 1, ceil mode) averages nothing: 0, not 0 / 0.
    empty = ((tl.minimum(h + R, H) <= tl.maximum(h, 0)) | (tl.minimum(v + S, W) <= tl.maximum(v, 0)))[:, None]
    acc = tl.where(empty, 0.0, acc / count[:, None])
    offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
    tl.store(y + offset, cast(acc, y.dtype.element_ty, INTERPRET), mask=valid)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def adaptive_pool_kernel(
    x,
    y,
    M,
    H,
    W,
    P,
    Q,
    C,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    y_h,
    y_w,
    R: tl.constexpr,
    S: tl.constexpr,
    LONG: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """y = mean over rows floor(p*H/P) .. ceil((p+1)*H/P) - 1 and columns likewise; R x S is the largest such window."""
    tiles_c = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    m = pid // tiles_c * BM + tl.arange(0, BM)
    c = pid % tiles_c * BC + tl.arange(0, BC)
    n, p, q = unravel(m, P, Q, WIDE)
    column = c.to(tl.int64) if WIDE else c
    # LONG, products that need 64 bits: 60,000 columns times 60,001.
    row = p.to(tl.int64) if LONG else p
    at = q.to(tl.int64) if LONG else q
    h = row * H // P
    v = at * W // Q
    rows = ((row + 1) * H + P - 1) // P - h
    columns = ((at + 1) * W + Q - 1) // Q - v
    origin = (n * x_n + h * x_h + v * x_w)[:, None] + column[None, :] * x_c
    valid = (m < M)[:, None] & (c < C)[None, :]
    acc = tl.zeros((BM, BC), tl.float32)
    for r in range(R):
        for s in range(S):
            inside = ((r < rows) & (s < columns))[:, None]
            acc += widen(tl.load(x + origin + r * x_h + s * x_w, mask=valid & inside, other=0.0), INTERPRET)
    acc = acc / (rows * columns).to(tl.float32)[:, None]
    offset = (n * y_n + p * y_h + q * y_w)[:, None] + column[None, :] * y_c
    tl.store(y + offset, cast(acc, y.dtype.element_ty, INTERPRET), mask=valid)


@triton.jit(do_not_specialize=["W"])
def global_pool_kernel(
    x,
    y,
    W,
    C,
    x_n,
    x_c,
    x_h,
    x_w,
    y_n,
    y_c,
    PIXELS: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """The mean over PIXELS = H*W pixels: a program owns one image's BC channels, reads BM pixels a step, and sums as a tree."""
    tiles_c = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    n = (pid // tiles_c).to(tl.int64) if WIDE else pid // tiles_c
    c = pid % tiles_c * BC + tl.arange(0, BC)
    column = c.to(tl.int64) if WIDE else c
    acc = tl.zeros((BM, BC), tl.float32)
    for first in range(0, PIXELS, BM):
        i = first + tl.arange(0, BM)
        h = i // W
        if WIDE:
            h = h.to(tl.int64)
        place = (n * x_n + h * x_h + i % W * x_w)[:, None] + (column * x_c)[None, :]
        acc += widen(tl.load(x + place, mask=(i < PIXELS)[:, None] & (c < C)[None, :], other=0.0), INTERPRET)
    mean = tl.sum(acc, axis=0) / PIXELS
    tl.store(y + n * y_n + column * y_c, cast(mean, y.dtype.element_ty, INTERPRET), mask=c < C)
