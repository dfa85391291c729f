"""Launcher of a first convolution with the 3x3 max pooling of stride 2 behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convatlas.errors import ShapeError
from convatlas.kernels.common.cuda.launch import TYPES, CudaLaunch, vectors, with_activation
from convatlas.kernels.common.launch import cdiv, is_wide
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.conv2d.launch_cuda import CHANNELS, patch_of, stem_arguments, stem_shared
from convatlas.model.work import Tiling, Work
from convatlas.specs import INPUT, BlockSpec, Conv2dSpec, itemsize
from convatlas.specs.activations import exact

if TYPE_CHECKING:
    from convatlas.call import Call
    from convatlas.kernels.common.problem import Problem

TILE, POOLED, THREADS, WARPS, AHEAD = 16, 7, 256, 8, 6  # stem_pool.cu's
BLOCKS_PER_SM = 2  # of 256 threads with up to 128 registers each
# Of an SM in a clock: products by mma.sync, the time model's share of the tensor cores' rate; bytes of shared memory, as fitted to
# ResNet's blocks (kernels/bottleneck/configs.py). Clocks of a tile that nothing hides: its steps one after another, three barriers
# and the pooling. Reckoned, not measured.
SHARE, BANKS, WAIT = 0.398, 92, 3000.0


def takes(spec: BlockSpec, dtype: str) -> bool:
    """Whether the kernel computes a block of this shape: half precision, up to 4 channels, whole vectors of filters, a window of
    the pooling that is 3x3 of stride 2, and a patch of the image that the threads hold in registers.
    """
    parts = {part.name: part for part in spec.parts}
    if dtype not in TYPES or dtype == "float32" or spec.stored != dtype or parts.keys() != {"conv", "pool"}:
        return False
    conv, pool = parts["conv"], parts["pool"]
    c, s = conv.spec, pool.spec
    if pool.op != "max_pool2d" or pool.sources != {"input": "conv"} or conv.sources != {"input": INPUT}:
        return False
    window = (s.R, s.S, s.stride, s.dilation) == (3, 3, (2, 2), (1, 1))
    plain = c.groups == 1 and 0 < c.C <= CHANNELS and c.K % 8 == 0 and exact(conv.epilogue.activation)
    patch = patch_of(c, TILE)
    held = patch[0] * patch[1] <= AHEAD * THREADS
    return window and plain and held and stem_shared(c, 64, patch, WARPS) <= TARGETS["sm_80"].shared // BLOCKS_PER_SM


def stem_pool(p: Problem) -> list[CudaLaunch]:
    """One launch, for an input in any memory format: as many blocks as the SMs hold at once, which walk over tiles.

    Where there are fewer tiles than SMs a block takes 32 filters. Raises ShapeError for more tiles or a larger image than 32 bits
    count.
    """
    conv, pool = p.spec.part("conv"), p.spec.part("pool").spec
    spec, x, out = conv.spec, p["input"], p.out
    across = cdiv(pool.P, POOLED), cdiv(pool.Q, POOLED)
    tiles, patch = spec.N * across[0] * across[1], patch_of(spec, TILE)
    if tiles >= 1 << 30 or is_wide(x[:1], out[:1]) or not vectors(out):
        raise ShapeError(
            f"{p.spec.pattern}: {spec}, expected images below 2^31 elements and at most 2^30 tiles of 7 x 7 outputs"
        )
    BN = 32 if spec.K <= 32 or tiles * cdiv(spec.K, 64) <= p.target.sms // 2 else 64
    _, activation = with_activation("", conv.epilogue.activation)
    arguments = stem_arguments(spec, x, p["conv.weight"], p.get("conv.bias"), out, across, patch) | dict(
        activation=activation, pooled_h=pool.P, pooled_w=pool.Q, pool_top=pool.padding[0], pool_left=pool.padding[1]
    )
    grid = (min(tiles, BLOCKS_PER_SM * p.target.sms), cdiv(spec.K, BN))
    template = (TYPES[p.dtype], str(spec.C), str(BN))
    shared = stem_shared(spec, BN, patch, WARPS)
    return [CudaLaunch("stem_pool/stem_pool.cu", "stem_pool", template, grid, THREADS, arguments, shared, True)]


def work(call: Call, launch: CudaLaunch) -> Work:
    """What the time model has to know of a launch: a step is a tile."""
    spec: Conv2dSpec = call.spec.part("conv").spec
    a, BN = launch.arguments, int(launch.template[2])
    count, steps, (x, y) = a["tiles"] * launch.grid[1], a["steps"], launch.grid
    products = TILE * TILE * BN * steps * 16
    # Fragments of A, by words, and of B; t written once and read by nine taps of a window; the patch.
    read = WARPS * steps * (10 * 128 + BN // 16 * 512)
    traffic = read + 2 * BN * (TILE * TILE + 9 * POOLED * POOLED) + 8 * a["patch_h"] * a["patch_w"]
    rate = TARGETS["sm_90"].half_fma * SHARE
    tiling = Tiling(POOLED * POOLED, BN, 16, 1, 1, count, (1, POOLED, POOLED))
    loaded = count * 2 * spec.C * (a["patch_h"] * a["patch_w"]) + x * y * BN * steps * 4 * spec.C * 2
    return Work(
        launch.kernel, launch.expression, x * y, launch.block, 2, tiling, 2 * products * count, loaded, call.spec.bytes(call.dtype),
        "cuda", itemsize(call.dtype), resident=BLOCKS_PER_SM, clocks=(products / rate, traffic / BANKS, WAIT),
    )  # fmt: skip
