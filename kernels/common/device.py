"""Device functions that kernels share: which pixels and channels a program owns, activation, rounding, and how a tile is stored.

The tuples that they take (Image, Epilogue, Tile, Block, Mode) are those of arguments.py.
"""

import triton
import triton.language as tl


@triton.jit
def begin(mode):
    """The first line of every kernel, `begin` of device.cuh too. Where a kernel may start before the one in front of it has ended
    (programmatic dependent launch, CUDA C++ Programming Guide), nothing is read or written before that one has ended; only then
    may the next kernel start.

    So a kernel starts when all blocks of the one in front of it have seen the end of everything before them: of what it reads and
    of whom it writes over, only that one can still be running, and for that one it waits. Weights are not read before the wait:
    they may be what that kernel computes.
    """
    if mode.DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def activate(v, mode):
    """The mode's activation of a float32 block, None for none; reference/activation.py has the formulas.

    PTX's max and min drop a NaN; their .NaN forms keep it, as torch.relu does. 0 * inf is NaN, as torch has it.
    """
    if mode.ACTIVATION == "relu":
        v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif mode.ACTIVATION == "relu6":
        v = _to_six(v)
    elif mode.ACTIVATION == "leaky_relu":
        v = tl.where(v > 0.0, v, v * mode.SLOPE)
    elif mode.ACTIVATION == "sigmoid":
        v = 1.0 / (1.0 + tl.exp(-v))
    elif mode.ACTIVATION == "silu":
        v = v / (1.0 + tl.exp(-v))
    elif mode.ACTIVATION == "hardsigmoid":
        v = _to_six(v + 3.0) * (1.0 / 6.0)
    elif mode.ACTIVATION == "hardswish":
        v = v * (_to_six(v + 3.0) * (1.0 / 6.0))
    return v


@triton.jit
def gradient(g, v, mode):
    """g times the derivative of the mode's activation; v is its value or its argument (reference/grad.py has the formulas)."""
    if mode.ACTIVATION == "relu":
        g = tl.where(v <= 0.0, 0.0, g)
    elif mode.ACTIVATION == "relu6":
        g = tl.where((v > 0.0) & (v < 6.0), g, 0.0)
    elif mode.ACTIVATION == "leaky_relu":
        g = tl.where(v > 0.0, g, g * mode.SLOPE)
    elif mode.ACTIVATION == "sigmoid":
        g = g * (1.0 - v) * v
    elif mode.ACTIVATION == "hardsigmoid":
        g = tl.where((v > -3.0) & (v < 3.0), g * (1.0 / 6.0), 0.0)
    elif mode.ACTIVATION == "hardswish":
        g = tl.where(v <= -3.0, 0.0, tl.where(v >= 3.0, g, g * (v * (1.0 / 3.0) + 0.5)))
    elif mode.ACTIVATION == "silu":
        e = tl.exp(-tl.abs(v))
        s = tl.where(v < 0.0, e, 1.0) / (1.0 + e)
        g = g * s * (1.0 + v * (1.0 - s))
    return g


@triton.jit
def _to_six(v):
    v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(v, 6.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def cast(v, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """float32 -> dtype, rounded to nearest even.

    The interpreter truncates bfloat16 and loses subnormals: there it is done on bits.
    """
    if INTERPRET and dtype == tl.bfloat16:
        bits = v.to(tl.uint32, bitcast=True)
        bits = tl.where(v != v, bits | 0x400000, bits + 0x7FFF + ((bits >> 16) & 1))
        v = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        v = v.to(dtype)
    return v


@triton.jit
def widen(v, INTERPRET: tl.constexpr):
    """What was loaded, as float32. The interpreter makes zeros of bfloat16's subnormals, so there it is done on bits."""
    if INTERPRET and v.dtype == tl.bfloat16:
        v = (v.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        v = v.to(tl.float32)
    return v


@triton.jit
def operand(v, INTERPRET: tl.constexpr):
    """A tl.dot operand. The interpreter has no bfloat16 products and slow float16 ones; both are exact in float32."""
    if INTERPRET:
        v = widen(v, INTERPRET)
    return v


@triton.jit
def unravel(m, P, Q, WIDE: tl.constexpr):
    """Pixel number m = (n*P + p)*Q + q -> n, p, q; n in 64 bits where offsets need them."""
    q = m % Q
    rest = m // Q
    p = rest % P
    n = rest // P
    if WIDE:
        n = n.to(tl.int64)
        p = p.to(tl.int64)
        q = q.to(tl.int64)
    return n, p, q


@triton.jit
def wide(i, WIDE: tl.constexpr):
    """The index i, in 64 bits where offsets need them."""
    if WIDE:
        i = i.to(tl.int64)
    return i


@triton.jit
def tile_order(pid, tiles_m, tiles_k, GROUP: tl.constexpr):
    """Program number -> (row tile, column tile), GROUP row tiles at a time: programs that run together share operands in L2.

    Source: the Triton matmul tutorial's "L2 cache optimizations".
    """
    width = GROUP * tiles_k
    first = pid // width * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    return first + pid % width % size, pid % width // size


@triton.jit
def block_of(M, C, P, Q, block, WIDE: tl.constexpr):
    """The pixels and channels of a bandwidth-bound program: n, p, q, m < M, channel, channel < C.

    Channel blocks vary fastest: programs that run together read whole pixels.
    """
    tiles_c = tl.cdiv(C, block.BC)
    pid = tl.program_id(0)
    m = pid // tiles_c * block.BM + tl.arange(0, block.BM)
    c = pid % tiles_c * block.BC + tl.arange(0, block.BC)
    n, p, q = unravel(m, P, Q, WIDE)
    return n, p, q, m < M, c, c < C


@triton.jit
def row_of(x, n, h, w):
    """Offset of pixel (n, h, w) of an image, its channel 0."""
    return n * x.n + h * x.h + w * x.w


@triton.jit
def store_block(y, n, p, q, c, value, mask, mode):
    """Stores value[pixel, channel], rounded to y's dtype."""
    offset = row_of(y, n, p, q)[:, None] + wide(c, mode.WIDE)[None, :] * y.c
    tl.store(y.ptr + offset, cast(value, y.ptr.dtype.element_ty, mode.INTERPRET), mask=mask)


@triton.jit
def store_tile(y, y_row, residual_row, k, k_mask, mask, acc, epilogue, mode):
    """y = activation(acc + bias + residual), in float32 and rounded once. The rows are offsets of pixels, k the filters."""
    channel = wide(k, mode.WIDE)
    if epilogue.bias is not None:
        acc += widen(tl.load(epilogue.bias + k, mask=k_mask, other=0.0), mode.INTERPRET)[None, :]
    if epilogue.residual is not None:
        place = residual_row[:, None] + channel[None, :] * epilogue.c
        acc += widen(tl.load(epilogue.residual + place, mask=mask, other=0.0), mode.INTERPRET)
    out = cast(activate(acc, mode), y.ptr.dtype.element_ty, mode.INTERPRET)
    tl.store(y.ptr + y_row[:, None] + channel[None, :] * y.c, out, mask=mask)


@triton.jit
def store_partial(partial, row, k, K, mask, acc):
    """A split's sums, into row split*M + m of the float32 workspace (SPLIT, M, K); the reduction does the epilogue."""
    place = row.to(tl.int64)[:, None] * K + k[None, :]
    tl.store(partial.ptr + place, acc, mask=mask)
