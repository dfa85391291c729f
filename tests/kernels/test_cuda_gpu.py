"""Launching on a GPU: torch's stream, CUDA graphs, and what is said where CuPy is missing."""

from __future__ import annotations

import sys

import pytest
import torch

import convatlas
from convatlas.errors import BackendError
from convatlas.kernels.common.cuda import gpu


def test_a_missing_cupy_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    gpu._cupy.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"needs CuPy .*pip install") as error:
            gpu._cupy()
    finally:
        gpu._cupy.cache_clear()
    assert "\n" not in str(error.value)


class Function:
    """What CuPy's function remembers."""

    max_dynamic_shared_size_bytes = 0
    preferred_shared_memory_carveout = -1


def test_a_kernels_shared_memory_only_grows() -> None:
    """Layers share a kernel and differ in what their blocks need: a smaller one must not take from a larger one's allowance."""
    found = gpu.Kernel(Function())
    for shared, allowed in ((1024, 0), (100_000, 100_000), (60_000, 100_000), (200_000, 200_000), (0, 200_000)):
        assert found.ready(shared).max_dynamic_shared_size_bytes == allowed
    assert found.function.preferred_shared_memory_carveout == 100


def layers(x: torch.Tensor, w: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), convatlas.use_backend("cuda"):
        y = convatlas.conv2d(x, w, padding=1, activation="relu")
        y = convatlas.conv2d(y, d, padding=1, groups=64, residual=y)
        return convatlas.adaptive_avg_pool2d(y, 1)


def operands(device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 32, 14, 14), (64, 32, 3, 3), (64, 1, 3, 3)
    x, w, d = (torch.randn(s, generator=generator).half().to(device) * 0.2 for s in shapes)
    return [x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last), d]


def test_without_a_gpu_the_same_layers_run() -> None:
    assert layers(*operands("cpu")).isfinite().all()


@pytest.mark.gpu
def test_in_a_cuda_graph() -> None:
    given = operands("cuda")
    expected = layers(*given)  # compiles, so that the capture does not have to
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layers(*given)
    y.zero_()
    given[0].mul_(2)
    graph.replay()
    assert torch.equal(y, layers(*given)) and not torch.equal(y, expected)


@pytest.mark.gpu
def test_on_the_current_stream() -> None:
    """A kernel that ran on another stream would not wait for the sleep and the copy before it."""
    given = operands("cuda")
    expected = layers(*given)
    stream, late = torch.cuda.Stream(), torch.zeros_like(given[0])
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(given[0])
        y = layers(late, *given[1:])
    stream.synchronize()
    assert torch.equal(y, expected)
