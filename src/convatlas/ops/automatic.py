"""Which of our two backends a CUDA tensor gets when nobody says: one rule, in one place, for measurements to replace."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convatlas.ops.observe import Call

# Rows up to which a linear layer only streams its weights, and runs on the CUDA kernel that is written for that (kernels/linear).
GEMV_ROWS = 8
# Output elements from which the CUDA kernels' tiles fill an H100: below, Triton's smaller programs end sooner.
DEPTHWISE, MEANS = 1 << 20, 1 << 16
# Taps and output pixels of a first layer from which cuda's stem kernel is the quicker one.
STEM_TAPS, STEM_PIXELS = 49, 1 << 17


@cache
def cuda_is_here() -> bool:
    """Whether CuPy is installed, which compiles and launches the CUDA C++ kernels."""
    return find_spec("cupy") is not None


def choose(call: Call) -> str:
    """The preferred backend where it can run: without CuPy everything is Triton's."""
    return preferred(call) if cuda_is_here() else "triton"


def preferred(call: Call) -> str:
    """The backend that was the quicker one on an H100 80GB HBM3 (float16, L2 cold, CUDA graphs; docs/performance.md has them all).

    cuda: max and average pooling and residual_add; depthwise convolution and global averages of large maps, by tiles in shared
    memory; linear layers of up to 8 rows, which stream their weights; 7x7 and larger windows of few channels in half precision on
    many images. triton: everything else. Where tensor cores multiply it reaches Hopper's and Blackwell's own instructions
    (HGMMA, UTCHMMA), our CUDA kernels only mma.sync.
    """
    spec = call.spec
    if call.op in ("max_pool2d", "avg_pool2d", "residual_add"):
        return "cuda"
    if call.op == "adaptive_avg_pool2d":
        return "cuda" if prod(spec.output_shape) >= MEANS else "triton"
    if call.op == "linear":
        return "cuda" if spec.gemm[0] <= GEMV_ROWS else "triton"
    if call.op == "conv2d" and spec.kind == "depthwise":
        return "cuda" if prod(spec.output_shape) >= DEPTHWISE else "triton"
    if call.op == "conv2d" and spec.C <= 4 and call.dtype != "float32":
        many = spec.R * spec.S >= STEM_TAPS and spec.N * spec.P * spec.Q >= STEM_PIXELS
        return "cuda" if many and spec.groups == 1 else "triton"
    return "triton"
