"""Launchers of batch normalisation, local response normalisation and softmax."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from convatlas.kernels.common.cuda.launch import ACTIVATIONS, TYPES, CudaLaunch, aligned, chunk, dtype_name, vectors
from convatlas.kernels.common.launch import as_image, cdiv, strides

if TYPE_CHECKING:
    from convatlas.kernels.common.target import Target
    from convatlas.ops.observe import Call

THREADS = 256
SOFTMAX_THREADS = 128  # as in softmax.cu: 8 elements a thread for 1000 classes


def _launch(kernel: str, x: Tensor, y: Tensor, VEC: int, template: tuple[str, ...], **given) -> CudaLaunch:
    N, C, H, W = y.shape
    arguments = dict(
        mean=None, var=None, weight=None, bias=None, before=0, after=0, activation=0, eps=0.0, scale=0.0, beta=0.0, k=0.0,
        x=x, y=y, N=N, C=C, H=H, W=W, **strides("x", x, "nchw"), **strides("y", y, "nchw"),
        channels_first=int(y.stride(1) == 1),
    )  # fmt: skip
    grid = (cdiv(y.numel() // VEC, THREADS),)
    return CudaLaunch("norm/norm.cu", kernel, (TYPES[dtype_name(y)], *template), grid, THREADS, {**arguments, **given})


def batch_norm_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[CudaLaunch]:
    """One pass over the input."""
    x, y = as_image(tensors["input"]), as_image(out)
    names = {"running_mean": "mean", "running_var": "var", "weight": "weight", "bias": "bias"}
    numbers = {field: tensors.get(name) for name, field in names.items()}
    VEC = chunk(x) if vectors(x, y) and aligned(*numbers.values()) else 1
    activation = ACTIVATIONS[call.epilogue.activation]
    eps = float(call.params["eps"])
    return [_launch("batch_norm", x, y, VEC, (str(VEC),), **numbers, eps=eps, activation=activation)]


def local_response_norm_launches(
    call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target
) -> list[CudaLaunch]:
    """One pass; the window's channels come from L1."""
    before, after = call.spec.reach
    numbers = dict(
        beta=float(call.params["beta"]), k=float(call.params["k"]), scale=call.params["alpha"] / call.spec.size
    )
    x, y = as_image(tensors["input"]), as_image(out)
    return [_launch("local_response_norm", x, y, 1, (), before=before, after=after, **numbers)]


def softmax_launches(call: Call, tensors: dict[str, Tensor], out: Tensor, target: Target) -> list[CudaLaunch]:
    """A block a row. `out` is contiguous (backend.run sees to it)."""
    shape, dim = call.spec.shape, call.params["dim"]
    length, inner = call.spec.reduction, prod(shape[dim + 1 :])
    rows = out.numel() // length if length else 0
    arguments = dict(x=tensors["input"].contiguous(), y=out, length=length, inner=inner)
    shared = 4 * 2 * (SOFTMAX_THREADS // 32)
    template = (TYPES[dtype_name(out)],)
    return [CudaLaunch("softmax/softmax.cu", "softmax", template, (rows,), SOFTMAX_THREADS, arguments, shared, True)]
