"""Blocks of the bandwidth-bound kernels that own BM pixels x BC channels: depthwise, pooling, normalisation."""

from __future__ import annotations

from dataclasses import dataclass

from convatlas.kernels.common.launch import power_of_two
from convatlas.kernels.common.target import Target


@dataclass(frozen=True)
class BlockConfig:
    """BM output pixels x BC channels a program."""

    BM: int
    BC: int
    num_warps: int = 4


def block_config(pixels: int, channels: int, adjacent: bool, target: Target) -> BlockConfig:
    """Blocks for `pixels` x `channels` outputs.

    adjacent: channels lie side by side in memory (channels_last): a warp then reads rows of 64 channels, 128 bytes of halves.
    Otherwise (NCHW) neighbouring pixels lie side by side, and a program takes one channel of many pixels. About 2048 elements a
    program keep 16 float32 accumulators in each of 128 threads.
    """
    if target.unbounded:
        BC = min(power_of_two(channels), 512)
        return BlockConfig(min(power_of_two(max(pixels, 1)), (1 << 19) // BC), BC, 1)
    if not adjacent:
        return BlockConfig(min(power_of_two(max(pixels, 32)), 1024), 1)
    BC = min(power_of_two(channels), 64)
    BM = max(2048 // BC, 1)
    # Fewer pixels a program until there are two blocks an SM: a small map has little to share between neighbours anyway.
    while BM > 8 and (pixels // BM) * (channels // BC + 1) < 2 * target.sms:
        BM //= 2
    # 8 elements a thread at least, so that a half-precision access moves 16 bytes.
    return BlockConfig(BM, BC, num_warps=max(1, min(4, BM * BC // 256)))
