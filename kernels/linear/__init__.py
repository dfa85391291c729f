"""linear: the same GEMM as a pointwise convolution, its rows the folded leading dimensions."""

from __future__ import annotations

from torch import Tensor

from convatlas.kernels.launch import Launch
from convatlas.kernels.pointwise import gemm_launches
from convatlas.kernels.precision import matmul_tf32
from convatlas.kernels.target import Target
from convatlas.ops.observe import Call


def launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """(..., C) x (K, C) -> (..., K); rows become the width of a one-pixel-high image."""
    M, K, C = call.spec.gemm
    x = tensors["input"].reshape(M, C)
    x = x if C == 1 or x.stride(1) == 1 else x.contiguous()
    rows = x.t()[None, :, None, :]  # (1, C, 1, M)
    y = out.view(M, K).t()[None, :, None, :]
    w = tensors["weight"].contiguous()
    tf32 = matmul_tf32(call)
    return gemm_launches(rows, w, tensors.get("bias"), None, y, (1, 1), call.epilogue.activation, tf32, target)
