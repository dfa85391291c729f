"""Races, by a build that watches each access (race.hpp): planted ones are found, where they are, and no kernel has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest
import torch
from block_cases import run
from kernel_cases import CONVOLUTIONS, POOLS, run_convolution, run_pool
from planting import copied_kernels
from rotation import share

import convatlas
from convatlas.codegen.block_calls import (
    basic_block,
    bottleneck,
    depthwise_separable,
    inverted_residual,
    persistent,
    pool_pointwise,
    stem_pool,
)
from convatlas.errors import BackendError
from convatlas.kernels.common.cuda.launch import CudaLaunch

ops = torch.ops.convatlas

# A fault each, of 64 threads.
FAULTS = """
#include "common/cuda/mma.cuh"
#include "common/cuda/between.cuh"
struct FaultParams { const void *x; void *y, *counters; i64 kind; };
template <typename T> __global__ void __launch_bounds__(64) fault(const FaultParams p) {
    float *y = static_cast<float *>(p.y), *shared = reinterpret_cast<float *>(shared_memory());
    unsigned *counters = static_cast<unsigned *>(p.counters);
    const int t = threadIdx.x, b = blockIdx.x, kind = int(p.kind);
    if (kind == 0) { shared[t] = t; __syncthreads(); y[t] = shared[63 - t]; }
    if (kind == 1) { shared[t] = t; y[t] = shared[63 - t]; __syncthreads(); }
    if (kind == 2) { shared[t] = t; __syncthreads(); y[t] = shared[63 - t]; shared[t] = 0.0f; }
    if (kind == 3) { shared[t / 2] = t; __syncthreads(); }
    if (kind == 4) { shared[t] = t; __syncwarp(); y[t] = shared[t ^ 31]; }
    if (kind == 5) { shared[t] = t; __shfl_xor_sync(0xFFFFFFFFu, 1, 1); y[t] = shared[t ^ 31]; }
    if (kind == 6) { shared[t] = t; __syncwarp(); y[t] = shared[t ^ 32]; }
    if (kind == 7) { copy_async(shared + 4 * t, p.x, true); commit_copies(); wait_copies<0>(); y[t] = shared[4 * (t ^ 1)]; }
    if (kind == 8) { copy_async(shared + 4 * t, p.x, true); commit_copies(); __syncthreads(); y[t] = shared[4 * t]; }
    if (kind == 9) { y[t] = shared[4 * t]; copy_async(shared + 4 * (t ^ 1), p.x, true); commit_copies(); wait_copies<0>(); }
    if (kind >= 10) {
        if (b == 0) y[t] = t;
        if (kind != 11) __syncthreads();
        if (b == 0 && t == 0) kind == 12 ? take(counters) : signal(counters);
        if (b == 1 && t == 0 && kind != 13) await(counters, 1);
        if (kind != 14) __syncthreads();
        if (b == 1) y[64 + t] = y[63 - t];
    }
}
"""
SHARED, TENSOR = "a race in shared memory, byte", "a race in a tensor, byte"
EITHER = (
    f"{SHARED} .*: (read|written) after a (read|write) by (thread|warp)"  # which comes first is the order of threads
)
FOUND = {
    **dict.fromkeys((1, 2, 5, 6, 7, 9), EITHER),
    3: f"{SHARED} 0: written after a write by thread 0",
    8: f"{SHARED} .*: touched while a copy is on its way by thread",
    **dict.fromkeys((11, 12, 13, 14), f"{TENSOR} .*: read after a write by block 0"),
}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are built to look for races."""
    monkeypatch.setenv("CONVATLAS_RACES", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the kernel of the faults, which is built once."""
    return tmp_path_factory.mktemp("races")


def fault(kind: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Runs the fault, from 10 on in two blocks that wait for one another; returns what it wrote."""
    x, y, counters = torch.arange(8.0), torch.zeros(128), torch.zeros(4, dtype=torch.int32)
    with copied_kernels(folder, monkeypatch) as root:
        (root / "fault.cu").write_text(FAULTS)
        arguments = dict(x=x, y=y, counters=counters, kind=kind)
        CudaLaunch("fault.cu", "fault", ("float",), (1 + (kind > 9),), 64, arguments, 1024, True, together=True).run()
    return y


@pytest.mark.xdist_group("races")
@pytest.mark.parametrize("kind", [0, 4, 10])
def test_what_a_barrier_orders_is_no_race(
    kind: int, folder: Path, watched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, back = fault(kind, folder, monkeypatch), torch.arange(63.0, -1, -1)
    expected = {0: back, 4: torch.arange(64).bitwise_xor(31).float(), 10: back}
    assert torch.equal(y[64:] if kind == 10 else y[:64], expected[kind])


@pytest.mark.xdist_group("races")
@pytest.mark.parametrize("kind", FOUND)
def test_a_planted_race_is_found(kind: int, folder: Path, watched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what is wrong the line is told, where addr2line is here."""
    line = next(i for i, text in enumerate(FAULTS.split("\n"), 1) if f"kind == {kind})" in text or "y[63 - t]" in text)
    where = f".* at .*fault.cu:{line}" if which("addr2line") else ".*code 0x"
    with pytest.raises(BackendError, match=FOUND[kind] + where):
        fault(kind, folder, monkeypatch)


# ---- no kernel has one


def _convolution(name: str, dtype: str = "float16") -> Callable[[], object]:
    case = next(case for case in CONVOLUTIONS if case.id == name)
    return lambda: run_convolution(case, dtype, "cpu", "nhwc", "normal", "cuda")


def _pool(name: str) -> Callable[[], object]:
    case = next(case for case in POOLS if case.id == name)
    return lambda: run_pool(case, "float16", "cpu", "nhwc", "normal", "cuda")


def _map(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 9, 9).half().contiguous(memory_format=torch.channels_last)


KERNELS = {
    "persistent": lambda: run(persistent((1, 64, 10, 9), [(64, 128, 2)])),
    **{name: _convolution(name) for name in ("3x3-residual-relu", "1x1-17-to-3", "depthwise-3x3", "stem-7x7", "grouped-32x4d")},
    "simt": _convolution("3x3-residual-relu", "float32"),
    **{name: _pool(name) for name in ("adaptive-global", "max-3x3-stride-2")},
    "softmax": lambda: convatlas.softmax(torch.randn(3, 300).half(), 1, backend="cuda"),
    "gemv": lambda: convatlas.linear(torch.randn(2, 40).half(), torch.randn(33, 40).half(), backend="cuda"),
    "weight-grad": lambda: convatlas.conv2d_weight_grad(_map(24), _map(16), (24, 16, 3, 3), padding=1, backend="cuda"),
    "depthwise-grad": lambda: convatlas.conv2d_weight_grad(_map(16), _map(16), (16, 1, 3, 3), padding=1, groups=16, backend="cuda"),
    "norm-statistics": lambda: ops.batch_norm_stats(_map(24), "cuda"),
    "norm-sums": lambda: ops.batch_norm_sums(_map(24), _map(24), torch.zeros(24), torch.ones(24), 1e-3, "cuda"),
    "softmax-grad": lambda: ops.softmax_grad(torch.randn(3, 300).half(), torch.rand(3, 300).half(), 1, "cuda"),
    "bottleneck": lambda: run(bottleneck((1, 256, 5, 15), 64, 256)),
    "bottleneck-downsample": lambda: run(bottleneck((1, 64, 5, 15), 64, 256, True)),
    "bottleneck-128": lambda: run(bottleneck((1, 512, 2, 15), 128, 512)),
    "basic-block": lambda: run(basic_block((1, 64, 5, 15))),
    "inverted-residual": lambda: run(inverted_residual((1, 24, 9, 17), 96, 24, 3, 1, True)),
    "inverted-residual-5x5": lambda: run(inverted_residual((1, 24, 9, 17), 96, 40, 5, 2)),
    "depthwise-separable": lambda: run(depthwise_separable((1, 32, 9, 17), 64)),
    "pool-pointwise": lambda: run(pool_pointwise((1, 72, 7, 15), 32)),
    "stem-pool": lambda: run(stem_pool((1, 3, 35, 39), 64)),
}  # fmt: skip


@pytest.mark.parametrize("name", ["persistent", *share([name for name in KERNELS if name != "persistent"], 3)])
def test_no_kernel_has_a_race(name: str, watched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(CudaLaunch, "run", lambda self, run=CudaLaunch.run: (ran.append(self.kernel), run(self)))
    KERNELS[name]()
    assert ran
