"""Normalisation: batch norm at inference (where it is not folded into a convolution) and local response normalisation."""

from __future__ import annotations

from torch import Tensor

from convatlas.kernels.common.blocks import block_config
from convatlas.kernels.common.launch import Launch, as_image, cdiv, is_wide, strides
from convatlas.kernels.common.target import Target
from convatlas.kernels.norm.triton import batch_norm_kernel, local_response_norm_kernel
from convatlas.ops.observe import Call


def _launch(kernel, call: Call, x: Tensor, y: Tensor, extra: dict, constants: dict, target: Target) -> Launch:
    N, C, H, W = y.shape
    M = N * H * W
    config = block_config(M, C, y.stride(1) == 1, target)
    arguments = dict(x=x, y=y, M=M, H=H, W=W, C=C, **strides("x", x, "nchw"), **strides("y", y, "nchw"), **extra)
    constants = dict(**constants, BM=config.BM, BC=config.BC, WIDE=is_wide(x, y), INTERPRET=target.interpreted)
    return Launch(kernel, (cdiv(M, config.BM) * cdiv(C, config.BC),), arguments, constants, config.num_warps)


def batch_norm_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """One pass over the input."""
    names = {"mean": "running_mean", "var": "running_var", "weight": "weight", "bias": "bias"}
    extra = dict(**{field: tensors.get(name) for field, name in names.items()}, eps=call.params["eps"])
    constants = dict(ACTIVATION=call.epilogue.activation)
    return [_launch(batch_norm_kernel, call, as_image(tensors["input"]), as_image(out), extra, constants, target)]


def local_response_norm_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[Launch]:
    """One pass; the window's channels come from L1."""
    (before, after), beta = call.spec.reach, call.params["beta"]
    extra = dict(beta=beta, k=call.params["k"], scale=call.params["alpha"] / call.spec.size)
    kind = "zero" if beta == 0 else "fraction" if beta % 1 else "odd" if beta % 2 else "even"
    constants = dict(BEFORE=before, AFTER=after, BETA=kind)
    x, y = as_image(tensors["input"]), as_image(out)
    return [_launch(local_response_norm_kernel, call, x, y, extra, constants, target)]
