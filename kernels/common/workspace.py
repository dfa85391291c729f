"""Workspaces: device memory that a thread keeps for the partial sums and packed rows of its launches on one stream.

Launches on one stream run one after another, and a thread lists all launches of an op before those of the next, so that one piece
of memory serves them all, as it serves cuBLAS (cublasSetWorkspace keeps one a handle and stream). Another thread or stream has its
own. While a CUDA graph records, memory comes from the graph's own pool, since the graph may outlive what is kept here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch
from torch import Tensor

KEPT = 64 << 20  # bytes; a larger workspace is allocated for each call and given back
STREAMS = 4  # whose workspaces a thread keeps, the least recently used going first
LINE = 256  # bytes; every part of a workspace begins at a multiple


class Workspaces(threading.local):
    """This thread's workspaces by device and stream."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[torch.device, int], Tensor] = OrderedDict()

    def take(self, size: int, device: torch.device, stream: int, capturing: bool) -> Tensor:
        """At least `size` bytes for launches on `stream`, the device's current one, until the next call."""
        if capturing or size > KEPT:
            return torch.empty(size, dtype=torch.uint8, device=device)
        key = device, stream
        memory = self.kept.get(key)
        if memory is None or memory.numel() < size:
            self.kept.pop(key, None)
            memory = self.kept[key] = torch.empty(size, dtype=torch.uint8, device=device)
        self.kept.move_to_end(key)
        while len(self.kept) > STREAMS:
            self.kept.popitem(last=False)
        return memory


workspaces = Workspaces()
