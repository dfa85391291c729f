"""conv2d: chooses among the depthwise, pointwise, stem, TMA and gather kernels, and launches."""

from __future__ import annotations

from convatlas.kernels.common.arguments import Tile, epilogue, image, mode, partials, window
from convatlas.kernels.common.launch import Launch, cdiv, channels_adjacent
from convatlas.kernels.common.packing import krsc, pack
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.splitk import reduce_launch, workspace
from convatlas.kernels.common.tiles import MAX_REGISTERS
from convatlas.kernels.conv2d import launch_triton_rows as rows
from convatlas.kernels.conv2d import launch_triton_tma as tma
from convatlas.kernels.conv2d.configs import gather_config, stem_config
from convatlas.kernels.conv2d.triton_gather import conv2d_gather_kernel
from convatlas.kernels.conv2d.triton_stem import conv2d_stem_kernel
from convatlas.kernels.depthwise.launch_triton import depthwise
from convatlas.kernels.gemm.launch_triton import pointwise


def conv2d(p: Problem) -> list[Launch]:
    """The launches of one convolution with its epilogue."""
    return {"depthwise": depthwise, "pointwise": pointwise, "stem": stem}.get(p.spec.kind, gather)(p)


def gather(p: Problem) -> list[Launch]:
    """The TMA kernel where it fits, else one launch of the gather kernel, or with split-K two."""
    spec, target = p.spec, p.target
    x, w, residual = channels_adjacent(p["input"]), krsc(p["weight"]), p.get("residual")
    if tma.fits(p, x):
        return tma.launches(p, x, w)
    config = gather_config(spec, p.dtype, p.tf32, residual is not None, target)
    together = pack(spec.groups, spec.C // spec.groups, spec.K // spec.groups)
    packs = spec.groups // together
    M, K, C = spec.N * spec.P * spec.Q, spec.K // packs, spec.C // packs
    split = config.SPLIT
    partial = workspace(p.out, split) if split > 1 else None
    added, y = partials(p, partial)
    arguments = dict(
        x=image(x)._replace(c=1), w=w, epilogue=added, y=y, M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, C=C, K=K,
    )  # fmt: skip
    constants = dict(
        window=window(spec), tile=Tile(config.BM, config.BN, config.BK, SPLIT=split),
        mode=mode(p, x, w, p.out, residual, whole=split == 1), C_BLOCKS=cdiv(C, config.BK), EVEN_C=C % config.BK == 0,
        GROUP_C=spec.C // spec.groups if together > 1 else 0, GROUP_K=spec.K // spec.groups if together > 1 else 0,
        PACK=together, BITS=max(spec.R, spec.S) <= 31,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(K, config.BN) * split * packs,)
    conv = Launch(conv2d_gather_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)
    return [conv] if partial is None else [conv, reduce_launch(partial, p)]


def stem(p: Problem) -> list[Launch]:
    """Few input channels: packed rows where they pay, else one launch that reads the image as it lies."""
    spec, x, target = p.spec, p["input"], p.target
    if rows.fits(p):
        return rows.launches(p)
    w = krsc(p["weight"])
    config = stem_config(spec, p.dtype, p.tf32, target)
    M = spec.N * spec.P * spec.Q
    arguments = dict(
        x=image(x), w=w, epilogue=epilogue(p), y=image(p.out), M=M, H=spec.H, W=spec.W, P=spec.P, Q=spec.Q, K=spec.K,
    )  # fmt: skip
    constants = dict(
        window=window(spec), tile=Tile(config.BM, config.BN, config.BK), mode=mode(p, x, w, p.out, p.get("residual")),
        C=spec.C,
    )  # fmt: skip
    grid = (cdiv(M, config.BM) * cdiv(spec.K, config.BN),)
    return [Launch(conv2d_stem_kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)]
