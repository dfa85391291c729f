"""Few input channels by TMA: which convolutions take it, how image and filters are packed, and the launches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.kernels.common.launch import Launch, cdiv, is_wide, power_of_two, strides
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.conv2d.configs_tma import box
from convatlas.kernels.conv2d.triton_rows import conv2d_rows_kernel, stem_pack_kernel
from convatlas.specs import Conv2dSpec, dtype_name

# A packed row of a window is at most one swizzle of shared memory, and its start a multiple of 16 bytes.
SWIZZLE, ALIGNMENT = 128, 16
# Taps and output pixels from which packing pays: 7x7 and 11x11 windows gain from one image on, a 3x3 window reads its 27 numbers
# faster where they lie (timed on an H100, docs/tuning/triton.md).
TAPS, PIXELS = 49, 1 << 12
# Blocks an SM from which programs take 256 pixels instead of 128.
MANY = 4


@dataclass(frozen=True)
class Packing:
    """Channels a pixel (CP), numbers a row of a window (WINDOW), and the packed image's rows and columns."""

    CP: int
    WINDOW: int
    ROWS: int
    COLUMNS: int


def packing(spec: Conv2dSpec, dtype: str) -> Packing | None:
    """How the image is packed, or None where it cannot be: a row of a window would not fit a swizzle."""
    size = 4 if dtype == "float32" else 2
    SW = spec.stride[1]
    CP = next((c for c in (4, 8) if c >= spec.C and SW * c * size % ALIGNMENT == 0), None)
    if CP is None or spec.groups != 1 or spec.dilation != (1, 1):
        return None
    WINDOW = max(power_of_two(spec.S * CP), 16)
    if WINDOW * size > SWIZZLE:
        return None
    (_, _), (left, right) = spec.padding
    # The last window's unused columns must be zeros too, not the next row's pixels; an even width keeps rows aligned.
    columns = max(left + spec.W + right, (spec.Q - 1) * SW + WINDOW // CP)
    return Packing(CP, WINDOW, cdiv(spec.H, spec.stride[0]) * spec.stride[0], columns + columns % 2)


def fits(spec: Conv2dSpec, dtype: str, tf32: bool, target: Target) -> bool:
    """Whether packing the image is possible, and pays."""
    if target.unbounded or target.arch < 90 or (dtype == "float32" and not tf32):
        return False
    pays = spec.R * spec.S >= TAPS and spec.K >= 32 and spec.N * spec.P * spec.Q >= PIXELS
    return pays and packing(spec, dtype) is not None


def launches(
    spec: Conv2dSpec,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    activation: str | None,
    tf32: bool,
    target: Target,
    pixels: int | None = None,
    num_stages: int = 4,
) -> list[Launch]:
    """Packs x (N, C, H, W) and w (K, C, R, S), whatever their strides, and convolves; `pixels` a program, and its pipeline."""
    p = packing(spec, dtype_name(x.dtype))
    (top, _), (left, _) = spec.padding
    N, C, H, W = x.shape
    SH, SW = spec.stride
    z = torch.empty((N, p.ROWS, p.COLUMNS, p.CP), dtype=x.dtype, device=x.device)
    packed = torch.empty((spec.K, spec.R * p.WINDOW), dtype=x.dtype, device=x.device)
    total, rows = N * p.ROWS * p.COLUMNS, spec.K * spec.R * (p.WINDOW // p.CP)
    BLOCK = 256
    window = dict(C=C, R=spec.R, S=spec.S, CP=p.CP, WINDOW=p.WINDOW)
    pack = Launch(
        stem_pack_kernel,
        (cdiv(total, BLOCK) + cdiv(rows, BLOCK),),
        dict(
            x=x, w=w, z=z, packed=packed, pixels=total, filters=spec.K, H=H, W=W, ROWS=p.ROWS, COLUMNS=p.COLUMNS,
            **strides("x", x, "nchw"), **dict(zip(("w_k", "w_c", "w_r", "w_s"), w.stride())),
        ),
        dict(LEFT=left, **window, BLOCK=BLOCK, WIDE=is_wide(x, z)),
    )  # fmt: skip
    BN = min(128, max(64, power_of_two(spec.K)))
    if pixels is None:  # 256 pixels spilled beside 128 filters, and in float32
        pixels = 256 if BN == 64 and x.element_size() == 2 and N * spec.P * spec.Q >= MANY * 256 * target.sms else 128
    TN, TH, TW = box(N, spec.P, spec.Q, pixels)
    line = p.COLUMNS * p.CP
    image = TensorDescriptor(
        z,
        [N, p.ROWS // SH, SH, spec.Q, p.WINDOW],
        [p.ROWS * line, SH * line, line, SW * p.CP, 1],
        [TN, TH, 1, TW, p.WINDOW],
    )
    tiles = cdiv(N, TN), cdiv(spec.P, TH), cdiv(spec.Q, TW)
    arguments = dict(
        rows=image, filters=TensorDescriptor(packed, list(packed.shape), [packed.shape[1], 1], [BN, p.WINDOW]),
        z=z, w=packed, bias=bias, residual=residual, y=out, N=N, P=spec.P, Q=spec.Q, K=spec.K,
        ROWS=p.ROWS, COLUMNS=p.COLUMNS, tiles_p=tiles[1], tiles_q=tiles[2],
        **strides("y", out, "nchw"), **strides("res", residual, "nchw"),
    )  # fmt: skip
    constants = dict(
        TOP=top, **window, STRIDE_H=SH, STRIDE_W=SW, ACTIVATION=activation, TN=TN, TH=TH, TW=TW, BN=BN,
        PRECISION="tf32" if tf32 else "ieee", WIDE=is_wide(z, out, residual), INTERPRET=target.interpreted,
    )  # fmt: skip
    grid = (tiles[0] * tiles[1] * tiles[2] * cdiv(spec.K, BN),)
    warps = 8 if pixels * BN > 128 * 128 else 4
    return [pack, Launch(conv2d_rows_kernel, grid, arguments, constants, warps, num_stages, MAX_REGISTERS)]
