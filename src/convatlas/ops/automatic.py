"""Which of our two backends a CUDA tensor gets when nobody says: one rule, in one place, for measurements to replace."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convatlas.ops.observe import Call

# Rows up to which a linear layer only streams its weights, and runs on the CUDA kernel that is written for that (kernels/linear).
GEMV_ROWS = 8
BANDWIDTH_BOUND = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "residual_add")


@cache
def cuda_is_here() -> bool:
    """Whether CuPy is installed, which compiles and launches the CUDA C++ kernels."""
    return find_spec("cupy") is not None


def choose(call: Call) -> str:
    """The preferred backend where it can run: without CuPy everything is Triton's."""
    return preferred(call) if cuda_is_here() else "triton"


def preferred(call: Call) -> str:
    """ "cuda" for what memory bandwidth bounds: depthwise, pooling, residual_add, linear of up to 8 rows; else "triton".

    The reasoning, not yet a measurement: where bandwidth is the bound, CUDA C++ says which bytes move when (16-byte vectors, a
    window kept in registers); where tensor cores are, Triton reaches Hopper's and Blackwell's own instructions (HGMMA, UTCHMMA) and
    our CUDA kernels only mma.sync.
    """
    if call.op in BANDWIDTH_BOUND or (call.op == "conv2d" and call.spec.kind == "depthwise"):
        return "cuda"
    if call.op == "linear" and call.spec.gemm[0] <= GEMV_ROWS:
        return "cuda"
    return "triton"
