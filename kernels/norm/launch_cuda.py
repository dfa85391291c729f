"""Launchers of batch normalisation and local response normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from convatlas.kernels.common.cuda.launch import (
    TYPES,
    CudaLaunch,
    aligned,
    chunk,
    dtype_name,
    strides,
    vectors,
    with_activation,
)
from convatlas.kernels.common.launch import as_image, cdiv
from convatlas.kernels.norm.launch_cuda_train import (  # noqa: F401 (a room's launchers are found in this module)
    batch_norm_input_grad,
    batch_norm_stats,
    batch_norm_sums,
)

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

THREADS = 256
SOURCE = "norm/norm.cu"


def _launch(source: str, kernel: str, x: Tensor, y: Tensor, VEC: int, template: tuple[str, ...], **given) -> CudaLaunch:
    N, C, H, W = y.shape
    arguments = dict(
        mean=None, var=None, weight=None, bias=None, residual=None, before=0, after=0, activation=0,
        eps=0.0, scale=0.0, beta=0.0, k=0.0,
        x=x, y=y, N=N, C=C, H=H, W=W, **strides("x", x, "nchw"), **strides("y", y, "nchw"),
        channels_last=int(y.stride(1) == 1),
    )  # fmt: skip
    grid = (cdiv(y.numel() // VEC, THREADS),)
    arguments |= strides("r", given.get("residual"), "nchw")
    return CudaLaunch(source, kernel, (TYPES[dtype_name(y)], *template), grid, THREADS, {**arguments, **given})


def batch_norm(p: Problem) -> list[CudaLaunch]:
    """One pass over the input."""
    x, y = as_image(p["input"]), as_image(p.out)
    names = {"mean": "running_mean", "var": "running_var", "weight": "weight", "bias": "bias"}
    numbers = {field: p.get(name) for field, name in names.items()}
    kind = dtype_name(y)
    if any(
        a is not None and a.dtype != y.dtype for a in numbers.values()
    ):  # float32 beside halves: each as float32, one by one
        numbers, kind = {field: a if a is None else a.float() for field, a in numbers.items()}, "float32"
    residual = p.get("residual")
    residual = None if residual is None else as_image(residual)
    VEC = chunk(x) if vectors(x, y, residual) and aligned(*numbers.values()) and kind == dtype_name(y) else 1
    source, activation = with_activation(SOURCE, p.activation)
    numbers |= dict(residual=residual, eps=float(p.params["eps"]), activation=activation)
    return [_launch(source, "batch_norm", x, y, VEC, (str(VEC), TYPES[kind]), **numbers)]


def local_response_norm(p: Problem) -> list[CudaLaunch]:
    """One pass; the window's channels come from L1."""
    (before, after), scale = p.spec.reach, p.params["alpha"] / p.spec.size
    numbers = dict(before=before, after=after, beta=float(p.params["beta"]), k=float(p.params["k"]), scale=scale)
    return [_launch(SOURCE, "local_response_norm", as_image(p["input"]), as_image(p.out), 1, (), **numbers)]


def local_response_norm_grad(p: Problem) -> list[CudaLaunch]:
    """One pass; what the windows share comes from L1."""
    g, x, dx = as_image(p["grad_output"]), as_image(p["input"]), as_image(p.out)
    (before, after), (N, C, H, W) = p.spec.forward.reach, dx.shape
    arguments = dict(
        g=g, x=x, dx=dx, N=N, C=C, H=H, W=W, **strides("g", g, "nchw"), **strides("x", x, "nchw"), **strides("dx", dx, "nchw"),
        before=before, after=after, channels_last=int(dx.stride(1) == 1), scale=p.params["alpha"] / p.spec.forward.size,
        beta=float(p.params["beta"]), k=float(p.params["k"]),
    )  # fmt: skip
    return [
        CudaLaunch(SOURCE, "response_norm_grad", (TYPES[p.dtype],), (cdiv(dx.numel(), THREADS),), THREADS, arguments)
    ]
