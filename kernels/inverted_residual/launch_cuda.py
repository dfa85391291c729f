"""Launcher of inverted residual blocks, and of depthwise separable ones, which have no expanding part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from convatlas.errors import ShapeError
from convatlas.kernels.common.cuda.launch import (
    TYPES,
    CudaLaunch,
    aligned,
    reciprocal,
    strides,
    vectors,
    with_activation,
)
from convatlas.kernels.common.launch import cdiv
from convatlas.kernels.common.target import TARGETS, Target
from convatlas.kernels.inverted_residual.configs import Config, candidates, choose
from convatlas.layout import taps_first
from convatlas.model.work import Tiling, Work
from convatlas.specs import BlockSpec, itemsize
from convatlas.specs.activations import exact

if TYPE_CHECKING:
    from torch import Tensor

    from convatlas.call import Call
    from convatlas.kernels.common.problem import Problem

SOURCE = "inverted_residual/inverted_residual.cu"
ACTIVATIONS = {"relu": "RELU", "relu6": "RELU6"}
# What every GPU from sm_80 on has of shared memory for a block: CUDA C++ Programming Guide, "Technical Specifications".
SMALLEST = replace(TARGETS["sm_80"], shared=99 * 1024)


def takes(spec: BlockSpec, dtype: str) -> bool:
    """Whether the kernel computes a block of this shape: half precision, 3x3 or 5x5 windows of stride 1 or 2, whole vectors of
    channels, relu or relu6 inside, and sums of all filters in registers.
    """
    depthwise, project, expand = (spec.part(name) for name in ("depthwise", "project", "expand"))
    d, p = depthwise.spec, project.spec
    square = d.R == d.S and d.R in (3, 5) and d.stride in ((1, 1), (2, 2)) and d.dilation == (1, 1) and d.K == d.C
    one = all(part is None or part.spec.stride == (1, 1) for part in (project, expand))
    inner = {part.epilogue.activation for part in (depthwise, expand) if part}
    known = len(inner) == 1 and inner <= ACTIVATIONS.keys() and exact(project.epilogue.activation)
    whole = not any(c % 8 for c in (d.C, p.K, *([expand.spec.C, d.C // 2] if expand else ())))
    right = dtype in ("float16", "bfloat16") and square and one and known and whole
    return right and _config(spec, SMALLEST) is not None


def _config(spec: BlockSpec, target: Target) -> Config | None:
    d, p, expand = spec.part("depthwise").spec, spec.part("project").spec, spec.part("expand")
    found = candidates(d.R, d.stride[0], expand.spec.C if expand else d.C, d.C, p.K, expand is not None)
    return choose(list(found), p.P, p.Q, p.N, d.C, target)


def inverted_residual(p: Problem) -> list[CudaLaunch]:
    """One launch. The output is channels_last, and an input that is not is copied; weights lie as layers of their own have them.

    Raises ShapeError for a block that does not fit an SM's shared memory and registers.
    """
    spec, x, out = p.spec, p["input"], p.out
    depthwise, project = spec.part("depthwise"), spec.part("project")
    x = x if vectors(x) else x.contiguous(memory_format=torch.channels_last)
    residual = x if project.epilogue.residual else None
    config = _config(spec, p.target)
    if config is None:
        raise ShapeError(f"{spec.pattern}: {spec} does not fit shared memory and registers of sm_{p.target.arch}")
    d, k = depthwise.spec, project.spec
    tiles_p, tiles_q = cdiv(k.P, config.TH), cdiv(k.Q, config.TW)
    source, activation = with_activation(SOURCE, project.epilogue.activation)
    (top, _), (left, _) = d.padding
    arguments = dict(
        x=x, y=out, residual=residual,
        expand=_matrix(p, "expand"), expand_bias=p.get("expand.bias"),
        depthwise=_taps(p["depthwise.weight"]), depthwise_bias=p.get("depthwise.bias"),
        project=_matrix(p, "project"), project_bias=p.get("project.bias"),
        C=x.shape[1], H=d.H, W=d.W, E=d.C, K=k.K, P=k.P, Q=k.Q, top=top, left=left,
        **strides("x", x, "nhw"), **strides("y", out, "nhw"), **strides("res", residual, "nhw"),
        activation=activation, slices=cdiv(d.C, config.CE),
        by_tiles_p=reciprocal(tiles_p), by_tiles_q=reciprocal(tiles_q), tiles_p=tiles_p, tiles_q=tiles_q,
    )  # fmt: skip
    sizes = (config.R, config.U, config.TH, config.TW, config.warps, config.CE, config.KS, config.NP)
    inner = ACTIVATIONS[depthwise.epilogue.activation]
    template = (TYPES[p.dtype], *map(str, sizes), inner, str(config.resident(p.target)))
    grid = (tiles_p * tiles_q * k.N,)
    return [CudaLaunch(source, "inverted_residual", template, grid, 32 * config.warps, arguments, config.shared, True)]


depthwise_separable = inverted_residual


def _matrix(p: Problem, name: str) -> Tensor | None:
    """A 1x1 convolution's weights, filter after filter, from an aligned address."""
    w = p.get(f"{name}.weight")
    if w is None:
        return None
    w = w.reshape(w.shape[:2]).contiguous()
    return w if aligned(w) else w.clone()


def _taps(w: Tensor) -> Tensor:
    """Depthwise weights as R, S, K, from an aligned address."""
    w = taps_first(w)
    return w if aligned(w) else taps_first(w.clone())


def work(call: Call, launch: CudaLaunch) -> Work:
    """What the time model has to know of a launch."""
    config = Config(*map(int, launch.template[1:9]))
    grid, spec, size = launch.grid[0], call.spec, itemsize(call.dtype)
    slices = launch.arguments["slices"]
    tile = Tiling(config.TH * config.TW, 0, 0, slices, 1, grid, (1, config.TH, config.TW))
    flops = 2 * grid * slices * config.products() * 16 * 8 * 16
    target = TARGETS["sm_90"]
    return Work(
        launch.kernel, f"{config.warps} warps, slices of {config.CE}", grid, launch.block, 2, tile, flops, 0,
        spec.bytes(call.dtype), "cuda", size, resident=int(launch.template[-1]), clocks=config.clocks(target),
    )  # fmt: skip
