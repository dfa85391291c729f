"""y = activation(x + shortcut), element by element, any strides: residual_add, the activations and the copies of concat; and
channel_scale, which is one factor a channel. With GRADIENT it is y = x times the derivative that `shortcut` tells.

Elements are numbered in y's memory order after neighbouring dimensions were merged (see the launcher), so dense tensors are one
long vector (RANK 1) and a channel slice is rows of contiguous channels.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import activate, begin, block_of, cast, gradient, row_of, store_block, wide, widen


@triton.jit
def at(x, i0, i1, i2, i3):
    """Offset of element (i0, i1, i2, i3)."""
    return i0 * x.d0 + i1 * x.d1 + i2 * x.d2 + i3 * x.d3


# `count` is specialised: only where 16 divides it is the mask the same for a thread's 8 halves, and its access 16 bytes wide.
@triton.jit(do_not_specialize=["D1", "D2"])
def elementwise_kernel(
    x, shortcut, y, count, D1, D2, D3, mode, RANK: tl.constexpr, BLOCK: tl.constexpr, GRADIENT: tl.constexpr
):
    begin(mode)
    i = wide(tl.program_id(0), mode.WIDE) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    if RANK == 1:
        x_at, s_at, y_at = i * x.d3, i * shortcut.d3, i * y.d3
    else:
        i3 = i % D3
        rest = i // D3
        i2 = rest % D2
        rest = rest // D2
        i1 = rest % D1
        i0 = rest // D1
        x_at, s_at, y_at = at(x, i0, i1, i2, i3), at(shortcut, i0, i1, i2, i3), at(y, i0, i1, i2, i3)
    value = widen(tl.load(x.ptr + x_at, mask=mask, other=0.0), mode.INTERPRET)
    if shortcut.ptr is not None:
        second = widen(tl.load(shortcut.ptr + s_at, mask=mask, other=0.0), mode.INTERPRET)
        value = gradient(value, second, mode) if GRADIENT else value + second
    if not GRADIENT:
        value = activate(value, mode)
    out = cast(value, y.ptr.dtype.element_ty, mode.INTERPRET)
    tl.store(y.ptr + y_at, out, mask=mask)


@triton.jit(do_not_specialize=["M", "H", "W"])
def channel_scale_kernel(x, scale, residual, y, M, H, W, C, block, gate, mode):
    """y = activation(x * gate(scale[n, c]) + residual): a program owns BM pixels x BC channels, and finds the factors in L1.

    gate: a Mode of whose elements only the activation counts.
    """
    begin(mode)
    n, h, w, m_mask, c, c_mask = block_of(M, C, H, W, block, mode.WIDE)
    channel = wide(c, mode.WIDE)[None, :]
    valid = m_mask[:, None] & c_mask[None, :]
    number = tl.load(scale.ptr + (n * scale.n)[:, None] + channel * scale.c, mask=valid, other=0.0)
    value = widen(tl.load(x.ptr + row_of(x, n, h, w)[:, None] + channel * x.c, mask=valid, other=0.0), mode.INTERPRET)
    value *= activate(widen(number, mode.INTERPRET), gate)
    if residual.ptr is not None:
        more = tl.load(residual.ptr + row_of(residual, n, h, w)[:, None] + channel * residual.c, mask=valid, other=0.0)
        value += widen(more, mode.INTERPRET)
    store_block(y, n, h, w, c, activate(value, mode), valid, mode)
