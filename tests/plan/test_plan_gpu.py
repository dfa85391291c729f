"""Plans on a GPU: the CUDA graph, streams and threads. Nothing here runs without one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.plan.replay import Launches

pytestmark = pytest.mark.gpu


@pytest.fixture
def net() -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval().cuda().half()


def image(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).half().cuda()


def assert_near(found: Tensor, expected: Tensor) -> None:
    error = (found.float() - expected.float()).abs().max()
    assert error <= 0.02 * expected.float().abs().max(), float(error)


def test_a_graph_replays_what_the_module_computes(net: nn.Module) -> None:
    plan = convatlas.compile(net, image(2))
    with torch.no_grad():
        for n, seed in ((2, 0), (2, 1), (1, 2), (2, 3)):
            assert_near(plan(image(n, seed)), net(image(n, seed)))
        assert plan.program().recording is not None
        net.layer1[0].conv1.weight.mul_(2)
        assert_near(plan(image(2)), net(image(2)))


def test_a_call_allocates_its_output_only(net: nn.Module) -> None:
    plan, x = convatlas.compile(net, image(2)), image(2)
    plan(x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    y = plan(x)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 1 and y.shape == (2, 1000)


def test_threads_on_streams_of_their_own(net: nn.Module) -> None:
    plan = convatlas.compile(net, image(1))
    inputs = [image(1 + i % 2, i) for i in range(12)]
    with torch.no_grad():
        expected = [net(x) for x in inputs]
    for n in (1, 2):
        plan(image(n))
    torch.cuda.synchronize()

    def work(i: int) -> Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            found = plan(inputs[i])
            torch.cuda.current_stream().synchronize()
        return found

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(work, range(len(inputs))), expected):
            assert_near(found, wanted)


@pytest.mark.parametrize("backend", [None, "triton"])
def test_without_a_graph_launches_are_prepared(net: nn.Module, backend: str | None) -> None:
    with torch.no_grad():
        graph = convatlas.compile(net, image(2), backend=backend)
        plan = convatlas.compile(net, image(2), backend=backend, graph=False)
        for seed in range(3):
            assert torch.equal(plan(image(2, seed)), graph(image(2, seed)))
    runs = [getattr(ready.run, "__self__", None) for ready in plan.program().steps]
    found = [run for run in runs if isinstance(run, Launches)]
    assert len(found) > 20 and all(run.fixed is not None for run in found)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_dependent_launches_compute_the_same(net: nn.Module, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a Hopper GPU")
    images = [image(2, seed) for seed in range(4)]
    monkeypatch.setenv("CONVATLAS_DEPENDENT", "0")
    plain = convatlas.compile(net, images[0], backend=backend)
    monkeypatch.setenv("CONVATLAS_DEPENDENT", "1")
    dependent = convatlas.compile(net, images[0], backend=backend)
    launches = [one for ready in dependent.program().steps for one in ready.launches]
    assert sum(one.early if backend == "cuda" else "launch_pdl" in one.options for one in launches) > 20
    expected = [plain(x) for x in images]
    for _ in range(50):  # back to back, so that one run's last kernels meet the next run's first
        found = [dependent(x) for x in images]
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("graph", [True, False])
def test_kernels_that_travel_are_launched_without_a_compiler(
    net: nn.Module, graph: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = convatlas.compile(net, image(2), graph=graph)
    expected = [plan(image(2, seed)) for seed in range(4)]
    plan.save(tmp_path / "x.plan", kernels=True)

    def never(*given: Any, **keywords: Any) -> None:
        raise AssertionError("a compiler was called")

    for name in ("triton.runtime.jit.JITFunction.run", "convatlas.kernels.common.cuda.gpu.run"):
        monkeypatch.setattr(name, never)
    loaded = convatlas.load_plan(tmp_path / "x.plan")
    assert not loaded.carried.fault and not loaded.carried.missed
    for seed, right in enumerate(expected):
        assert torch.equal(loaded(image(2, seed)), right)
