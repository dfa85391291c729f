"""Launchers of what training adds to batch norm: batch statistics, the sums of its backward pass, the gradient of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convatlas.kernels.common.cuda.launch import (
    TYPES,
    CudaLaunch,
    chunk,
    reciprocal,
    strides,
    vectors,
    with_activation,
)
from convatlas.kernels.common.launch import as_image, cdiv, power_of_two

if TYPE_CHECKING:
    from convatlas.kernels.common.problem import Problem

SOURCE, THREADS, LOADS = "norm/norm_train.cu", 256, 4  # as in norm_train.cu
RESIDENT = 2  # blocks an SM: 32 KB of loads on their way, more than latency times bandwidth
LEAST = 4  # rounds of LOADS that a block of a split takes at least, as its join over the shares costs about one
JOINED = 32  # channels a block of the join


def _wide(x: Tensor | None) -> Tensor | None:
    """A channel's numbers as the kernels read them: adjacent float32."""
    return None if x is None else x.float().contiguous()


def _reduction(p: Problem, x: Tensor, kernel: str, statistics: bool, **given: Any) -> list[CudaLaunch]:
    """Parts of the pixels of each block of channels, and their join."""
    images = {"g": None, "output": None, "masked": None, **given, "x": x}
    N, C, H, W = x.shape
    M = N * H * W
    VEC = chunk(x) if vectors(*(images[name] for name in ("g", "x", "output", "masked"))) else 1
    # 8 vectors are 128 bytes of a pixel. Where neighbouring pixels lie side by side, all threads share one channel.
    lanes = min(power_of_two(C // VEC), 8 if VEC > 1 else 32) if x.stride(1) == 1 else 1
    blocks, step = cdiv(C, lanes * VEC), THREADS // lanes * LOADS
    split = max(min(cdiv(RESIDENT * p.target.sms, blocks), M // (LEAST * step), 65535), 1)
    size = cdiv(cdiv(M, split), step) * step
    split = max(cdiv(M, max(size, 1)), 1)
    source, activation = with_activation(SOURCE, p.params.get("activation"))
    part = torch.empty((2, split, C), dtype=torch.float32, device=x.device)
    arguments = dict(
        {"mean": None, "var": None, "eps": 0.0, **images}, part=part, y=p.out, C=C, H=H, W=W, M=M, lanes=lanes, size=size,
        split=split, by_H=reciprocal(H), by_W=reciprocal(W), activation=activation,
    )  # fmt: skip
    for prefix, name in (("g", "g"), ("x", "x"), ("o", "output"), ("m", "masked")):
        arguments |= strides(prefix, images[name], "nchw")
    shared = THREADS * VEC * 4 * (3 if statistics else 2)
    first = CudaLaunch(source, kernel, (TYPES[p.dtype], str(VEC)), (blocks, split), THREADS, arguments, shared, True)
    arguments = {**arguments, "lanes": JOINED}
    template, shared = (str(statistics).lower(),), THREADS * 4 * (3 if statistics else 2)
    return [first, CudaLaunch(SOURCE, "norm_join", template, (cdiv(C, JOINED),), THREADS, arguments, shared, True)]


def batch_norm_stats(p: Problem) -> list[CudaLaunch]:
    """One read of the input."""
    return _reduction(p, as_image(p["input"]), "norm_stats", True)


GIVEN = {"g": "grad_output", "output": "output", "masked": "masked"}


def _image(p: Problem, name: str) -> Tensor | None:
    return None if (x := p.get(name)) is None else as_image(x)


def _statistics(p: Problem) -> dict[str, Any]:
    return dict(mean=_wide(p["running_mean"]), var=_wide(p["running_var"]), eps=float(p.params["eps"]))


def batch_norm_sums(p: Problem) -> list[CudaLaunch]:
    """One read of the gradient and the input."""
    images = {name: _image(p, given) for name, given in GIVEN.items()}
    return _reduction(p, as_image(p["input"]), "norm_sums", False, **images, **_statistics(p))


def batch_norm_input_grad(p: Problem) -> list[CudaLaunch]:
    """One read of the gradient and, where the statistics are the batch's, of the input."""
    g, x, dx = as_image(p["grad_output"]), as_image(p["input"]), as_image(p.out)
    N, C, H, W = dx.shape
    output = _image(p, "output")
    VEC = chunk(dx) if vectors(g, x, dx, output) else 1
    source, activation = with_activation(SOURCE, p.params.get("activation"))
    arguments = dict(
        g=g, x=x, output=output, dx=dx, N=N, C=C, H=H, W=W, **_statistics(p), weight=_wide(p.get("weight")),
        sums=_wide(p.get("sums")), **strides("g", g, "nchw"), **strides("x", x, "nchw"), **strides("o", output, "nchw"),
        **strides("dx", dx, "nchw"), channels_last=int(dx.stride(1) == 1), activation=activation,
    )  # fmt: skip
    grid = (cdiv(dx.numel() // VEC, 256),)
    return [CudaLaunch(source, "norm_input_grad", (TYPES[p.dtype], str(VEC)), grid, 256, arguments)]
