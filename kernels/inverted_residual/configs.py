"""Tiles of inverted_residual.cu: what each takes of shared memory, registers and an SM's time, and the choice among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from convatlas.kernels.common.launch import cdiv
from convatlas.kernels.common.override import forced
from convatlas.kernels.common.target import Target

# Output pixels of a tile, and warps that share them. Wide tiles read less halo, small ones fill more SMs.
TILES = ((8, 8, 4), (4, 16, 4), (8, 16, 4), (8, 16, 8), (16, 16, 8))
SLICES = (32, 64)  # expanded channels at a time
REGISTERS, THREADS = 65536, 2048  # of an SM, from sm_80 on
RESERVED = 1024  # bytes of shared memory that the driver takes of each block
# Fitted to 102 times of MobileNetV2's blocks at batches 1 and 32 on an H100 80GB HBM3, every config of each block at batch 32
# (docs/fusion.md): shares of the tensor cores' rate and of the schedulers' slots; clocks that a slice waits with no other block to
# hide it, for its weights and at two barriers; and clocks between two instructions of a warp. Their mean error is 6 %.
MMA_SHARE, ISSUE_SHARE = 0.26, 0.46
WAIT, EACH = 1900.0, 4.4
MMA = 16 * 8 * 16  # products of one instruction


@dataclass(frozen=True)
class Config:
    """One instantiation of the kernel: its template arguments but for the dtype and the activation.

    Attributes:
        R, U: window and stride of the depthwise convolution.
        TH, TW: output pixels of a tile.
        warps: of a block.
        CE: expanded channels of a slice.
        KS: steps of 16 channels of the input, 0 without an expanding part.
        NP: blocks of 8 filters, even.
    """

    R: int
    U: int
    TH: int
    TW: int
    warps: int
    CE: int
    KS: int
    NP: int

    @property
    def slots(self) -> int:
        """Pixels of the tile with its halo."""
        return ((self.TH - 1) * self.U + self.R) * ((self.TW - 1) * self.U + self.R)

    @property
    def halo(self) -> int:
        """Tiles of 16 pixels of the same."""
        return cdiv(self.slots, 16)

    @property
    def pairs(self) -> int:
        """Pairs of taps."""
        return (self.R * self.R + 1) // 2

    @property
    def per_warp(self) -> int:
        """Tiles of 16 output pixels of a warp."""
        return self.TH * self.TW // 16 // self.warps

    @cached_property
    def shared(self) -> int:
        """Bytes of a block, as inverted_residual.cu lays them out."""
        x_row, t_row = (2 * self.KS + 1) * 16, (self.CE // 8 + 1) * 16
        pixels = self.halo * 16
        maps = pixels * (x_row + t_row if self.KS else 2 * t_row)
        taps = self.CE * cdiv(self.pairs, 4) * 16
        weights = (self.CE * x_row if self.KS else 0) + self.NP * 8 * t_row
        return maps + taps + 2 * (weights + (self.R * self.R + 2) * self.CE * 2)

    @property
    def registers(self) -> int:
        """A thread's, reckoned: the projection's sums; beside them the expansion's weights and sums, or a window's operands."""
        sums = 4 * self.per_warp * self.NP
        expanding = (self.KS * self.CE // 8 * 2 + self.CE // 8 * 6) if self.KS else 0
        addresses = 40 if self.R == 3 else 56
        return sums + max(expanding, 16 * self.per_warp + 24) + addresses

    def resident(self, target: Target) -> int:
        """Blocks an SM, which the kernel's launch bounds ask for; 0 where not even one fits."""
        if self.shared > target.shared or self.registers > 255:
            return 0
        by_shared = (target.shared + RESERVED) // (self.shared + RESERVED)
        by_registers = REGISTERS // (32 * self.warps * cdiv(self.registers, 8) * 8)
        return max(1, min(by_shared, by_registers, THREADS // (32 * self.warps)))

    def products(self) -> int:
        """MMA instructions of a slice."""
        outputs = self.TH * self.TW // 16
        expand = self.halo * self.CE // 8 * self.KS
        return expand + outputs * self.CE // 8 * self.pairs + outputs * self.NP * self.CE // 16

    def clocks(self, target: Target) -> tuple[float, float, float]:
        """(tensor cores, issue slots, waits) of a slice, clocks of an SM that has no other block."""
        outputs, groups = self.TH * self.TW // 16, self.CE // 16
        expand = self.halo * (self.KS + self.CE // 8 * 10) + self.warps * self.KS * groups if self.KS else 0
        depthwise = outputs * groups * (2 * self.pairs + 24) + self.warps * groups * (4 * self.pairs + 24)
        project = self.warps * groups * self.NP // 2
        copies = self.NP * self.CE // 32 + (self.CE * self.KS // 16 if self.KS else self.slots * self.CE // 256) + 40
        issued = self.products() + expand + depthwise + project + copies + self.warps * 40
        tensor = self.products() * MMA / (target.half_fma * MMA_SHARE)
        return tensor, issued / (4 * ISSUE_SHARE), WAIT + EACH * issued / self.warps


def candidates(R: int, U: int, C: int, E: int, K: int, expand: bool) -> Iterator[Config]:
    """All instantiations that compute a block of C -> E -> K channels."""
    for TH, TW, warps in TILES:
        for CE in SLICES:
            yield Config(R, U, TH, TW, warps, CE, cdiv(C, 16) if expand else 0, cdiv(K, 16) * 2)


def choose(found: list[Config], P: int, Q: int, N: int, E: int, target: Target) -> Config | None:
    """The instantiation of the least predicted clocks; None where none fits."""
    if (one := forced(Config)) is not None:
        return one

    def time(c: Config) -> float:
        blocks = cdiv(P, c.TH) * cdiv(Q, c.TW) * N
        most, resident = cdiv(blocks, target.sms), c.resident(target)
        tensor, issue, wait = c.clocks(target)
        total = 0.0
        for start in range(0, most, resident):
            n = min(resident, most - start)
            total += 3450 + cdiv(E, c.CE) * ((n * tensor) ** 2 + (n * issue) ** 2 + wait**2) ** 0.5
        return total

    fitting = [c for c in found if c.resident(target)]
    return min(fitting, key=time) if fitting else None
