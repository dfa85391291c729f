"""How both backends pack the groups and lay out the filters of a convolution."""

from __future__ import annotations

from torch import Tensor

# Channels that a pack of groups aims for: 32 halves are 64 bytes, two DRAM sectors of every pixel, and two MMA steps; more
# would only add zeros to the block-diagonal weights (a pack of G groups multiplies G times what it must).
PACK_CHANNELS = 32


def pack(groups: int, C: int, K: int) -> int:
    """How many groups of C channels and K filters are taken together: the most that divide `groups` within PACK_CHANNELS."""
    fits = (g for g in range(1, groups + 1) if groups % g == 0 and g * max(C, K) <= PACK_CHANNELS)
    return max(fits, default=1)


def krsc(weight: Tensor) -> Tensor:
    """The filter as (K, R, S, C) with C innermost: the weight's own memory when it is channels_last, else a copy."""
    return weight.permute(0, 2, 3, 1).contiguous()
