"""Every launch that the networks make on a GPU, and what the compiler makes of each: registers, spills, instructions.

`python -m convatlas.codegen.inventory 90 80:tf32 --backend cuda` compiles them, on every core, and prints a JSON list: each
cross_compile.Compiled with its mode and op. It needs no GPU. A Triton launch config (kernel, tiles, warps, what is masked, added)
serves many layers whose machine code differs in constants only: by default each config is compiled once, for its largest window;
--every-code compiles them all. In CUDA C++ every template instantiation is compiled. --one-of-each compiles one config of each
kernel and of each of its ways to read memory, --part 2/4 every fourth config from the second on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from os import cpu_count
from typing import Any

import torch
from torch import Tensor

from convatlas import nets
from convatlas.call import Call
from convatlas.codegen.block_calls import block_calls
from convatlas.codegen.cross_compile import compile_launch
from convatlas.kernels.backend import launcher, room_of
from convatlas.kernels.common.compiling import key
from convatlas.kernels.common.cuda.launch import CudaLaunch
from convatlas.kernels.common.launch import Launch
from convatlas.kernels.common.precision import float32_products
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.target import TARGETS, Target
from convatlas.layout import allocate_extra, taps_first
from convatlas.ops import backward  # noqa: F401 (registers the ops of backward_calls)
from convatlas.ops.observe import observe
from convatlas.specs import (
    AdaptivePool2dSpec,
    ChannelScaleSpec,
    ConcatSpec,
    Conv2dInputGradSpec,
    Conv2dSpec,
    Conv2dWeightGradSpec,
    ConvTranspose2dSpec,
    ElementwiseSpec,
    Epilogue,
    GradSpec,
    LinearSpec,
    LocalResponseNormSpec,
    NormSpec,
    Pool2dSpec,
    ResidualAddSpec,
)
from convatlas.specs.activations import FLOPS
from convatlas.study import trace

# A mode of computing: the tensors' dtype, and whether float32 products may be TF32.
MODES = {
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
}
BATCHES = (1, 32)
FEW = 48  # launches that are sooner compiled than processes are started
TOGETHER = 4  # launches that a process compiles at once: NVRTC then reads their common file once


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
        *gradient_calls(),
        Call("max_pool2d", Pool2dSpec.of("max", x, 2), params={"return_indices": True}),
        Call("max_pool2d", Pool2dSpec.of("max", x, 3, 2, 1), params={"return_winners": True}),
        Call("avg_pool2d", Pool2dSpec.of("avg", x, 3, 2, 1)),
        Call("avg_pool2d", Pool2dSpec.of("avg", x, 2, count_include_pad=False)),
        Call("avg_pool2d", Pool2dSpec.of("avg", x, 2, divisor_override=3)),
        Call("adaptive_avg_pool2d", AdaptivePool2dSpec.of(x, 6)),
        Call("adaptive_max_pool2d", AdaptivePool2dSpec.of(x, 6, "max")),
        Call("adaptive_max_pool2d", AdaptivePool2dSpec.of(x, 1, "max")),
        Call("adaptive_max_pool2d", AdaptivePool2dSpec.of(x, 1, "max"), params={"return_indices": True}),
        *(Call("channel_scale", ChannelScaleSpec.of((N, *x[1:]), (N, 64, 1, 1)), Epilogue()) for N in (1, 256)),
        Call("channel_scale", ChannelScaleSpec.of(x, (32, 64, 1, 1), "sigmoid"), Epilogue(False, "relu", True)),
        Call("residual_add", ResidualAddSpec.of(x, x), Epilogue(activation="relu")),
        Call("batch_norm", NormSpec.of(x), Epilogue(activation="relu"), {"eps": 1e-5}),
        Call("local_response_norm", LocalResponseNormSpec.of(x, 5), None, {"alpha": 1e-4, "beta": 0.75, "k": 2.0}),
        Call("softmax", ElementwiseSpec("softmax", (32, 1000), 1000), None, {"dim": 1}),
        *(Call(name, ElementwiseSpec(name, x)) for name in FLOPS),
        *(
            Call("conv2d", spec, Epilogue(True, "silu"))
            for spec in (
                conv(x, (64, 64, 3, 3), 1, 1),
                conv(x, (64, 1, 3, 3), 1, 1, 1, 64),
                conv((32, 3, 112, 112), (64, 3, 3, 3), 2, 1),
            )
        ),
        Call("linear", LinearSpec.of((8, 2048), (1000, 2048)), Epilogue(True, "silu")),
        Call("batch_norm", NormSpec.of(x), Epilogue(activation="silu"), {"eps": 1e-5}),
        Call("concat", ConcatSpec.of([x, x], 1)),
        *(Call("conv2d", conv(x, (64, 1, 7, 7), stride, 3, 1, 64), Epilogue(True, "relu6")) for stride in (1, 2)),
        Call("conv2d", conv(x, (64, 1, 3, 3), 1, 2, 2, 64), Epilogue(True, "relu6")),
        Call("linear", LinearSpec.of((8, 2048), (1000, 2048)), Epilogue(True)),
        Call("avg_pool2d", Pool2dSpec.of("avg", x, 3, 1, 1)),
        Call("max_pool2d", Pool2dSpec.of("max", x, 5, 1, 2)),
    ]


def gradient_calls() -> Iterator[Call]:
    """Gradients of convolutions of every kind: dense with and without vectors, 1x1, stem, of packed groups, depthwise."""
    x = (32, 64, 56, 56)
    for shapes in (
        (x, (64, 64, 3, 3), 1, 1),
        (x, (128, 64, 3, 3), 2, 1),
        ((32, 256, 28, 28), (512, 256, 3, 3), 1, 1),
        (x, (256, 64, 1, 1)),
        ((4, 100, 28, 28), (72, 100, 3, 3), 1, 1),
        (x, (128, 2, 3, 3), 1, 1, 1, 32),
        (x, (64, 1, 3, 3), 1, 1, 1, 64),
        (x, (64, 1, 5, 5), 2, 2, 1, 64),
        ((32, 3, 112, 112), (64, 3, 7, 7), 2, 3),
    ):
        f = Conv2dSpec.of(*shapes)
        by_input = Conv2dInputGradSpec.of(f.output_shape, f.weight_shape, f.input_shape, **f.arguments)
        by_weight = Conv2dWeightGradSpec.of(f.output_shape, f.input_shape, f.weight_shape, **f.arguments)
        yield Call("conv2d_input_grad", by_input)
        yield Call("conv2d_weight_grad", by_weight, params={"bias_grad": True})


def backward_calls() -> list[Call]:
    """What else a training step computes: gradients of poolings, activations, norms and softmax, and batch statistics."""
    with torch.device("meta"):
        x, statistic, sums = torch.empty(32, 64, 28, 28), torch.empty(64), torch.empty(2, 64)
        row = torch.empty(32, 1000)
    half, numbers = x[:, :, :14, :14], (statistic, statistic)
    calls: list[Call] = []
    ops, window, shape = torch.ops.convatlas, ([3, 3], [2, 2], [1, 1]), list(x.shape)
    with observe(lambda call, tensors, output: calls.append(call)):
        for activation in (*FLOPS, "leaky_relu(0.2)"):
            ops.activation_grad(x, x, activation)
        ops.max_pool2d_grad(half, half.long(), shape, *window, [1, 1], False)
        ops.max_pool2d_grad(half, half.byte(), shape, *window, [1, 1], False)
        ops.avg_pool2d_grad(half, shape, *window, False, True, None)
        ops.avg_pool2d_grad(half, shape, *window, False, False, None)
        ops.adaptive_avg_pool2d_grad(x[:, :, :6, :6], shape)
        ops.adaptive_avg_pool2d_grad(x[:, :, :1, :1], shape)
        ops.adaptive_max_pool2d_grad(x[:, :, :6, :6], x[:, :, :6, :6].long(), shape)
        ops.softmax_grad(row, row, 1)
        ops.cross_entropy_rows(row, row[:, 0].long(), -100, 0.1)
        ops.cross_entropy_grad(row, row[:, 0].long(), row[:, 0], row[:, 0], -100, 0.1)
        ops.local_response_norm_grad(x, x, 5, 1e-4, 0.75, 2.0)
        ops.batch_norm_stats(x)
        ops.batch_norm_sums(x, x, *numbers, 1e-5, None, None)
        ops.batch_norm_sums_with_masked(x, x, *numbers, 1e-5, x, "relu")
        for told in ((None, None), (x, "relu"), (x, "sigmoid")):
            ops.batch_norm_input_grad(x, x, *numbers, statistic, sums, 1e-5, *told)
        ops.batch_norm_input_grad(x, x, *numbers, statistic, None, 1e-5, None, None)
    return calls


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
    spec, float32 = call.spec, torch.float32 if isinstance(call.spec, GradSpec) else dtype  # as autocast leaves them
    kinds = {
        **dict.fromkeys(spec.wide, float32),
        **dict.fromkeys(spec.places, torch.uint8 if call.params.get("taps") else torch.int64),
    }
    tensors = {name: _meta(shape, kinds.get(name, dtype)) for name, shape in spec.operands(call.epilogue).items()}
    if call.spec.layer_kind == "depthwise":  # as nets.folding lays it out
        tensors["weight"] = taps_first(tensors["weight"])
    return tensors, _meta(spec.output_shape, float32 if spec.sums else dtype)


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
    tensors |= allocate_extra(call, out)
    with float32_products("tf32" if tf32 else "ieee"):
        return launcher(backend, room_of(call))(Problem.of(call, tensors, out, target))


# The constants that make a config; the others (window, padding, activation) fill it in.
TILES = (
    "BM",
    "BN",
    "BK",
    "BC",
    "BLOCK",
    "RANK",
    "GRADIENT",
    "SPLIT",
    "EVEN_C",
    "FLAT",
    "PRECISION",
    "WINDOW",
    "RESIDENT",
    "MAX",
)


def config_key(launch: Launch, mode: str) -> tuple:
    """A key that is equal for two launches of one launch config."""
    flat = launch.flat
    tiles = tuple(flat.get(name) for name in TILES)
    TN, TH, TW = (flat.get(name, 1) for name in ("TN", "TH", "TW"))  # a box's shape only fills in its size
    tiles += (TN * TH * TW, TN * TH == 1)
    packed = flat.get("PACK", 1) > 1
    return mode, launch.kernel.__name__, tiles, packed, launch.residual, *launch.options.values()


@dataclass(frozen=True)
class Entry:
    """One launch of the inventory, as a value that another process can turn into the launch: kernels cannot be pickled.

    Attributes:
        call, mode, arch, backend, contiguous: as `launches_of` takes them.
        place: among the launches of the call.
    """

    call: Call
    mode: str
    arch: int
    backend: str
    contiguous: bool
    place: int

    @property
    def launch(self) -> Any:
        """The Launch or CudaLaunch."""
        return launches_of(self.call, self.mode, self.arch, self.backend, self.contiguous)[self.place]


def identity(launch: Any, mode: str, every_code: bool = False) -> tuple:
    """A key that is equal for launches of which one is compiled for all."""
    if isinstance(launch, CudaLaunch):
        return launch.source, launch.expression
    return key(launch) if every_code else config_key(launch, mode)


def manner(launch: Any) -> tuple:
    """The kernel, and what of its config decides which instructions it is made of: vectors, packed groups, how operands come."""
    if isinstance(launch, CudaLaunch):
        return launch.kernel, *launch.template[1:2], *launch.template[7:8] * (launch.kernel == "implicit_gemm")
    return launch.kernel.__name__, launch.flat.get("EVEN_C"), launch.flat.get("PACK", 1) > 1


def one_of_each(entries: Iterable[Entry]) -> list[Entry]:
    """The first entry of each architecture, mode and manner: a compilation of every kernel at a fraction of the whole's cost."""
    return list({(e.arch, e.mode, manner(e.launch)): e for e in reversed(list(entries))}.values())[::-1]


def _window(launch: Any) -> int:
    return launch.flat.get("R", 1) * launch.flat.get("S", 1) if isinstance(launch, Launch) else 0


def inventory(
    targets: dict[int, Iterable[str]],
    names: Iterable[str] | None = None,
    batches: Iterable[int] = BATCHES,
    backend: str = "triton",
    every_code: bool = False,
) -> list[Entry]:
    """What the networks' layers and the extra calls launch, each launch config (with `every_code` each machine code) once.

    Args:
        targets: the modes in which to compute, by architecture, such as {90: ["float16"]}.
        names, batches: of networks; by default all.
        backend: "triton" or "cuda". The extra calls of CUDA C++ are taken contiguous too, for its kernels without vectors.
    """
    found: dict[tuple, tuple[int, Entry]] = {}
    extra = [(call, contiguous) for call in extra_calls() for contiguous in (False, True)[: 1 + (backend == "cuda")]]
    cases = [(call, False) for call in network_calls(nets.names() if names is None else names, batches)] + extra
    cases += [(call, False) for call in backward_calls()]
    for arch, mode in ((arch, mode) for arch, modes in targets.items() for mode in modes):
        blocks = [(call, False) for call in block_calls(str(MODES[mode][0]).removeprefix("torch."))]
        for call, contiguous in [*cases, *(blocks if backend == "cuda" else [])]:
            for place, launch in enumerate(launches_of(call, mode, arch, backend, contiguous)):
                name, size = (arch, *identity(launch, mode, every_code)), _window(launch)
                if name not in found or size > found[name][0]:
                    found[name] = size, Entry(call, mode, arch, backend, contiguous, place)
    return [entry for _, entry in found.values()]


def compile_inventory(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Compiles them, on one process a core where they are many; a record of each."""
    groups: dict[tuple, list[Entry]] = {}
    for entry in entries:
        source = entry.launch.source if entry.backend == "cuda" else ""
        groups.setdefault(("gemm" not in source, source, entry.arch), []).append(entry)
    # Small batches, the slowest file first, so that the cores finish together.
    tasks = [group[i : i + TOGETHER] for _, group in sorted(groups.items()) for i in range(0, len(group), TOGETHER)]
    if sum(map(len, tasks)) <= FEW:
        return [record for task in tasks for record in _compiled(task)]
    with ProcessPoolExecutor(cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        return [record for records in pool.map(_compiled, tasks) for record in records]


def _compiled(entries: list[Entry]) -> list[dict[str, Any]]:
    """Records of entries that one compiler run may share: one architecture, and in CUDA C++ one file."""
    torch.set_num_threads(1)
    launches, arch = [entry.launch for entry in entries], entries[0].arch
    if entries[0].backend == "cuda":
        from convatlas.codegen.nvrtc import compile_launches

        found = compile_launches(launches, arch)
    else:
        found = [compile_launch(launch, arch) for launch in launches]
    return [
        {"mode": entry.mode, "op": entry.call.op, **asdict(c), "tensor_core": c.tensor_core, "spills": c.spills}
        for entry, c in zip(entries, found)
    ]


def main(arguments: list[str]) -> None:
    """90 80:float16,tf32 [--backend cuda] [--nets resnet18,vgg16] [--batches 1,32] [--every-code] [--one-of-each | --part 1/4]."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m convatlas.codegen.inventory", description=__doc__)
    parser.add_argument("targets", nargs="+", help="ARCH or ARCH:MODE,MODE; 80, 90 or 100, by default in every mode")
    parser.add_argument("--backend", choices=["triton", "cuda"], default="triton")
    parser.add_argument("--nets", help="default: all; an empty string: none")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--every-code", action="store_true")
    less = parser.add_mutually_exclusive_group()
    less.add_argument("--one-of-each", action="store_true")
    less.add_argument("--part", default="1/1", help="I/N: every N-th launch config from the I-th on")
    given = parser.parse_args(arguments)
    targets = {}
    for arch, _, modes in (text.partition(":") for text in given.targets):
        targets[int(arch)] = modes.split(",") if modes else list(MODES)
    names = None if given.nets is None else [name for name in given.nets.split(",") if name]
    batches = [int(batch) for batch in given.batches.split(",")]
    entries = inventory(targets, names, batches, given.backend, given.every_code)
    first, step = map(int, given.part.split("/"))
    json.dump(compile_inventory(one_of_each(entries) if given.one_of_each else entries[first - 1 :: step]), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
