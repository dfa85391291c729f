"""y = activation(x + shortcut), element by element, any strides: residual_add, relu, relu6 and the copies of concat.

Elements are numbered in y's memory order after neighbouring dimensions were merged (see the launcher), so dense tensors are one
long vector (RANK 1) and a channel slice is rows of contiguous channels.
"""

import triton
import triton.language as tl

from convatlas.kernels.common.device import activate, cast, widen


# `count` is specialised: only where 16 divides it is the mask the same for a thread's 8 halves, and its access 16 bytes wide.
@triton.jit(do_not_specialize=["D1", "D2"])
def elementwise_kernel(
    x,
    shortcut,
    y,
    count,
    D1,
    D2,
    D3,
    x_0,
    x_1,
    x_2,
    x_3,
    s_0,
    s_1,
    s_2,
    s_3,
    y_0,
    y_1,
    y_2,
    y_3,
    RANK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    first = tl.program_id(0)
    if WIDE:
        first = first.to(tl.int64)
    i = first * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    if RANK == 1:
        x_at = i * x_3
        s_at = i * s_3
        y_at = i * y_3
    else:
        i3 = i % D3
        rest = i // D3
        i2 = rest % D2
        rest = rest // D2
        i1 = rest % D1
        i0 = rest // D1
        x_at = i0 * x_0 + i1 * x_1 + i2 * x_2 + i3 * x_3
        s_at = i0 * s_0 + i1 * s_1 + i2 * s_2 + i3 * s_3
        y_at = i0 * y_0 + i1 * y_1 + i2 * y_2 + i3 * y_3
    value = widen(tl.load(x + x_at, mask=mask, other=0.0), INTERPRET)
    if shortcut is not None:
        value += widen(tl.load(shortcut + s_at, mask=mask, other=0.0), INTERPRET)
    tl.store(y + y_at, cast(activate(value, ACTIVATION), y.dtype.element_ty, INTERPRET), mask=mask)
