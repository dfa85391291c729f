"""The few-channel convolution (an image's 3 channels): y[m, k] = sum over j of x[window of m, j] * w[k, j], j = (r*S + s)*C + c.

With C = 3 a tap is far narrower than an MMA's 16 products, so taps and channels are flattened into one GEMM K of R*S*C (147
for 7x7x3, padded to 160 by steps of 32) instead of R*S taps of 16. An input in any layout is read in place:
an image usually comes as NCHW, and a copy would cost more than the gather.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, operand, row_of, store_tile, tile_order, unravel


@triton.jit(do_not_specialize=["M", "H", "W", "P", "Q"])
def conv2d_stem_kernel(x, w, epilogue, y, M, H, W, P, Q, K, window, tile, mode, C: tl.constexpr):
    begin(mode)
    tile_m, tile_k = tile_order(tl.program_id(0), tl.cdiv(M, tile.BM), tl.cdiv(K, tile.BN), tile.GROUP)
    m = tile_m * tile.BM + tl.arange(0, tile.BM)
    k = tile_k * tile.BN + tl.arange(0, tile.BN)
    m_mask = m < M
    k_mask = k < K
    n, p, q = unravel(m, P, Q, mode.WIDE)
    h0 = p * window.STRIDE_H - window.TOP
    w0 = q * window.STRIDE_W - window.LEFT
    origin = row_of(x, n, h0, w0)

    acc = tl.zeros((tile.BM, tile.BN), tl.float32)
    for step in range(0, window.R * window.S * C, tile.BK):
        j = step + tl.arange(0, tile.BK)
        j_mask = j < window.R * window.S * C
        c = j % C
        tap = j // C
        dh = tap // window.S * window.DILATION_H
        dw = tap % window.S * window.DILATION_W
        at_h = h0[:, None] + dh[None, :]
        at_w = w0[:, None] + dw[None, :]
        inside = (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
        a_place = x.ptr + origin[:, None] + (dh * x.h + dw * x.w + c * x.c)[None, :]
        a = tl.load(a_place, mask=inside & m_mask[:, None] & j_mask[None, :], other=0.0)
        b_place = w + k[None, :] * (window.R * window.S * C) + j[:, None]
        b = tl.load(b_place, mask=k_mask[None, :] & j_mask[:, None], other=0.0)
        acc = tl.dot(operand(a, mode.INTERPRET), operand(b, mode.INTERPRET), acc, input_precision=mode.PRECISION)

    mask = m_mask[:, None] & k_mask[None, :]
    store_tile(y, row_of(y, n, p, q), row_of(epilogue, n, p, q), k, k_mask, mask, acc, epilogue, mode)
