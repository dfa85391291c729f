"""Prepared launches on a GPU: streams, graphs, threads, devices, and the ordinary path's numbers. Twins: test_hot*.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

import convatlas
from convatlas import nets
from convatlas.ops import hot

pytestmark = pytest.mark.gpu
BACKENDS = ["triton", pytest.param("cuda", marks=pytest.mark.skipif(not find_spec("cupy"), reason="needs CuPy"))]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    from convatlas.kernels.common.driver import cuda_driver

    with hot.using(cuda_driver()), torch.no_grad():
        yield


def image(*shape: int, device: str = "cuda") -> Tensor:
    return torch.randn(shape, device=device).half().contiguous(memory_format=torch.channels_last)


def ordinary(run: Callable[[], Tensor]) -> Tensor:
    with hot.using(None):
        return run()


# A GEMM, a gather, a TMA kernel (half a GFLOP), split-K, packed rows, depthwise.
SHAPES = {
    "gemm": ((2, 64, 14, 14), (64, 64, 1, 1), {}),
    "gather": ((2, 64, 14, 14), (64, 64, 3, 3), {"padding": 1}),
    "tma": ((8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "split": ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
    "rows": ((8, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
    "depthwise": ((2, 64, 14, 14), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
}


def prepared() -> int:
    assert not hot.state().fault and not hot.state().reasons
    return sum(e.prepared is not None for entries in hot.state().entries.values() for e in entries)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SHAPES)
def test_numbers(name: str, backend: str) -> None:
    x, w, more = SHAPES[name]
    given = [(image(*x), image(*w)) for _ in range(3)]
    for a, b in given:
        run = lambda: convatlas.conv2d(a, b, **more, activation="relu", backend=backend)  # noqa: B023, E731
        assert torch.equal(run(), ordinary(run))
    assert prepared() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams(backend: str) -> None:
    """A replay goes to the current stream: it waits for what was put there before it, and for nothing else."""
    x, w = image(1, 512, 7, 7), image(512, 512, 3, 3)
    run = lambda x: convatlas.conv2d(x, w, padding=1, backend=backend)  # noqa: E731
    run(x)
    streams, found = [torch.cuda.Stream() for _ in range(4)], []
    torch.cuda.synchronize()
    for i, stream in enumerate(streams):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            late = x * (i + 1)  # only in this stream's order is it there
            found.append((late, run(late)))
    torch.cuda.synchronize()
    for late, y in found:
        assert torch.equal(y, ordinary(lambda: run(late)))  # noqa: B023


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_step(backend: str) -> None:
    """What autograd calls by torch.ops is prepared behind it, the backward pass in a thread of autograd's own."""
    x, w = image(2, 64, 14, 14), image(64, 64, 3, 3)

    def step() -> Tensor:
        with torch.enable_grad():
            given = x.clone().requires_grad_(), w.clone().requires_grad_()
            y = convatlas.conv2d(*given, padding=1, activation="relu", backend=backend)
            return torch.cat([g.flatten() for g in torch.autograd.grad(y, given, torch.ones_like(y))])

    for _ in range(3):
        assert torch.equal(step(), ordinary(step))
    assert prepared() >= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_captures_replays(backend: str) -> None:
    net = nets.create("resnet18").eval().half().cuda()
    x = image(2, 3, 224, 224)
    with convatlas.use_backend(backend):
        for _ in range(3):
            net(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = net(x)
        x.copy_(image(2, 3, 224, 224))
        graph.replay()
        assert torch.equal(y, ordinary(lambda: net(x)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_call_in_a_capture_leaves_nothing_behind(backend: str) -> None:
    x, y = image(2, 64, 9, 9), image(2, 64, 9, 9)
    convatlas.relu(y, backend=backend)  # compiled
    kept = prepared()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        convatlas.relu(x[:1], backend=backend)
    assert prepared() == kept


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads(backend: str) -> None:
    """Threads that have never called CUDA launch too, each with its own addresses."""
    w = image(64, 64, 3, 3)
    run = lambda x: convatlas.conv2d(x, w, padding=1, backend=backend)  # noqa: E731
    images = [image(2, 64, 14, 14) for _ in range(32)]
    run(images[0])
    expected = [ordinary(lambda: run(x)) for x in images]  # noqa: B023
    torch.cuda.synchronize()

    def work(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = run(x)
        torch.cuda.synchronize()
        return y

    with ThreadPoolExecutor(8) as pool:
        assert all(map(torch.equal, pool.map(work, images), expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("backend", BACKENDS)
def test_devices(backend: str) -> None:
    """Whichever device is the current one, a launch goes to its tensors'."""
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        x = image(2, 64, 9, 9, device=device)
        for current in (0, 1):
            with torch.cuda.device(current):
                run = lambda: convatlas.relu(x, backend=backend)  # noqa: B023, E731
                assert run().device == x.device and torch.equal(run(), ordinary(run))


@pytest.mark.parametrize("op", ["conv2d", "linear"])
def test_tf32(op: str) -> None:
    setting = torch.backends.cudnn.conv if op == "conv2d" else torch.backends.cuda.matmul
    x, w, before = torch.randn(256, 256, device="cuda"), torch.randn(256, 256, device="cuda"), setting.fp32_precision
    run = (
        (lambda: convatlas.linear(x, w))
        if op == "linear"
        else lambda: convatlas.conv2d(x[..., None, None], w[..., None, None])
    )
    try:
        for value in ("ieee", "tf32", "ieee", "tf32"):
            setting.fp32_precision = value
            assert torch.equal(run(), ordinary(run))
    finally:
        setting.fp32_precision = before


def test_the_allocator_gives_a_hot_call_its_output_only() -> None:
    """Where the reduction is split too: its workspace is kept."""
    x, w = image(1, 512, 7, 7), image(512, 512, 3, 3)
    run = lambda: convatlas.conv2d(x, w, padding=1, backend="triton")  # noqa: E731
    run(), run()
    assert next(iter(hot.state().entries.values()))[0].prepared.scratch
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    y = run()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 1 and y.numel()
