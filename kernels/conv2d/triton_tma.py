"""Implicit GEMM by tensor memory access (TMA), for Hopper and later.

A box of pixels x channels, loaded by one descriptor at a tap's offset, is one slice of the im2col matrix:

    A[(n, p, q), c] = x[n, p*stride + r*dilation - top, q*stride + s*dilation - left, c]

The copy engine computes the addresses, and fills with zeros what lies outside the image. A program owns TN x TH x TW output
pixels (a box spans images, so that small maps fill a tile) and BN filters.

Strides: the image is seen as (N, H/SH, SH, W/SW, SW*C), so that the pixels that a tap meets lie one step apart in the second and
fourth dimension: with e = r*dilation - top, row p*SH + e is row p + floor(e / SH) of phase e mod SH. One descriptor serves every
phase; H and W must be multiples of the stride. docs/tuning/triton.md draws it.

Source: NVIDIA PTX ISA, "Tensors" (tiled mode, out-of-bounds access); CUDA driver API, cuTensorMapEncodeTiled (rank at most 5,
strides multiples of 16 bytes, boxes of at most 256 elements a side).
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import begin, operand, row_of, store_partial, store_tile, wide

# Added before a division and taken off after it: a negative offset must round down, and Triton's division truncates.
BIAS = tl.constexpr(1 << 12)


@triton.jit
def phase(first, offset, STRIDE: tl.constexpr):
    """Where a tap meets an axis that was split by the stride: first + floor(offset / STRIDE), and offset mod STRIDE."""
    at = offset + BIAS * STRIDE
    return first + at // STRIDE - BIAS, at % STRIDE


@triton.jit
def corner(number, tiles_p, tiles_q, K, box):
    """The first filter, column and row of the tile of this number, and its place along images (and splits).

    Filters vary fastest, so that programs that run together read the same pixels.
    """
    tiles_k = tl.cdiv(K, box.BN)
    k0 = number % tiles_k * box.BN
    rest = number // tiles_k
    q0 = rest % tiles_q * box.TW
    rest = rest // tiles_q
    return k0, q0, rest % tiles_p * box.TH, rest // tiles_p


@triton.jit
def inside(n0, p0, q0, k0, N, P, Q, K, box):
    """The pixels and filters of the tile at this corner: n, p, q, whether (n, p, q) lies in the output, k, and k < K."""
    m = tl.arange(0, box.TN * box.TH * box.TW)
    k = k0 + tl.arange(0, box.BN)
    n = n0 + m // (box.TH * box.TW)
    p = p0 + m // box.TW % box.TH
    q = q0 + m % box.TW
    return n, p, q, (n < N) & (p < P) & (q < Q), k, k < K


@triton.jit
def _tile(number, x, w, epilogue, y, N, P, Q, K, tiles_p, tiles_q, window, box, mode, C: tl.constexpr):
    """Computes and stores the tile of y with this number."""
    k0, q0, p0, rest = corner(number, tiles_p, tiles_q, K, box)
    tiles_n = tl.cdiv(N, box.TN)
    n0 = rest % tiles_n * box.TN
    split = rest // tiles_n

    # The pixels are the second operand, since Triton compiles a reshaped first operand of a wgmma wrongly (docs/tuning/triton.md,
    # "A wgmma reads registers"). A box of one row needs no reshape, and there they are the first.
    ROW: tl.constexpr = box.TN * box.TH == 1
    acc = tl.zeros((box.TW, box.BN), tl.float32) if ROW else tl.zeros((box.BN, box.TN * box.TH * box.TW), tl.float32)
    for i in range(window.R * window.S * (C // box.BK) // box.SPLIT):
        step = i * box.SPLIT + split
        tap = step // (C // box.BK)
        c = step % (C // box.BK) * box.BK
        h0, phase_h = phase(p0, tap // window.S * window.DILATION_H - window.TOP, window.STRIDE_H)
        w0, phase_w = phase(q0, tap % window.S * window.DILATION_W - window.LEFT, window.STRIDE_W)
        a = x.load([n0, h0, phase_h, w0, phase_w * C + c])
        b = w.load([k0, tap * C + c])
        a = operand(a.reshape(box.TN * box.TH * box.TW, box.BK), mode.INTERPRET)
        b = operand(b, mode.INTERPRET)
        if ROW:
            acc = tl.dot(a, b.T, acc, input_precision=mode.PRECISION)
        else:
            acc = tl.dot(b, a.T, acc, input_precision=mode.PRECISION)
    if not ROW:
        acc = acc.T

    n, p, q, m_mask, k, k_mask = inside(n0, p0, q0, k0, N, P, Q, K, box)
    mask = m_mask[:, None] & k_mask[None, :]
    n, p, q = wide(n, mode.WIDE), wide(p, mode.WIDE), wide(q, mode.WIDE)
    if box.SPLIT > 1:
        store_partial(y, ((split * N + n) * P + p) * Q + q, k, K, mask, acc)
    else:
        store_tile(y, row_of(y, n, p, q), row_of(epilogue, n, p, q), k, k_mask, mask, acc, epilogue, mode)


@triton.jit(do_not_specialize=["N", "P", "Q", "tiles_p", "tiles_q", "tiles"])
def conv2d_tma_kernel(
    x, w, epilogue, y, N, P, Q, K, tiles_p, tiles_q, tiles, window, box, mode,
    C: tl.constexpr, RESIDENT: tl.constexpr, TILES: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    begin(mode)
    pid = tl.program_id(0)
    if RESIDENT > 0:
        # One loop over the steps of all tiles of this program (flatten): the next tile's loads are on their way while one is
        # stored. The interpreter gets its bounds as constants, as in gemm_kernel, and adds the program's number to them; a tile
        # past the last has no pixel in the image.
        first, end, step = (0, TILES, PROGRAMS) if mode.INTERPRET else (pid, tiles, tl.num_programs(0))
        for at in tl.range(first, end, step, flatten=True):
            number = at + pid if mode.INTERPRET else at
            _tile(number, x, w, epilogue, y, N, P, Q, K, tiles_p, tiles_q, window, box, mode, C)
    else:
        _tile(pid, x, w, epilogue, y, N, P, Q, K, tiles_p, tiles_q, window, box, mode, C)
