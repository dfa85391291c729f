"""Launcher of a run of convolutions on small maps as one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from convatlas.call import Call
from convatlas.errors import ShapeError
from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch, strides, vectors, with_vectors
from convatlas.kernels.common.launch import is_wide
from convatlas.kernels.common.packing import krsc
from convatlas.kernels.persistent.configs import (
    BM,
    BN,
    LAYERS,
    PIXELS,
    RESIDENT,
    SHARED,
    STAGE,
    STAGES,
    STEP,
    THREADS,
    clocks,
    levels,
    split_for,
    steps,
    table,
    tiles,
)
from convatlas.model.work import Tiling, Work
from convatlas.specs import BlockSpec, Conv2dSpec, Part
from convatlas.specs.common import itemsize

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

SOURCE = "persistent/persistent.cu"
WORDS = 8  # of a row of the table


def takes(spec: BlockSpec, dtype: str) -> bool:
    """Whether the kernel computes a run of this shape: half precision, 2 to 48 dense convolutions of at most 1,024 pixels each."""
    halves = dtype in ("float16", "bfloat16") and spec.stored == dtype
    return halves and 2 <= len(spec.parts) <= LAYERS and all(map(may, spec.parts))


def may(part: Part) -> bool:
    """Whether it can be a layer of a run."""
    s = part.spec
    if not isinstance(s, Conv2dSpec) or s.groups != 1 or s.dilation != (1, 1) or part.op != "conv2d":
        return False
    (top, _), (left, _) = s.padding
    small = max(s.R, s.S, *s.stride, top, left) < 256 and s.N * s.H * s.W * s.C < 1 << 31
    whole = s.C % STEP == 0 and s.K % BN == 0 and s.K < 1 << 16
    return small and whole and 0 < s.N * s.P * s.Q <= PIXELS and part.epilogue.activation in (None, "relu", "relu6")


def persistent(p: Problem) -> list[CudaLaunch]:
    """Two launches: the counters set to zero, and the run. Raises ShapeError for what 32-bit offsets do not reach."""
    x, out, rows = p["input"], p.out, table(p.spec, p.target)
    if not vectors(x):
        x = x.contiguous(memory_format=torch.channels_last)
    if is_wide(x, out):
        raise ShapeError(
            f"persistent: an input of {tuple(x.shape)}, expected less than 2^31 elements from first to last"
        )

    def empty(count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=x.device)

    arguments = dict(
        x=x, y=out, maps=empty(rows.elements, out.dtype), sums=empty(rows.slots * BM * BN, torch.float32),
        counters=empty(rows.words, torch.int32),
        layers=len(rows.rows), tasks=rows.tasks, words=rows.words, **strides("x", x, "nhw"), **strides("y", out, "nhw"),
    )  # fmt: skip
    for i in range(LAYERS):
        row = rows.rows[i] if i < len(rows.rows) else None
        w, b = (p.get(f"{row.part.name}.{name}") for name in ("weight", "bias")) if row else (None, None)
        arguments |= {f"w[{i}]": None if w is None else with_vectors(krsc(w)), f"b[{i}]": with_vectors(b)}
        packed = row.packed if row else [0] * WORDS
        arguments |= {f"table[{WORDS * i + k}]": word for k, word in enumerate(packed)}
    blocks = max(1, min(RESIDENT, (p.target.shared + 1024) // (SHARED + 1024)))
    grid = min(rows.tasks, blocks * p.target.sms)
    T = TYPES[p.dtype]
    return [
        CudaLaunch(SOURCE, "persistent_clear", (T,), (1,), 256, arguments),
        CudaLaunch(
            SOURCE, "persistent", (T, str(STAGES), str(RESIDENT)), (grid,), THREADS, arguments, SHARED, True, together=True
        ),
    ]  # fmt: skip


def work(call: Call, launch: CudaLaunch) -> Work:
    """What the time model has to know of a launch.

    A run's clocks are those of `configs.clocks`, of layers that need nothing of one another the most; its weights arrive meanwhile.
    """
    size, spec = itemsize(call.dtype), call.spec
    if launch.kernel == "persistent_clear":
        return Work(launch.kernel, launch.expression, 1, launch.block, 1, Tiling(1), 0, 0, 0, "cuda", size)
    (grid,) = launch.grid
    sms = max(1, grid // RESIDENT)
    total = sum(max(clocks(part.spec, split_for(part.spec, sms), sms) for part in level) for level in levels(spec))
    copied = sum(tiles(part.spec) * steps(part.spec) * STAGE for part in spec.parts)
    count = len(levels(spec))
    tiling = Tiling(BM, BN, STEP, count, 1, grid)
    waits = (0.0, 0.0, total / count)
    flops = sum(2 * tiles(part.spec) * BM * BN * steps(part.spec) * STEP for part in spec.parts)
    return Work(
        launch.kernel, launch.expression, grid, launch.block, STAGES, tiling, flops, copied, spec.bytes(call.dtype, None), "cuda",
        size, resident=RESIDENT, clocks=waits,
    )  # fmt: skip
