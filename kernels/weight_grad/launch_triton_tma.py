"""The weight gradient by tensor memory access: which layers take it, how they are seen, and the launch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convatlas.kernels.common.arguments import Tile, mode, window
from convatlas.kernels.common.launch import Launch, cdiv
from convatlas.kernels.common.override import forced
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.tiles import MAX_REGISTERS, TileConfig
from convatlas.kernels.conv2d.launch_triton_tma import aligned
from convatlas.kernels.weight_grad.configs import CopyConfig, columns, tma_config
from convatlas.kernels.weight_grad.triton_tma import weight_grad_tma_kernel

# Images from which a step, one pixel of all of them, fills an MMA; channels and filters from which a tile is not half empty.
IMAGES, CHANNELS = 16, 64


def as_rows(p: Problem, dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """dy and x as the kernel takes them: a dense 1x1 layer's pixels are images of one pixel, all others stay as they are.

    None for a layer that it does not take: it needs Hopper's copy engine, half precision, one group, IMAGES, and operands that a
    descriptor can describe as a matrix. On a GPU it runs only where override(CopyConfig(...)) asks for it (roadmap R7): on an H100
    its first launches ended with an illegal instruction, although it compiles and the interpreter finds it exact.
    """
    f, target = p.spec.forward, p.target
    if not (target.unbounded or forced(CopyConfig)):
        return None
    if f.groups != 1 or min(f.C, f.K) < CHANNELS or p.dtype == "float32":
        return None
    if not target.unbounded and target.arch < 90:
        return None
    if f.kind == "pointwise" and f.stride == (1, 1) and all(t.permute(0, 2, 3, 1).is_contiguous() for t in (dy, x)):
        dy, x = (t.permute(0, 2, 3, 1).reshape(-1, t.shape[1], 1, 1) for t in (dy, x))
    return (dy, x) if dy.shape[0] >= IMAGES and all(map(_describable, (dy, x))) else None


def _describable(x: Tensor) -> bool:
    """Whether a descriptor can take x for a matrix of an image a row; a step along an axis of one pixel is never made."""
    steps = (x.stride(0), *(x.stride(d) if x.shape[d] > 1 else x.stride(0) for d in (2, 3)))
    return aligned(x.as_strided(x.shape, (steps[0], x.stride(1), *steps[1:]))) and _length(x) < 1 << 31


def _length(x: Tensor) -> int:
    """Elements from an image's first number to its last."""
    return 1 + sum((n - 1) * s for n, s in zip(x.shape[1:], x.stride()[1:]))


def config(p: Problem, dy: Tensor) -> TileConfig:
    """The tiles and the split of images that as_rows gave."""
    return tma_config(p.spec, dy.shape[0], p.dtype, p.target)


def launch(p: Problem, dy: Tensor, x: Tensor, config: TileConfig, places: dict[str, Any]) -> Launch:
    """The launch; `places` says where the sums go."""
    spec, f, bias = p.spec, p.spec.forward, p.get("bias_grad")
    N, _, H, W = x.shape
    images = cdiv(N, config.BK)
    total = images * dy.shape[2] * dy.shape[3]
    steps = cdiv(total, config.SPLIT)

    def matrix(t: Tensor, width: int) -> TensorDescriptor:
        return TensorDescriptor(t, [N, _length(t)], [t.stride(0), 1], [config.BK, width])

    arguments = dict(
        dy=matrix(dy, config.BM), x=matrix(x, config.BN), **places, dy_h=dy.stride(2), dy_w=dy.stride(3), x_h=x.stride(2),
        x_w=x.stride(3), N=N, H=H, W=W, Q=dy.shape[3], C=f.C, K=f.K, images=images, total=total, steps=steps,
    )  # fmt: skip
    constants = dict(
        window=window(f), tile=Tile(config.BM, config.BN, config.BK, SPLIT=config.SPLIT), mode=mode(p, p.out),
        BIAS=int(bias is not None), STEPS=steps if p.target.interpreted else 0,
    )  # fmt: skip
    grid = (cdiv(f.K, config.BM) * (columns(spec, f.C, config.BN) + (bias is not None)) * config.SPLIT,)
    kernel = weight_grad_tma_kernel
    return Launch(kernel, grid, arguments, constants, config.num_warps, config.num_stages, MAX_REGISTERS)
