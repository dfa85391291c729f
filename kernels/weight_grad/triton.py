"""dw[k, c, r, s] = sum over m of dy[m, k] * x[window of m at (r, s), c]: a GEMM whose reduction runs over the N*P*Q pixels m.

A program owns BM filters x BN columns and a SPLIT-th of the pixels, BK of them a step. Both operands are read as they lie, pixels
by channels, and the first is transposed on its way into the tensor core. A column is a channel of one tap. A tile of columns lies
within one tap (TAP), so that one mask a pixel says what is outside the image. Where the channels are fewer than an MMA has columns
(an image's 3), taps and channels are flattened into j = (r*S + s)*C + c instead, and every element has a mask of its own.

Groups of few channels are multiplied together, as many as make a pack, and what one group's filters have of another group's
channels is not stored. With BIAS one more tile of columns sums dy alone, while it is in L2.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, cast, operand, row_of, unravel, wide, widen


@triton.jit
def place_of(columns, tiles_k, tile, BIAS: tl.constexpr):
    """A program's tile of columns, its tile of filters, its part of the reduction, and its pack.

    The tiles of one part are neighbours: programs that run together read the same pixels.
    """
    pid = tl.program_id(0)
    tile_c = pid % (columns + BIAS)
    rest = pid // (columns + BIAS)
    return tile_c, rest % tiles_k, rest // tiles_k % tile.SPLIT, rest // tiles_k // tile.SPLIT


@triton.jit
def store_weights(y, partial, FILTERS, CHANNELS, split, k, c, r, s, mask, acc, window, tile, mode):
    """One tile of dw; of a split its sums, in row (split, k, r, s) and column c of the float32 workspace."""
    if tile.SPLIT > 1:
        row = ((split * FILTERS + k) * (window.R * window.S)).to(tl.int64)
        tl.store(partial + (row[:, None] + r * window.S + s) * CHANNELS + c[None, :], acc, mask=mask)
    else:
        place = wide(k, mode.WIDE)[:, None] * y.n + (c * y.c + r * y.h + s * y.w)[None, :]
        tl.store(y.ptr + place, cast(acc, y.ptr.dtype.element_ty, mode.INTERPRET), mask=mask)


@triton.jit
def store_bias(bias, partial, FILTERS, split, k, k_mask, total, tile, mode):
    """The sums of dy for one tile of filters."""
    if tile.SPLIT > 1:
        tl.store(partial + split * FILTERS + k, total, mask=k_mask)
    else:
        tl.store(bias + k, cast(total, bias.dtype.element_ty, mode.INTERPRET), mask=k_mask)


@triton.jit
def _gradients(dy, n, p, q, m_mask, k, k_mask):
    """The BK x BM gradients of these pixels and filters."""
    place = dy.ptr + row_of(dy, n, p, q)[:, None] + k[None, :]
    return tl.load(place, mask=m_mask[:, None] & k_mask[None, :], other=0.0)


@triton.jit
def _bias(dy, bias, partial, M, P, Q, FILTERS, split, k, k_mask, steps, tile, mode, STEPS: tl.constexpr):
    """The sums of dy alone, a filter's each."""
    first = split * steps * tile.BK
    total = tl.zeros((tile.BM,), tl.float32)
    for step in range(STEPS if mode.INTERPRET else steps):
        m = first + step * tile.BK + tl.arange(0, tile.BK)
        n, p, q = unravel(m, P, Q, mode.WIDE)
        total += tl.sum(widen(_gradients(dy, n, p, q, m < M, k, k_mask), mode.INTERPRET), axis=0)
    store_bias(bias, partial, FILTERS, split, k, k_mask, total, tile, mode)


@triton.jit
def _weights(
    dy, x, y, partial, M, H, W, P, Q, C, FILTERS, pack, split, tile_c, k, k_mask, steps, window, tile, mode,
    GROUP_C: tl.constexpr, GROUP_K: tl.constexpr, TAP: tl.constexpr, EVEN: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The products of a tile of filters and a tile of columns."""
    if TAP:
        blocks = tl.cdiv(C, tile.BN)
        tap = tile_c // blocks
        c = tile_c % blocks * tile.BN + tl.arange(0, tile.BN)
        seen = c < C
    else:
        j = tile_c * tile.BN + tl.arange(0, tile.BN)
        tap = j // C
        c = j % C
        seen = j < C * window.R * window.S
    r = tap // window.S
    s = tap % window.S
    dh = r * window.DILATION_H - window.TOP
    dw = s * window.DILATION_W - window.LEFT
    column = (pack * C + c) * x.c + dh * x.h + dw * x.w

    first = split * steps * tile.BK
    acc = tl.zeros((tile.BM, tile.BN), tl.float32)
    for step in range(STEPS if mode.INTERPRET else steps):
        m = first + step * tile.BK + tl.arange(0, tile.BK)
        m_mask = m < M
        n, p, q = unravel(m, P, Q, mode.WIDE)
        a = _gradients(dy, n, p, q, m_mask, k, k_mask)
        h = p * window.STRIDE_H
        w = q * window.STRIDE_W
        if TAP:
            inside = m_mask & (h + dh >= 0) & (h + dh < H) & (w + dw >= 0) & (w + dw < W)
            mask = inside[:, None] if EVEN else inside[:, None] & seen[None, :]
        else:
            at_h = h[:, None] + dh[None, :]
            at_w = w[:, None] + dw[None, :]
            mask = (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W) & m_mask[:, None] & seen[None, :]
        b = tl.load(x.ptr + row_of(x, n, h, w)[:, None] + column[None, :], mask=mask, other=0.0)
        a = operand(a, mode.INTERPRET)
        acc = tl.dot(a.T, operand(b, mode.INTERPRET), acc, input_precision=mode.PRECISION)

    mask = k_mask[:, None] & seen[None, :]
    if GROUP_C > 0:  # a pack of several groups
        mask = mask & ((k % (GROUP_K * (C // GROUP_C)) // GROUP_K)[:, None] == (c // GROUP_C)[None, :])
        c = c % GROUP_C
    channels = GROUP_C if GROUP_C > 0 else C
    store_weights(y, partial, FILTERS, channels, split, k, c, r, s, mask, acc, window, tile, mode)


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q", "steps"])
def weight_grad_kernel(
    dy, x, y, partial, bias, bias_partial, M, H, W, P, Q, C, K, FILTERS, steps, window, tile, mode,
    GROUP_C: tl.constexpr, GROUP_K: tl.constexpr, TAP: tl.constexpr, EVEN: tl.constexpr, BIAS: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    # C and K count the channels and filters of one pack, GROUP_C and GROUP_K those of one group where a pack has several.
    begin(mode)
    columns = tl.cdiv(C, tile.BN) * window.R * window.S if TAP else tl.cdiv(C * window.R * window.S, tile.BN)
    tile_c, tile_k, split, pack = place_of(columns, tl.cdiv(K, tile.BM), tile, BIAS)
    k = tile_k * tile.BM + tl.arange(0, tile.BM)
    k_mask = k < K
    k = pack * K + k
    if BIAS:
        if tile_c == columns:
            _bias(dy, bias, bias_partial, M, P, Q, FILTERS, split, k, k_mask, steps, tile, mode, STEPS)
        else:
            _weights(
                dy, x, y, partial, M, H, W, P, Q, C, FILTERS, pack, split, tile_c, k, k_mask, steps, window, tile, mode,
                GROUP_C, GROUP_K, TAP, EVEN, STEPS,
            )  # fmt: skip
    else:
        _weights(
            dy, x, y, partial, M, H, W, P, Q, C, FILTERS, pack, split, tile_c, k, k_mask, steps, window, tile, mode,
            GROUP_C, GROUP_K, TAP, EVEN, STEPS,
        )  # fmt: skip
