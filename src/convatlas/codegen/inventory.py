"""Every launch that the networks make on a GPU, and what the compiler makes of each: registers, spills, instructions.

`python -m convatlas.codegen.inventory --arch 90` compiles them, on every core, and prints one JSON list; it needs no GPU. A launch
config (kernel, tiles, warps, what is masked and added) serves many layers whose machine code differs in constants only: by default
each config is compiled once, for its largest window; --every-code compiles them all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from os import cpu_count
from typing import Any

import torch
from torch import Tensor

from convatlas import nets
from convatlas.call import Call
from convatlas.codegen.cross_compile import Compiled, compile_launch, key
from convatlas.kernels.backend import launcher
from convatlas.kernels.common.launch import Launch
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.target import TARGETS, Target
from convatlas.layout import taps_first
from convatlas.specs import (
    AdaptivePool2dSpec,
    ConcatSpec,
    Conv2dSpec,
    ConvTranspose2dSpec,
    ElementwiseSpec,
    Epilogue,
    LocalResponseNormSpec,
    NormSpec,
    Pool2dSpec,
    ResidualAddSpec,
)
from convatlas.study import trace

# A mode of computing: the tensors' dtype, and whether float32 products may be TF32.
MODES = {
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
}
BATCHES = (1, 32)


def extra_calls() -> list[Call]:
    """One call for every kernel that a user can call but no network here reaches."""
    x = (32, 64, 28, 28)
    conv = Conv2dSpec.of
    return [
        Call("conv2d", conv(x, (64, 2, 3, 3), 1, 1, 1, 32), Epilogue(True, "relu")),
        Call("conv2d", conv(x, (64, 32, 3, 3), 2, 2, 2, 2), Epilogue()),
        Call("conv2d", conv(x, (64, 64, 1, 33), 1, (0, 16)), Epilogue()),
        Call("conv2d", conv(x, (64, 64, 3, 3), 1, 1), Epilogue(True, "relu")),
        Call("conv2d", conv((32, 3, 112, 112), (64, 3, 7, 7), 2, 3), Epilogue(True, "relu")),
        Call("conv2d", conv((32, 3, 112, 112), (64, 3, 3, 3), 2, 1), Epilogue(True, "relu")),
        Call("conv2d", conv(x, (128, 1, 9, 9), 1, 4, 1, 64), Epilogue()),
        Call("conv_transpose2d", ConvTranspose2dSpec.of(x, (64, 32, 4, 4), 2, 1), Epilogue(True, "relu")),
        Call("conv_transpose2d", ConvTranspose2dSpec.of(x, (64, 64, 3, 3), 2, 1, 1), Epilogue(True)),
        Call("conv_transpose2d", ConvTranspose2dSpec.of(x, (64, 2, 1, 1), 2, 0, 1, 32), Epilogue(True)),
        Call("max_pool2d", Pool2dSpec.of("max", x, 2), params={"return_indices": True}),
        Call("avg_pool2d", Pool2dSpec.of("avg", x, 3, 2, 1)),
        Call("avg_pool2d", Pool2dSpec.of("avg", x, 2, count_include_pad=False)),
        Call("avg_pool2d", Pool2dSpec.of("avg", x, 2, divisor_override=3)),
        Call("adaptive_avg_pool2d", AdaptivePool2dSpec.of(x, 6)),
        Call("residual_add", ResidualAddSpec.of(x, x), Epilogue(activation="relu")),
        Call("batch_norm", NormSpec.of(x), Epilogue(activation="relu"), {"eps": 1e-5}),
        Call("local_response_norm", LocalResponseNormSpec.of(x, 5), None, {"alpha": 1e-4, "beta": 0.75, "k": 2.0}),
        Call("softmax", ElementwiseSpec("softmax", (32, 1000), 1000), None, {"dim": 1}),
        Call("relu", ElementwiseSpec("relu", x)),
        Call("relu6", ElementwiseSpec("relu6", x)),
        Call("concat", ConcatSpec.of([x, x], 1)),
    ]


def network_calls(names: Iterable[str], batches: Iterable[int] = BATCHES) -> Iterator[Call]:
    """The calls of the named networks at their own input sizes, each once."""
    seen = set()
    for name in names:
        size = nets.info(name).size
        with torch.device("meta"):  # no weights: drawing them for every network takes half a minute
            net = nets.create(name)
        for batch in batches:
            for layer in trace(net, (batch, 3, size, size)):
                if layer.key not in seen:
                    seen.add(layer.key)
                    yield layer.call


def _meta(shape: tuple, dtype: torch.dtype) -> Tensor:
    last = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=last)


def meta_tensors(call: Call, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """Meta tensors that fit a call, channels_last: what goes in by name, and the output."""
    tensors = {name: _meta(shape, dtype) for name, shape in call.spec.operands(call.epilogue).items()}
    if call.spec.layer_kind == "depthwise":  # as nets.folding lays it out
        tensors["weight"] = taps_first(tensors["weight"])
    return tensors, _meta(call.spec.output_shape, dtype)


def launches_of(
    call: Call, mode: str, target: int | Target, backend: str = "triton", contiguous: bool = False
) -> list[Any]:
    """What a call launches on a target, or on a compute capability's first GPU (90), for meta tensors of the mode's dtype.

    Tensors are channels_last, or `contiguous`.
    """
    dtype, tf32 = MODES[mode]
    target = TARGETS[f"sm_{target}"] if isinstance(target, int) else target
    call = replace(call, dtype=str(dtype).removeprefix("torch."))
    tensors, out = meta_tensors(call, dtype)
    if contiguous:
        tensors, out = {name: x.contiguous() for name, x in tensors.items()}, out.contiguous()
    if call.params.get("return_indices"):
        tensors["indices"] = _meta(call.spec.output_shape, torch.int64)
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    conv.fp32_precision = matmul.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        return launcher(backend, call.op)(Problem.of(call, tensors, out, target))
    finally:
        conv.fp32_precision, matmul.fp32_precision = before


# The constants that make a config; the others (window, padding, activation) fill it in.
TILES = ("BM", "BN", "BK", "BC", "BLOCK", "RANK", "SPLIT", "EVEN_C", "FLAT", "PRECISION", "WINDOW", "RESIDENT")


def config_key(launch: Launch, mode: str) -> tuple:
    """A key that is equal for two launches of one launch config."""
    flat = launch.flat
    tiles = tuple(flat.get(name) for name in TILES)
    TN, TH, TW = (flat.get(name, 1) for name in ("TN", "TH", "TW"))  # a box's shape only fills in its size
    tiles += (TN * TH * TW, TN * TH == 1)
    packed = flat.get("PACK", 1) > 1
    return mode, launch.kernel.__name__, tiles, packed, launch.residual, *launch.options.values()


def _window(launch: Launch) -> int:
    return launch.flat.get("R", 1) * launch.flat.get("S", 1)


def inventory(
    arch: int,
    modes: Iterable[str] = MODES,
    names: Iterable[str] | None = None,
    batches: Iterable[int] = BATCHES,
    every_code: bool = False,
) -> list[tuple[str, str, Launch]]:
    """(mode, op, launch) for every launch config that the networks' layers and the extra calls need on `arch`.

    With `every_code` for every distinct machine code instead.
    """
    found: dict[tuple, tuple[str, str, Launch]] = {}
    calls = [*network_calls(nets.names() if names is None else names, batches), *extra_calls()]
    for mode in modes:
        for call in calls:
            for launch in launches_of(call, mode, arch):
                name = key(launch) if every_code else config_key(launch, mode)
                if name not in found or _window(launch) > _window(found[name][2]):
                    found[name] = mode, call.op, launch
    return list(found.values())


def _compile(task: tuple[str, str, Launch, int]) -> dict[str, Any]:
    mode, op, launch, arch = task
    compiled: Compiled = compile_launch(launch, arch)
    return {"mode": mode, "op": op, **asdict(compiled), "tensor_core": compiled.tensor_core, "spills": compiled.spills}


def compile_inventory(arch: int, **choice: Any) -> list[dict[str, Any]]:
    """Compiles inventory(arch, **choice) on one process a core and returns a plain record of each launch."""
    workers = cpu_count() or 1
    tasks = [(index, workers, arch, choice) for index in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return [record for records in pool.map(_share, tasks) for record in records]


def _share(task: tuple[int, int, int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every `workers`-th launch. Each worker lists the launches itself, since kernels cannot be pickled."""
    index, workers, arch, choice = task
    torch.set_num_threads(1)
    return [_compile((*entry, arch)) for entry in inventory(arch, **choice)[index::workers]]


def main(arguments: list[str]) -> None:
    """--arch 90 [--modes float16,tf32] [--nets resnet18,vgg16] [--batches 1,32] [--every-code]."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m convatlas.codegen.inventory", description=__doc__)
    parser.add_argument("--arch", type=int, required=True, choices=[80, 90, 100])
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--nets", help="default: all")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--every-code", action="store_true")
    given = parser.parse_args(arguments)
    choice = {
        "modes": given.modes.split(","),
        "names": given.nets.split(",") if given.nets else None,
        "batches": [int(batch) for batch in given.batches.split(",")],
        "every_code": given.every_code,
    }
    json.dump(compile_inventory(given.arch, **choice), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
