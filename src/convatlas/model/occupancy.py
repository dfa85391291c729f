"""Occupancy: how many blocks of a launch one SM holds at once, and what keeps it from holding more.

    warps        ceil(threads / 32) a block
    registers    a warp takes 32 * registers, rounded up to the register unit; each partition of the SM holds whole warps
    shared       a block takes static + dynamic + reserved bytes, rounded up to the shared unit
    blocks       at most so many on an SM, whatever they need

The least of the four limits is the number of blocks. Source: NVIDIA CUDA C++ Programming Guide, "Hardware Multithreading" and
"Technical Specifications per Compute Capability".
"""

from __future__ import annotations

from dataclasses import dataclass

from convatlas.errors import InputError
from convatlas.model.gpu import Architecture

WARP = 32


@dataclass(frozen=True)
class Occupancy:
    """What one SM holds of a launch.

    Attributes:
        blocks: resident blocks; 0 for a launch that no SM can take.
        warps: of these blocks.
        share: of the warps that the SM could hold, 0 to 1.
        limits: blocks that each resource alone would allow, by name; None for one that the launch does not use.
        limiters: the resources whose limit is the least.
    """

    blocks: int
    warps: int
    share: float
    limits: dict[str, int | None]
    limiters: tuple[str, ...]


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def occupancy(architecture: Architecture, threads: int, registers: int, shared: int) -> Occupancy:
    """For blocks of `threads` threads with `registers` registers each and `shared` bytes of shared memory, static and dynamic.

    The SM gives shared memory the largest share of what it and the L1 cache divide, which a launch that needs it gets.
    Raises InputError for a number of threads below 1, or registers or shared memory below 0.
    """
    if threads < 1 or registers < 0 or shared < 0:
        raise InputError(
            f"occupancy: {threads} threads, {registers} registers, {shared} bytes, expected at least 1, 0 and 0"
        )
    a = architecture
    warps = _up(threads, WARP) // WARP
    limits: dict[str, int | None] = {
        "warps": a.threads // WARP // warps if threads <= a.block_threads else 0,
        "registers": None,
        "shared memory": None,
        "blocks": a.blocks,
    }
    if registers:
        each = _up(registers * WARP, a.register_unit)
        # A block's warps go round the partitions, so that each must have room for the fullest one's.
        fits = registers <= a.thread_registers and each * _up(warps, a.partitions) <= a.block_registers
        limits["registers"] = a.registers // a.partitions // each * a.partitions // warps if fits else 0
    if used := shared + a.reserved_shared:
        fits = shared <= a.block_shared
        limits["shared memory"] = a.shared // _up(used, a.shared_unit) if fits else 0
    blocks = min(n for n in limits.values() if n is not None)
    limiters = tuple(name for name, n in limits.items() if n == blocks)
    return Occupancy(blocks, blocks * warps, blocks * warps * WARP / a.threads, limits, limiters)
