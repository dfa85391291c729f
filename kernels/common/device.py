"""Functions that kernels share on the device: activation, rounding stores, index arithmetic, tile order."""

import triton
import triton.language as tl


@triton.jit
def activate(v, ACTIVATION: tl.constexpr):
    """relu or relu6 of a float32 block. PTX max and min drop a NaN operand; .NaN forms keep it, as torch.relu does."""
    if ACTIVATION == "relu":
        v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "relu6":
        v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
        v = tl.minimum(v, 6.0, propagate_nan=tl.PropagateNan.ALL)
    return v


@triton.jit
def cast(v, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """float32 -> dtype, round to nearest even. The interpreter truncates bfloat16 and loses subnormals: there by bits."""
    if INTERPRET and dtype == tl.bfloat16:
        bits = v.to(tl.uint32, bitcast=True)
        bits = tl.where(v != v, bits | 0x400000, bits + 0x7FFF + ((bits >> 16) & 1))
        v = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        v = v.to(dtype)
    return v


@triton.jit
def widen(v, INTERPRET: tl.constexpr):
    """float32 of what was loaded. The interpreter makes zeros of bfloat16's subnormals, so there it goes by bits."""
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
def tile_order(pid, tiles_m, tiles_k, GROUP: tl.constexpr):
    """Program number -> (row tile, column tile), GROUP row tiles at a time: programs that run together share operands in L2.

    Source: the Triton matmul tutorial's "L2 cache optimizations".
    """
    width = GROUP * tiles_k
    first = pid // width * GROUP
    size = tl.minimum(tiles_m - first, GROUP)
    return first + pid % width % size, pid % width // size


@triton.jit
def finish(acc, bias, residual, k, k_mask, res_offset, mask, ACTIVATION: tl.constexpr, INTERPRET: tl.constexpr):
    """The epilogue: activation(acc + bias + residual), in float32."""
    if bias is not None:
        acc += widen(tl.load(bias + k, mask=k_mask, other=0.0), INTERPRET)[None, :]
    if residual is not None:
        acc += widen(tl.load(residual + res_offset, mask=mask, other=0.0), INTERPRET)
    return activate(acc, ACTIVATION)
