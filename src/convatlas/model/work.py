"""Work: one launch as far as occupancy and the time model look at it, whoever wrote the kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiling:
    """How a launch is dealt out: a block computes BM x BN outputs at a time, BK products a step, `steps` steps.

    Attributes:
        BM, BN, BK: 0 for BN and BK where the kernel is no GEMM: BM outputs.
        steps: of the block's own part of the reduction.
        split: blocks that share one tile's reduction.
        count: tiles of the launch, a split one counted once for each part.
        box: (images, rows, columns) of the output pixels of a tile that is a box of them; None where they are a run, row after row.
    """

    BM: int
    BN: int = 0
    BK: int = 0
    steps: int = 1
    split: int = 1
    count: int = 0
    box: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        sizes = "x".join(str(n) for n in (self.BM, self.BN, self.BK) if n)
        return f"{sizes} /{self.split}" if self.split > 1 else sizes


@dataclass(frozen=True)
class Work:
    """One launch.

    Attributes:
        kernel: its name.
        config: what was chosen for it, in words.
        grid: blocks.
        threads: of a block.
        stages: depth of its pipeline; 1 for none.
        tile: what a block computes at a time.
        flops: that its tiles multiply, what overhangs and what a block-diagonal pack adds included; 0 where tensor cores do not.
        loaded: bytes that all blocks together read for their products, from wherever they lie: each tile's operands.
        moved: compulsory bytes between DRAM and the chip, of this launch.
        backend: "triton" or "cuda".
        size: bytes of an element.
        window: elements that the windows of all outputs hold together, for what is no matrix product.
        depthwise: whether these are multiplied by filters.
        copied: whether operands come by the tensor memory accelerator.
        resident: blocks that an SM holds, where the launcher bounds registers and so knows; else 1.
        clocks: (tensor cores, issue slots, waits) that a step of a block of several ops takes of an SM; None of all others.
    """

    kernel: str
    config: str
    grid: int
    threads: int
    stages: int
    tile: Tiling
    flops: int
    loaded: int
    moved: int
    backend: str
    size: int
    window: int = 0
    depthwise: bool = False
    copied: bool = False
    resident: int = 1
    clocks: tuple[float, float, float] | None = None

    @property
    def gemm(self) -> bool:
        """Whether it is a matrix product by tiles."""
        return self.tile.BN > 0
