"""Who races on a whole network.

ours_eager, ours_graph     convatlas as it chooses its backends itself, launched from Python or replayed from a CUDA graph
ours_plan                  the net's plan (convatlas.compile), called as users call it; on a GPU it replays a CUDA graph of its own
cudnn_eager, cudnn_graph   the same net on torch.nn.functional alone (nets/plain.py), channels_last, cudnn.benchmark on
compile                    torch.compile(mode="max-autotune") of that plain net; it replays CUDA graphs of its own

All of them have the same weights, batch norms folded beforehand. On a CPU, for a rehearsal, ours are interpreted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from convatlas import nets
from convatlas.bench.cases import layers_of
from convatlas.bench.contestants import AUTO, on
from convatlas.bench.timing import Contestant, Tensors
from convatlas.kernels.common.precision import may_be_tf32
from convatlas.nets.fold_net import fold_batch_norms
from convatlas.nets.network import smallest_size
from convatlas.nets.plain import for_peers, plain
from convatlas.plan.plan import Plan, compile
from convatlas.specs import ConcatSpec, dtype_name
from convatlas.study.tracing import Layer
from convatlas.verify.on_device import Accuracy, chained, exact_float32

# How each is launched; "ours_plan" and "compile" from Python, as their users do.
FORMS = {
    "ours_graph": "graph",
    "ours_eager": "eager",
    "ours_plan": "eager",
    "cudnn_graph": "graph",
    "cudnn_eager": "eager",
    "compile": "eager",
}
NAMES = tuple(FORMS)


def work(layers: Sequence[Layer], dtype: str) -> tuple[int, int]:
    """(FLOPs, compulsory bytes) of layers one after another; a layer's output counts again as the next one's input."""
    bytes = sum(layer.spec.bytes(dtype, layer.epilogue) for layer in layers if not isinstance(layer.spec, ConcatSpec))
    return sum(layer.spec.flops for layer in layers), bytes


class NetJudge:
    """Holds a net's output to the plain net in float32, TF32 and cuDNN off. `net` is one that plain.for_peers made."""

    def __init__(self, net: nn.Module, name: str, data: Tensors) -> None:
        x = data["input"]
        dtype = dtype_name(x.dtype)
        tf32 = dtype == "float32" and may_be_tf32("conv2d")
        self.bound = chained([getattr(layer.spec, "reduction", 1) for layer in layers_of(name, 1)], dtype, tf32)
        wide = copy.deepcopy(net).float()
        with plain(), exact_float32():
            self.expected = wide(x.float())

    def __call__(self, y: Tensor) -> Accuracy:
        error = torch.linalg.vector_norm(y.float() - self.expected) / torch.linalg.vector_norm(self.expected)
        return Accuracy(float(error), self.bound)


def rehearsal_size(name: str) -> int:
    """Pixels of the smallest square input that the net takes, at least 32: interpreted kernels cost by the operation."""
    with torch.device("meta"):
        return max(32, smallest_size(nets.create(name)) or 32)


def net_contestants(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    compiled: bool = False,
    backend: str = AUTO,
    fuse: str | Collection[str] = "auto",
) -> tuple[list[Contestant], Callable[[Tensor], Accuracy], dict[str, Tensor]]:
    """(contestants, judge, the data set) of the net called `name` on an input of `shape`, ours on `backend`, plans with `fuse`."""
    if device.type == "cpu" and backend == AUTO:
        backend = "triton"  # interpreted
    drawn_on = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(drawn_on),
        torch.device(device),
    ):  # a GPU draws VGG-16's weights in no time, a CPU in seconds
        torch.manual_seed(0)
        net = fold_batch_norms(nets.create(name), shape).to(device, dtype)
    peers = for_peers(net)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(shape, generator=generator, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    data = {"input": x}

    def ours(t: Tensors) -> Tensor:
        with torch.no_grad(), on(backend):
            return net(t["input"])

    @cache
    def planned() -> Plan:
        return compile(net, x, backend=None if backend == AUTO else backend, fuse=fuse)

    def plan(t: Tensors) -> Tensor:
        return planned()(t["input"])

    def peer(t: Tensors) -> Tensor:
        with torch.no_grad(), plain():
            return peers(t["input"])

    runs = {"ours_graph": ours, "ours_eager": ours, "ours_plan": plan, "cudnn_graph": peer, "cudnn_eager": peer}
    if compiled:
        made = torch.compile(peers, mode="max-autotune")

        def by_compiler(t: Tensors) -> Tensor:
            with torch.no_grad(), plain():
                return made(t["input"])

        runs["compile"] = by_compiler
    found = [Contestant(which, run, FORMS[which]) for which, run in runs.items()]
    return found, NetJudge(peers, name, data), data
