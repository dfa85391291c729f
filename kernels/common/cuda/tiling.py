"""How an image is cut into tiles for the kernels with sliding windows (tile.cuh)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from convatlas.kernels.common.cuda.launch import reciprocal
from convatlas.kernels.common.launch import cdiv, is_wide

if TYPE_CHECKING:
    from convatlas.kernels.common.target import Target

WIDTH, STRIP = 8, 4  # outputs of a tile's row, and of one thread: tile.cuh's TW and STRIP
LANES = 8  # vectors of channels of a tile: 128 bytes of a pixel, a whole cache line
GRID_LIMIT = 65535  # blocks along y and z


@dataclass(frozen=True)
class Tiling:
    """height x 8 output pixels x `lanes` vectors of channels a block."""

    height: int
    lanes: int
    groups: int
    grid: tuple[int, int, int]

    @property
    def threads(self) -> int:
        """A strip and a vector each, rounded up to whole warps."""
        return cdiv(self.height * WIDTH // STRIP * self.lanes, 32) * 32

    @property
    def arguments(self) -> dict[str, Any]:
        """What the kernels' parameter structs hold of it."""
        return dict(
            lanes=self.lanes, groups=self.groups, by_lanes=reciprocal(self.lanes), by_groups=reciprocal(self.groups)
        )

    def shared(self, window: int, stride: int) -> int:
        """Bytes of the input pixels of a tile, its rows an odd number of pixels apart."""
        height, width = ((tile - 1) * stride + window for tile in (self.height, WIDTH))
        return height * (width | 1) * self.lanes * 16


def tiling(spec: Any, x: Tensor, chunks: int, stride: int, target: Target) -> Tiling | None:
    """The tiles of a window op on x (N, C, H, W) with `chunks` vectors of channels; None where its indices need 64 bits.

    The channels are cut evenly: 18 vectors are 3 groups of 6, not 8 + 8 + 2. Tiles are 8 rows high, which halves the rows read
    twice, where that leaves two blocks an SM; with stride 2 a tile of 8 rows would take 37 KB, and 4 rows read only 1/8 twice.
    """
    groups = cdiv(chunks, LANES)
    lanes = cdiv(chunks, max(groups, 1))
    across = groups * cdiv(spec.Q, WIDTH)
    height = 8 if stride == 1 and across * cdiv(spec.P, 8) * spec.N >= 2 * target.sms else 4
    grid = (across, cdiv(spec.P, height), spec.N)
    if max(grid[1:]) > GRID_LIMIT or across >= 1 << 31 or is_wide(x[:1]):
        return None
    return Tiling(height, lanes, groups, grid)
