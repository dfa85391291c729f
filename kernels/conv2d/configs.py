"""How a convolution is packed, tiled and split: pure functions of spec, dtype and target."""

from __future__ import annotations

from convatlas.kernels.common.launch import cdiv
from convatlas.kernels.common.packing import pack
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import HELD, TileConfig, interpreter_config, step_channels, tile_config
from convatlas.specs import Conv2dSpec

# A multiple of this many channels is read 16 bytes at a time (Triton's specialisation of integers knows multiples of 16 only).
VECTOR = 16


def gather_config(spec: Conv2dSpec, dtype: str, tf32: bool, residual: bool, target: Target) -> TileConfig:
    """Tiles for the gather kernel: steps are taps x channel blocks, at most 4 warps for more than one tap (see the kernel)."""
    packs = spec.groups // pack(spec.groups, spec.C // spec.groups, spec.K // spec.groups)
    M, K, C = spec.N * spec.P * spec.Q, spec.K // packs, spec.C // packs
    if target.unbounded:
        return interpreter_config(M, K, C)
    taps = spec.R * spec.S
    warps = 8 if taps == 1 else 4
    # A step lies inside one tap, so BK follows from the channels alone; the tile and the split from all taps.
    BK = step_channels(C, dtype, tf32)
    held = None
    if C % VECTOR:
        # Channels are read one by one, those of a pack through a second mask: narrow steps and tiles leave registers to them. Steps
        # of 32 spilled on sm_100, and on sm_80 beside filters that are stored one by one, as ptxas holds a step's addresses.
        narrow = packs < spec.groups or target.arch >= 100 or (target.arch < 90 and K % VECTOR != 0)
        BK, held = (min(BK, 16), HELD // 2) if narrow else (min(BK, 32), HELD)
    # Of a float32 step behind a window's masks ptxas keeps so many operands in registers that 32 accumulators spill on sm_100.
    unrolled = dtype == "float32" and not tf32 and taps > 1 and target.arch >= 100
    steps = taps * cdiv(C, BK) * BK
    split = 16 if packs == 1 else 1  # the workspace of a split is laid out for one pack
    return tile_config(
        M,
        K,
        steps,
        dtype,
        tf32,
        target,
        problems=packs,
        max_warps=warps,
        max_split=split,
        BK=BK,
        residual=residual
        or K % VECTOR != 0,  # stored one by one, each accumulator has an address, as beside a residual
        ragged=C % BK != 0,
        accumulators=16 if unrolled else 128,
        held=held,
    )


def stem_config(spec: Conv2dSpec, dtype: str, tf32: bool, target: Target) -> TileConfig:
    """Tiles for the stem kernel: no split (its reduction is short), steps of 32 so that 27 or 147 products pad little.

    Its addresses differ element by element and live in registers, so the tile is small and the pipeline short: 128x64 spilled.
    Where filters are stored one by one as well, the accumulators have addresses too, and both are HELD together over the steps.
    """
    M, K, L = spec.N * spec.P * spec.Q, spec.K, spec.reduction
    if target.unbounded:
        return interpreter_config(M, K, L)
    simt = dtype == "float32" and not tf32  # operands pass through registers as well
    BK = 16 if L <= 16 or simt else 32
    bounds = {"accumulators": 16 if simt else 32, "max_stages": 2, "held": HELD if L > BK and K % VECTOR else None}
    return tile_config(M, K, L, dtype, tf32, target, max_warps=4, max_split=1, BK=BK, **bounds)
