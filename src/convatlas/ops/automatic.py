"""Which of our two backends a CUDA tensor gets when nobody says: one rule, in one place, for measurements to replace."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING

from convatlas.kernels.gemm.configs import GEMV_ROWS

if TYPE_CHECKING:
    from convatlas.call import Call

# Output elements from which cuda's kernel for global averages fills an H100: below, Triton's smaller programs end sooner.
MEANS = 1 << 16
# Taps and output pixels of a first layer from which cuda's stem kernel is the quicker one.
STEM_TAPS, STEM_PIXELS = 49, 1 << 17
# A linear layer of up to so many rows and filters, and of so long a reduction, is the CUDA GEMM's: it splits the reduction finer.
LINEAR_ROWS, LINEAR_FILTERS, LINEAR_REDUCTION = 64, 1024, 2048


@cache
def cuda_is_here() -> bool:
    """Whether CuPy is installed, which compiles and launches the CUDA C++ kernels."""
    return find_spec("cupy") is not None


def choose(call: Call) -> str:
    """The preferred backend where it can run: without CuPy everything is Triton's."""
    return preferred(call) if cuda_is_here() else "triton"


def preferred(call: Call) -> str:
    """The backend that was the quicker one on an H100 80GB HBM3 (float16, L2 cold, CUDA graphs; docs/performance.md has them all).

    cuda: max and average pooling; depthwise convolution, by tiles in shared memory; global averages of many maps; linear layers of
    up to 8 rows, which stream their weights, and those of few rows and filters and a long reduction; 7x7 and larger windows of few
    channels in half precision on many images; windows over channels that 8 divides and 16 does not, which Triton reads one by one.
    triton: everything else. Where tensor cores multiply it reaches Hopper's and Blackwell's own instructions (HGMMA, UTCHMMA), our
    CUDA kernels only mma.sync.
    """
    spec, half = call.spec, call.dtype != "float32"
    if call.op in ("max_pool2d", "avg_pool2d"):
        return "cuda"
    if call.op == "adaptive_avg_pool2d":
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
