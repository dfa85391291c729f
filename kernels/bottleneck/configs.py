"""Tiles of the kernels of ResNet's blocks, what each costs, and which one a block gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convatlas.kernels.common.launch import cdiv
from convatlas.kernels.common.override import forced, note

if TYPE_CHECKING:
    from convatlas.kernels.common.target import Target

WIDTH, PIXELS = 14, 16  # outputs of a tile's row, and pixels with the halo of one window: the rows of one MMA
LINE = 64  # bytes of a row of a step: 32 halves
RESERVED = 1024  # bytes that CUDA keeps of each block: CUDA C++ Programming Guide, "Shared Memory", from sm_80 on
# Of an SM in a clock: products by mma.sync and bytes of shared memory; clocks of a load. Fitted to 79 times of these kernels on an
# H100 (docs/fusion.md), with the rest of the time model as it was: half of them within 9 %, nine in ten within 20 %.
PRODUCTS, BANKS, LATENCY = 970, 92, 2390
OVERHEAD = 3450  # clocks of a block beside its steps: the time model's


@dataclass(frozen=True)
class Cost:
    """What a block takes of its SM.

    Attributes:
        steps: through its ring.
        products: multiply-adds of its tensor cores, halo and overhang included.
        traffic: bytes through shared memory: copies in, fragments and middle maps.
        read: bytes of x and weights that it copies.
    """

    steps: int
    products: int
    traffic: int
    read: int


@dataclass(frozen=True)
class Tile:
    """height x 14 outputs a block.

    Attributes:
        middle: channels of the maps that stay in shared memory.
        height: rows of outputs.
        warps: of a block.
        across: warps side by side over the columns of the first convolution; over those of the others middle / 16.
        stages: steps of the ring in shared memory.
        resident: blocks of an SM that the registers are cut for.
        basic: a basic block's, which has x in shared memory too.
    """

    middle: int
    height: int
    warps: int
    across: int
    stages: int
    resident: int
    basic: bool = False

    @property
    def shared(self) -> int:
        """Bytes: the map with its halo, and the ring, whose steps hold pixels and filters of the 1x1, or a window's three taps.

        A basic block also has x with the halo of both windows.
        """
        rows = self.height + 2
        step = 3 * self.middle if self.basic else max(rows * PIXELS + self.middle, 3 * self.middle)
        own = (rows + 2) * (PIXELS + 2) * self.middle * 2 if self.basic else 0
        return rows * PIXELS * self.middle * 2 + self.stages * step * LINE + own

    def blocks(self, target: Target) -> int:
        """Blocks that an SM holds."""
        return max(1, min(self.resident, (target.shared + RESERVED) // (self.shared + RESERVED)))

    def grid(self, N: int, H: int, W: int) -> tuple[int, int, int]:
        """Tiles along a row, along a column, images."""
        return cdiv(W, WIDTH), cdiv(H, self.height), N

    def cost(self, C: int, K: int, downsample: bool) -> Cost:
        """What a block with C channels in and K out takes."""
        mid, rows = self.middle, self.height + 2
        # (rows of pixels, columns, reduction, fragments of A and of B in pairs that a warp reads for one k of 16 and its MMAs)
        first, later = rows * self.across // self.warps, self.height * mid // 16 // self.warps
        wide, narrow = mid // self.across // 16, 1
        window = (first + 2) / 3 + wide if self.basic else first + wide
        parts = [
            (rows, mid, 9 * mid if self.basic else C, window),
            (self.height, mid, 9 * mid, (later + 2) / 3 + narrow),
        ]
        if not self.basic:
            parts += [(self.height, K, mid * (1 + downsample), later + narrow)]
        products = sum(r * PIXELS * columns * k for r, columns, k, _ in parts)
        fragments = sum(self.warps * k // 16 * (columns // mid) * each * 512 for _, columns, k, each in parts)
        weights = 2 * sum(columns * k for _, columns, k, _ in parts)
        x = (rows + 2) * (PIXELS + 2) * mid if self.basic else rows * PIXELS * C * (1 + downsample * K // mid)
        steps = (
            6 * mid // 32 if self.basic else C // 32 + 3 * mid // 32 + K // mid * (mid // 64 + downsample * mid // 32)
        )
        maps = 2 * mid * PIXELS * (rows + (0 if self.basic else self.height))
        return Cost(steps, products, round(fragments) + weights + 2 * x + maps, weights + 2 * x)

    def clocks(self, cost: Cost) -> tuple[float, float, float]:
        """(tensor cores, shared memory, waiting) of one of a block's steps."""
        return (
            cost.products / PRODUCTS / cost.steps,
            cost.traffic / BANKS / cost.steps,
            LATENCY / max(self.stages - 1, 1),
        )


# 14 rows are 16 with the halo: 1.31 times the pixels of the first convolution. The lower ones are for few images, where there would
# be fewer tiles than SMs.
BOTTLENECKS = {
    64: (Tile(64, 14, 8, 2, 4, 2), Tile(64, 4, 8, 4, 4, 2), Tile(64, 2, 8, 2, 6, 2)),
    128: (Tile(128, 7, 8, 8, 3, 2), Tile(128, 1, 8, 8, 6, 1)),
}
BASIC_BLOCKS = {64: (Tile(64, 14, 8, 2, 3, 2, basic=True), Tile(64, 4, 8, 4, 6, 1, basic=True))}


def tile_for(
    tiles: Sequence[Tile], image: tuple[int, int, int], channels: tuple[int, int], downsample: bool, target: Target
) -> Tile:
    """The tile that takes the least time, of those that fit, for (N, H, W) images and (C, K) channels."""

    def time(tile: Tile) -> float:
        x, y, n = tile.grid(*image)
        cost, at_once = tile.cost(*channels, downsample), tile.blocks(target)
        tensor, memory, wait = tile.clocks(cost)
        rounds, rest = divmod(cdiv(x * y * n, target.sms), at_once)
        each = [at_once] * rounds + [rest] * (rest > 0)
        return sum(OVERHEAD + cost.steps * ((k * tensor) ** 2 + (k * memory) ** 2 + wait**2) ** 0.5 for k in each)

    fitting = [tile for tile in tiles if tile.shared <= target.shared]
    note(lambda: [(time(tile), tile) for tile in fitting])
    return forced(Tile) or min(fitting, key=time)
