"""Memory formats: which one an output gets, and whether two tensors share memory."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """True when a 4-D tensor's channels are adjacent in memory: NHWC, or a channel slice of a wider NHWC buffer.

    A tensor that is both (one channel, or one pixel) counts as contiguous NCHW, as PyTorch's own suggestion does.
    """
    return x.dim() == 4 and x.stride(1) == 1 and not x.is_contiguous()


def allocate(shape: tuple, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised output in the memory format of `like`."""
    last = len(shape) == 4 and is_channels_last(like)
    return torch.empty(
        tuple(shape),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def _span(x: Tensor) -> tuple[int, int]:
    first = x.data_ptr()
    last = first + x.element_size() * (1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride())))
    return first, last


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the two share an element. Two channel slices of one channels_last buffer interleave without sharing any."""
    if not a.numel() or not b.numel() or a.device != b.device:
        return False
    (a0, a1), (b0, b1) = _span(a), _span(b)
    if a1 <= b0 or b1 <= a0:
        return False
    if a.dim() == b.dim() == 4 and is_channels_last(a) and is_channels_last(b):
        row = a.stride(3)
        same = row == b.stride(3) and a.shape[1] <= row and b.shape[1] <= row
        if same and all(s % row == 0 for t in (a, b) for s in (t.stride(0), t.stride(2))):
            gap = (b0 - a0) // a.element_size() % row  # channels from a's first to b's first within one pixel
            return gap < a.shape[1] or gap + b.shape[1] > row
    return True
