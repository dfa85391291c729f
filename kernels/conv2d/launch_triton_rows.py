"""Few input channels by TMA: which convolutions take it, how image and filters are packed, and the launches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.kernels.common.arguments import Box, epilogue, image, mode, window
from convatlas.kernels.common.launch import Launch, cdiv, power_of_two
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.conv2d.configs import VECTOR
from convatlas.kernels.conv2d.configs_tma import box
from convatlas.kernels.conv2d.triton_rows import conv2d_rows_kernel, stem_pack_kernel
from convatlas.specs import Conv2dSpec

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


def fits(p: Problem) -> bool:
    """Whether packing the image is possible, and pays."""
    spec, target = p.spec, p.target
    if target.unbounded or target.arch < 90 or p.simt or "triton/rows" in target.held:
        return False
    pays = spec.R * spec.S >= TAPS and spec.K >= 32 and spec.N * spec.P * spec.Q >= PIXELS
    return pays and packing(spec, p.dtype) is not None


def launches(p: Problem, pixels: int | None = None, num_stages: int = 4) -> list[Launch]:
    """Packs the input (N, C, H, W) and the weight (K, C, R, S), whatever their strides, and convolves.

    pixels, num_stages: pixels a program and pipeline stages, in place of those that are chosen.
    """
    spec, x, w, out, packed_as = p.spec, p["input"], p["weight"], p.out, packing(p.spec, p.dtype)
    CP, WINDOW, ROWS, COLUMNS = packed_as.CP, packed_as.WINDOW, packed_as.ROWS, packed_as.COLUMNS
    N, C, H, W = x.shape
    SH, SW = spec.stride
    z = torch.empty((N, ROWS, COLUMNS, CP), dtype=x.dtype, device=x.device)
    packed = torch.empty((spec.K, spec.R * WINDOW), dtype=x.dtype, device=x.device)
    total, rows = N * ROWS * COLUMNS, spec.K * spec.R * (WINDOW // CP)
    BLOCK = 256
    pack = Launch(
        stem_pack_kernel,
        (cdiv(total, BLOCK) + cdiv(rows, BLOCK),),
        dict(
            x=image(x), w=image(w), z=z, packed=packed, pixels=total, filters=spec.K, H=H, W=W, ROWS=ROWS, COLUMNS=COLUMNS
        ),
        dict(
            LEFT=spec.padding[1][0], C=C, R=spec.R, S=spec.S, CP=CP, WINDOW=WINDOW, BLOCK=BLOCK,
            mode=mode(p, x, z, whole=False),
        ),
    )  # fmt: skip
    vectors = spec.K % VECTOR == 0  # else filters are stored one by one, and 128 of them spilled
    BN = min(128 if vectors else 64, max(64, power_of_two(spec.K)))
    if pixels is None:  # 256 pixels spilled beside 128 filters, and in float32
        many = N * spec.P * spec.Q >= MANY * 256 * p.target.sms
        pixels = 256 if BN == 64 and x.element_size() == 2 and vectors and many else 128
    TN, TH, TW = box(N, spec.P, spec.Q, pixels)
    line = COLUMNS * CP
    overlapping = TensorDescriptor(
        z,
        [N, ROWS // SH, SH, spec.Q, WINDOW],
        [ROWS * line, SH * line, line, SW * CP, 1],
        [TN, TH, 1, TW, WINDOW],
    )
    tiles = cdiv(N, TN), cdiv(spec.P, TH), cdiv(spec.Q, TW)
    arguments = dict(
        rows=overlapping, filters=TensorDescriptor(packed, list(packed.shape), [packed.shape[1], 1], [BN, WINDOW]),
        z=z, w=packed, epilogue=epilogue(p), y=image(out), N=N, P=spec.P, Q=spec.Q, K=spec.K, ROWS=ROWS, COLUMNS=COLUMNS,
        tiles_p=tiles[1], tiles_q=tiles[2],
    )  # fmt: skip
    constants = dict(
        window=window(spec), box=Box(TN, TH, TW, BN, WINDOW), mode=mode(p, z, out, p.get("residual")),
        C=C, CP=CP, WINDOW=WINDOW,
    )  # fmt: skip
    grid = (tiles[0] * tiles[1] * tiles[2] * cdiv(spec.K, BN),)
    warps = 8 if pixels * BN > 128 * 128 else 4
    return [pack, Launch(conv2d_rows_kernel, grid, arguments, constants, warps, num_stages, MAX_REGISTERS)]
