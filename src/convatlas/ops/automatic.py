"""Which of our two backends computes on a CUDA tensor when nobody names one.

The rule stands here only; measurements may change it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING

from convatlas.kernels.gemm.configs import GEMV_ROWS

if TYPE_CHECKING:
    from convatlas.call import Call

# Output elements from which cuda's kernel for global pooling fills an H100: below, Triton's smaller programs end sooner.
MEANS = 1 << 16
# Taps and output pixels of a first layer from which cuda's stem kernel is the quicker one.
STEM_TAPS, STEM_PIXELS = 49, 1 << 17
# A linear layer of up to so many rows and filters, and of so long a reduction, is the CUDA GEMM's: it splits the reduction finer.
LINEAR_ROWS, LINEAR_FILTERS, LINEAR_REDUCTION = 64, 1024, 2048


@cache
def cuda_is_here() -> bool:
    """Whether CuPy is installed, which compiles and launches the CUDA C++ kernels."""
    return find_spec("cupy") is not None


def choose(call: Call, device: int) -> str:
    """The preferred backend on GPU number `device`, or Triton where CuPy is not installed or the kernel is unproven there.

    A block has one backend, and whoever makes one has asked for it.
    """
    return chosen(call, held_on(device)) if cuda_is_here() or call.op == "block" else "triton"


def chosen(call: Call, held: Collection[str]) -> str:
    """The preferred backend on a GPU that does not take the kernels `held` unasked."""
    found = preferred(call)
    return "triton" if found == "cuda" and call.op != "block" and family(call) in held else found


def held_on(device: int) -> frozenset[str]:
    """The kernels that the GPU does not take unasked."""
    from convatlas.kernels.common.target import of_device

    return of_device(device).held


def family(call: Call) -> str:
    """The kernel that computes a call of the rule below in CUDA C++, as kernels/common/proven.py names it."""
    if call.op == "linear":
        return "cuda/gemm"
    if call.op == "conv2d":
        return {"depthwise": "cuda/depthwise", "stem": "cuda/conv2d"}.get(call.spec.kind, "cuda/gemm")
    return "cuda/pool"


def preferred(call: Call) -> str:
    """The backend that was the quicker one on an H100 80GB HBM3 (float16, L2 cold, CUDA graphs; docs/performance.md has them all).

    layer                                              backend   why
    max and average pooling, depthwise convolution     cuda      every copy of a window is on its way at once
    global pooling of 65,536 outputs and more          cuda      only then do its blocks fill the GPU
    linear, up to 8 rows                               cuda      it only streams its weights, by a kernel written for that
    linear, half precision, up to 64 rows and          cuda      its GEMM splits the reduction finer
      1024 filters, 2048 channels and more
    few channels, 7x7 windows and larger, half         cuda      the stem kernel reads the image as it lies
      precision, many images
    windows over 8, 24, 40, ... channels, half         cuda      Triton reads such pixels one number at a time
      precision
    blocks of several ops (plan/blocks.py)             cuda      the only kernels of them
    all else, such as dense layers and residual_add    triton    it reaches wgmma and TMA, our CUDA kernels only mma.sync
    """
    spec, half = call.spec, call.dtype != "float32"
    if call.op == "block":
        return "cuda"
    if call.op in ("max_pool2d", "avg_pool2d"):
        return "cuda"
    if call.op in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return "cuda" if prod(spec.output_shape) >= MEANS else "triton"
    if call.op == "linear":
        rows, filters, reduction = spec.gemm
        long = rows <= LINEAR_ROWS and filters <= LINEAR_FILTERS and reduction >= LINEAR_REDUCTION and half
        return "cuda" if rows <= GEMV_ROWS or long else "triton"
    if call.op == "conv2d" and spec.kind == "depthwise":
        return "cuda"
    if call.op == "conv2d" and spec.groups == 1 and half:
        many = spec.N * spec.P * spec.Q >= STEM_PIXELS
        stem = spec.C <= 4 and spec.R * spec.S >= STEM_TAPS and many
        odd = spec.C % 16 == 8 and spec.R * spec.S > 1
        return "cuda" if stem or odd else "triton"
    return "triton"
