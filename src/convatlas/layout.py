"""Memory formats: which one an output gets, and whether two tensors share memory."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from convatlas.call import Call

# Steps after which the solver of an overlap gives up, and elements that are listed one by one then: milliseconds, and one second.
WORK, LISTED = 10_000, 1 << 22
BASE = 1 << 40  # an address for arrays that are never read


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


def allocate_extra(call: Call, like: Tensor) -> dict[str, Tensor]:
    """A call's outputs behind its first, by name, each uninitialised and in the memory format of `like`."""
    return {
        name: allocate(shape, like, None if dtype is None else getattr(torch, dtype))
        for name, (shape, dtype) in call.extra.items()
    }


def allocate_result(spec: Any, like: Tensor) -> Tensor:
    """An uninitialised output of a spec's shape, in the memory format of `like`: in its dtype, or float32 for sums of halves."""
    halves = like.element_size() == 2
    return allocate(spec.output_shape, like, torch.float32 if spec.sums and halves else None)


def taps_first(weight: Tensor) -> Tensor:
    """A filter (K, C, R, S) that lies in memory as R, S, C, K: of a depthwise one the kernel reads the tap of neighbouring
    channels as one vector, where K, R, S would take a load each.
    """
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def address(x: Tensor) -> tuple[int, int]:
    """(memory, byte): where x begins.

    All tensors that hold data share one memory; without data, each storage is a memory of its own.
    """
    if x.is_meta or isinstance(x, FakeTensor):
        return x.untyped_storage()._cdata, x.storage_offset() * x.element_size()
    return 0, x.data_ptr()


def is_static(x: Tensor) -> bool:
    """Whether all sizes and strides of x are known, which is not so while a compiler traces with dynamic shapes."""
    return all(type(n) is int for n in (*x.shape, *x.stride(), x.storage_offset()))


Dims = list[tuple[int, int]]


def _dimensions(x: Tensor) -> Dims:
    """(count, stride) of each dimension, in elements and by ascending stride; neighbours that are one run are merged."""
    dims: Dims = []
    for s, n in sorted((s, n) for n, s in zip(x.shape, x.stride()) if n != 1):
        if dims and s == dims[-1][0] * dims[-1][1]:
            dims[-1] = dims[-1][0] * n, dims[-1][1]
        else:
            dims.append((n, s))
    return dims


def _meet(a: Dims, b: Dims, distance: int, size: int = 1) -> bool:
    """Whether some index of `a` and one of `b`, whose first element lies `distance` bytes further, are one place in memory.

    Elements have `size` bytes. The answer is exact, by numpy.shares_memory's solver of bounded Diophantine equations. Where
    that gives up, every place is listed; where there are too many places, the answer is True.
    """
    if distance % size:  # elements cut in two: what counts are bytes
        a, b = ([(n, s * size) for n, s in dims] + [(size, 1)] for dims in (a, b))
        size = 1
    distance //= size
    starts = max(-distance, 0), max(distance, 0)
    try:
        return np.shares_memory(*map(np.asarray, map(_Places, starts, (a, b))), max_work=WORK)
    except np.exceptions.TooHardError:
        if max(prod(n for n, _ in dims) for dims in (a, b)) > LISTED:
            return True
        return bool(np.isin(*map(_listed, starts, (a, b))).any())


class _Places:
    """The description of an array whose elements are single bytes at the given places. NumPy makes it, and never reads it."""

    def __init__(self, start: int, dims: Dims) -> None:
        shape, strides = zip(*dims) if dims else ((), ())
        places = {"data": (BASE + start, True), "shape": shape, "strides": strides}
        self.__array_interface__ = {"version": 3, "typestr": "|u1", **places}


def _listed(start: int, dims: Dims) -> np.ndarray:
    places = np.array([start], np.int64)
    for n, s in dims:
        places = (places[:, None] + s * np.arange(n)).ravel()
    return places


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype share memory: exact, so that channel slices of one buffer, which interleave, do not."""
    if not a.numel() or not b.numel() or a.device != b.device:
        return False
    memories, starts = zip(address(a), address(b))
    if memories[0] != memories[1]:
        return False
    size, dims = a.element_size(), [_dimensions(x) for x in (a, b)]
    ends = [start + size * (1 + sum((n - 1) * s for n, s in d)) for start, d in zip(starts, dims)]
    if ends[0] <= starts[1] or ends[1] <= starts[0]:
        return False
    return _meet(*dims, starts[1] - starts[0], size)


def overlaps_itself(x: Tensor) -> bool:
    """Whether two indices of x are one place in memory, as where x was expanded: exact.

    Two indices whose last difference, by ascending stride, is in dimension d meet exactly where the dimensions below d, at
    index 0 of d, meet themselves at one of its further indices. A stride larger than all that lies below it needs no such check.
    """
    span, dims = 0, _dimensions(x) if x.numel() else []
    for at, (n, s) in enumerate(dims):
        if s == 0 or (s <= span and _meet(dims[:at], [(n - 1, s), *dims[:at]], s)):
            return True
        span += (n - 1) * s
    return False
