"""From the launches of a call to what the model looks at: tiles, steps, bytes and products of each (model.work)."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import Tensor

from convatlas.call import Call
from convatlas.kernels.backend import room
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.launch import Launch, cdiv
from convatlas.model.work import Tiling, Work
from convatlas.specs import ConvTranspose2dSpec, itemsize

# Launches that finish or prepare a matrix product.
REDUCTIONS = ("splitk_reduce_kernel", "split_reduce")
COPIES = (*REDUCTIONS, "stem_pack_kernel")
TMA = ("conv2d_tma_kernel", "conv2d_rows_kernel")
# Constants that make up a config, in the order in which it is read.
NAMED = ("RESIDENT", "PACK")


def works(call: Call, launches: list[Launch] | list[CudaLaunch], dtype: str) -> list[Work]:
    """One for each launch. The operands of a layer are moved by the launch that reads or writes them."""
    if call.op == "block":
        return [room(call.spec.pattern, "work")(call, launch) for launch in launches]
    if isinstance(call.spec, ConvTranspose2dSpec):
        return _by_phases(call, call.spec, launches, dtype)
    size, found = itemsize(dtype), []
    for i, launch in enumerate(launches):
        work = _cuda(call, launch, size) if isinstance(launch, CudaLaunch) else _triton(call, launch, size)
        moved = _moved(call, launches, i, dtype) if len(launches) > 1 else call.spec.bytes(dtype, call.epilogue)
        copies = work.gemm or work.kernel in COPIES
        window = prod(call.spec.output_shape) * (1 if copies else _taps(call))
        depthwise = call.op == "conv2d" and not copies
        found.append(replace(work, moved=moved, window=0 if work.gemm else window, depthwise=depthwise))
    return found


def _by_phases(call: Call, spec: ConvTranspose2dSpec, launches: list, dtype: str) -> list[Work]:
    """The launches of a transposed convolution: each phase is a dense convolution of its own taps (conv_transpose2d/phases.py).

    All phases read the same input, which is moved once: each is charged an equal part of it. What fills the output first, where
    some phase has no taps, writes all of it.
    """
    size, found = itemsize(dtype), []
    if not spec.whole:
        first, *launches = launches
        work = _cuda(call, first, size) if isinstance(first, CudaLaunch) else _triton(call, first, size)
        found.append(replace(work, moved=spec.elements["output"] * size, window=prod(spec.output_shape)))
    parts = [spec.part(rows, columns) for rows in spec.phases(0) for columns in spec.phases(1)]
    groups: list[list] = []
    for launch in launches:
        follows = _name(launch) in (*REDUCTIONS, "conv2d_rows_kernel")  # of the launch before
        if follows:
            groups[-1].append(launch)
        else:
            groups.append([launch])
    shared = next(iter(spec.elements.values())) * size // len(parts) if parts else 0
    for part, own in zip(parts, groups):
        first, *rest = works(replace(call, op="conv2d", spec=part), own, dtype)
        found += [replace(first, moved=first.moved - part.elements["input"] * size + shared), *rest]
    return found


def _name(launch: Launch | CudaLaunch) -> str:
    return launch.kernel if isinstance(launch, CudaLaunch) else launch.kernel.__name__


def _taps(call: Call) -> int:
    """Elements in the window of one output."""
    spec = call.spec
    if call.op in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return spec.H * spec.W // (spec.P * spec.Q)
    return spec.R * spec.S if hasattr(spec, "R") else 1


def _moved(call: Call, launches: list, i: int, dtype: str) -> int:
    """Compulsory bytes of one of several launches: a split's sums are written by the first and read by the last one."""
    launch, size, elements = launches[i], itemsize(dtype), call.spec.elements
    name, arguments = _name(launch), launch.arguments
    out = elements["output"] * size
    epilogue = call.spec.bytes(dtype, call.epilogue) - call.spec.bytes(dtype)
    partial = arguments.get("partial")
    if name in REDUCTIONS:
        return partial.numel() * 4 + out + epilogue
    if name == "stem_pack_kernel":
        written = arguments["z"].numel() + arguments["packed"].numel()
        return (elements["input"] + elements["weight"] + written) * size
    if name == "conv2d_rows_kernel":
        return (arguments["z"].numel() + arguments["w"].numel()) * size + out + epilogue
    if call.op == "concat":
        return 2 * arguments["count"] * size * (int(launch.template[1]) if isinstance(launch, CudaLaunch) else 1)
    read = (sum(elements.values()) - elements["output"]) * size
    target = partial if isinstance(partial, Tensor) else getattr(arguments.get("y"), "ptr", None)
    return read + (target.numel() * 4 if isinstance(target, Tensor) else out)


def _gemm_bytes(tile: Tiling, size: int) -> int:
    return tile.count * tile.steps * (tile.BM + tile.BN) * tile.BK * size


def _triton(call: Call, launch: Launch, size: int) -> Work:
    flat, arguments, name = launch.flat, launch.arguments, launch.kernel.__name__
    grid, spec = prod(launch.grid), call.spec
    tile = Tiling(flat.get("BM", flat.get("BLOCK", 0)) * flat.get("BC", 1), count=grid)
    if "TN" in flat:
        pixels = flat["TN"] * flat["TH"] * flat["TW"]
        steps = (
            spec.R
            if name == "conv2d_rows_kernel"
            else flat["R"] * flat["S"] * cdiv(flat["C"], flat["BK"]) // flat["SPLIT"]
        )
        # An image whose pixels lie at equal distances is seen as one row, its boxes are runs of them.
        row = arguments["N"] == arguments["P"] == 1
        box = None if row else (flat["TN"], flat["TH"], flat["TW"])
        tile = Tiling(pixels, flat["BN"], flat["BK"], steps, flat["SPLIT"], arguments.get("tiles", grid), box)
    elif name == "conv2d_gather_kernel":
        steps = flat["R"] * flat["S"] * flat["C_BLOCKS"] // flat["SPLIT"]
        tile = Tiling(flat["BM"], flat["BN"], flat["BK"], steps, flat["SPLIT"], grid)
    elif name == "conv2d_stem_kernel":
        tile = Tiling(flat["BM"], flat["BN"], flat["BK"], cdiv(spec.reduction, flat["BK"]), 1, grid)
    elif name == "gemm_kernel":
        tile = Tiling(flat["BM"], flat["BN"], flat["BK"], arguments["steps"], flat["SPLIT"], grid)
    chosen = [f"{key.lower()} {flat[key]}" for key in NAMED if flat.get(key, 0) > (key == "PACK")]
    if tile.BN:
        chosen = [*chosen, f"{launch.num_stages} stages"]
    config = ", ".join([f"{launch.num_warps} warps", *chosen])
    stages = launch.num_stages if tile.BN else 1
    return _work(name, config, grid, 32 * launch.num_warps, stages, tile, size, "triton", name in TMA)


def _cuda(call: Call, launch: CudaLaunch, size: int) -> Work:
    grid, template, arguments = prod(launch.grid), launch.template, launch.arguments
    stages, tile = 1, Tiling(launch.block, count=grid)
    if launch.kernel == "implicit_gemm":
        BM, BN, stages = int(template[2]), int(template[3]), int(template[6])
        steps = cdiv(arguments["steps"], arguments["split"])
        tile = Tiling(BM, BN, 128 // size, steps, arguments["split"], grid)
    elif launch.kernel == "conv2d_stem":
        tile = Tiling(128, int(template[2]), 16, arguments["steps"], 1, arguments["tiles"] * launch.grid[1], (1, 8, 16))
    elif launch.kernel in ("depthwise_tile", "pool_tile"):
        VEC, height = int(template[1]), int(template[-1])
        tile = Tiling(height * 8 * arguments["lanes"] * VEC, count=grid, box=(1, height, 8))
    elif len(template) > 1 and template[1].isdigit() and launch.kernel != "gemv":
        tile = Tiling(launch.block * int(template[1]), count=grid)
    stage = f", {stages} stages" if stages > 1 else ""
    load = f", {template[7].lower()}" if launch.kernel == "implicit_gemm" else ""
    return _work(
        launch.kernel, f"{launch.block // 32} warps{stage}{load}", grid, launch.block, stages, tile, size, "cuda"
    )


def _work(
    kernel: str,
    config: str,
    grid: int,
    threads: int,
    stages: int,
    tile: Tiling,
    size: int,
    backend: str,
    copied: bool = False,
) -> Work:
    flops = 2 * tile.count * tile.steps * tile.BM * tile.BN * tile.BK
    loaded = _gemm_bytes(tile, size)
    return Work(kernel, config, grid, threads, stages, tile, flops, loaded, 0, backend, size, copied=copied)
