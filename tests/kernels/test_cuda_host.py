"""The CPU build of the CUDA kernels: what it refuses, races, TF32, every tile, and a run under address sanitizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_cases import CONVOLUTIONS, POOLS, Case, conv, hold, run_convolution, run_pool
from planting import copied_kernels
from rotation import share
from sanitizing import sanitized

from convatlas.errors import BackendError
from convatlas.kernels import backend
from convatlas.kernels.common.cuda.launch import CudaLaunch, reciprocal
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.conv2d import launch_cuda as stem
from convatlas.kernels.gemm import launch_cuda as dense
from convatlas.specs import Conv2dSpec

ONE_OF_EACH = [
    c
    for c in CONVOLUTIONS
    if c.id
    in {"3x3-residual-relu", "stem-7x7", "1x1-17-to-3", "depthwise-3x3", "depthwise-9x9", "grouped-32x4d", "grouped-2"}
]
SPLIT = [
    conv("split", (1, 256, 5, 5), (64, 256, 3, 3), padding=1, residual=True, activation="relu"),
    conv("split-odd-filters", (1, 1024, 3, 3), (41, 1024, 1, 1), activation="relu6"),
]

STEMS = [
    conv("stem-rgba", (2, 4, 13, 17), (24, 4, 5, 3), stride=(2, 1), padding=(2, 1), activation="relu"),
    conv("stem-gray", (1, 1, 20, 33), (72, 1, 3, 3), padding=1),
    conv("stem-two-dilated", (1, 2, 19, 18), (8, 2, 3, 4), dilation=(2, 3), padding=3, bias=False),
    conv("stem-11x11-64", (1, 3, 47, 47), (64, 3, 11, 11), stride=4, padding=2, activation="relu6"),
]


@pytest.fixture(params=["sm_80", "sm_90", "sm_100"])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(backend, "current", lambda x, name: TARGETS[request.param])
    return request.param


@pytest.mark.parametrize("case", SPLIT, ids=str)
def test_split_reductions(case: Case, target: str, poisoned: None) -> None:
    """The partial sums are added in one order, so results repeat."""
    hold(lambda: run_convolution(case, "float16", "cpu", "nhwc", "normal", "cuda"))
    once, twice = (run_convolution(case, "float16", "cpu", "nhwc", "normal", "cuda") for _ in range(2))
    assert torch.equal(once, twice)


@pytest.mark.parametrize("form", ["nhwc", "nchw", "sliced"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", STEMS, ids=str)
def test_stems(case: Case, dtype: str, form: str, monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    """One block for all tiles, so that it walks from tile to tile; inputs in any memory format, outputs in channels_last."""
    monkeypatch.setattr(stem, "BLOCKS_PER_SM", 1)
    monkeypatch.setattr(backend, "current", lambda x, backend: replace(TARGETS["sm_90"], sms=1))
    ran = []
    monkeypatch.setattr(CudaLaunch, "run", lambda self, run=CudaLaunch.run: (ran.append(self), run(self)))
    shape = Conv2dSpec.of(
        case.input, case.weight, **{k: v for k, v in case.arguments.items() if k != "activation"}
    ).output_shape
    out = torch.full(shape, torch.nan, dtype=getattr(torch, dtype)).contiguous(memory_format=torch.channels_last)
    hold(lambda: run_convolution(case, dtype, "cpu", form, "normal", "cuda", out))
    assert [launch.kernel for launch in ran] == ["conv2d_stem"] and ran[0].grid[0] == 1


def test_the_split_cases_split(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(CudaLaunch, "run", lambda self: ran.append(self.kernel))
    for case in SPLIT:
        run_convolution(case, "float16", "cpu", "nhwc", "normal", "cuda")
    assert ran == ["implicit_gemm", "split_reduce"] * len(SPLIT)


@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if c.id in {"depthwise-3x3", "depthwise-7x7"}], ids=str)
def test_tall_tiles(case: Case, monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    """The tiles of 8 rows that a large depthwise layer gets, on a small one, whose last tiles reach over both edges."""
    monkeypatch.setattr(backend, "current", lambda x, backend: replace(TARGETS["sm_90"], sms=0))
    heights = []
    monkeypatch.setattr(
        CudaLaunch, "run", lambda self, run=CudaLaunch.run: (heights.append(self.template[-1]), run(self))
    )
    hold(lambda: run_convolution(case, "float16", "cpu", "nhwc", "normal", "cuda"))
    assert heights == ["8"]


@pytest.mark.parametrize("case", [c for c in POOLS if c.id == "avg-3x3"], ids=str)
def test_tall_tiles_in_pools(case: Case, monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    monkeypatch.setattr(backend, "current", lambda x, backend: replace(TARGETS["sm_90"], sms=0))
    hold(lambda: run_pool(case, "float16", "cpu", "nhwc", "normal", "cuda"))


@pytest.mark.parametrize("d", [1, 2, 3, 7, 18, 49, 56, 224, 641, 1 << 16, (1 << 16) + 1, (1 << 31) - 1])
def test_reciprocals_divide(d: int) -> None:
    """device.cuh's quotient, in Python's integers: exact below 2^31, and its product below 2^64."""
    by = reciprocal(d)
    for n in {0, 1, d - 1, d, d + 1, 2**31 - 1, (2**31 - 1) // d * d, (2**31 - 1) // d * d - 1}:
        if 0 <= n < 2**31:
            assert n * (by >> 6) < 2**64
            assert n * (by >> 6) >> 32 + (by & 63) == n // d


TILES = [(*tile, dtype) for dtype in ("float16", "float32") for tile in dense.TENSOR_CORE]


@pytest.mark.parametrize("BM, BN, dtype", share(TILES, 6))
def test_every_tile(BM: int, BN: int, dtype: str, monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    """The tiles that a large layer gets, on a small one: two rows of blocks, the last of each ragged."""
    monkeypatch.setattr(dense, "tile_for", lambda M, K, steps, n, tensor_core, *rest: _tiles(tensor_core)[BM, BN])
    case = conv("tile", (2, 48, 11, 13), (BN + 8, 48, 3, 3), padding=1, activation="relu")
    hold(lambda: run_convolution(case, dtype, "cpu", "nhwc", "normal", "cuda"))


def _tiles(tensor_core: bool) -> dict:
    return dense.TENSOR_CORE if tensor_core else dense.SIMT


@pytest.mark.parametrize("case", share([c for c in CONVOLUTIONS if "depthwise" not in c.id], 10), ids=str)
def test_tf32(case: Case, monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    """The TF32 kernels, which only a GPU's launcher picks, rounded as cvt.rna.tf32 rounds."""
    monkeypatch.setattr(dense, "tensor_float", lambda p: p.dtype == "float32")
    monkeypatch.setattr("kernel_cases.tensor_float", lambda call, output: True)
    hold(lambda: run_convolution(case, "float32", "cpu", "nhwc", "normal", "cuda"))


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_the_order_of_threads_does_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads run up to each barrier one after the other, so a missing barrier shows when their order is turned round."""
    forth = run_convolution(case, "float16", "cpu", "nhwc", "normal", "cuda")
    monkeypatch.setenv("CONVATLAS_REVERSE", "1")
    assert torch.equal(forth, run_convolution(case, "float16", "cpu", "nhwc", "normal", "cuda"))


@pytest.mark.parametrize("case", [c for c in POOLS if c.id in {"adaptive-global", "max-3x3-stride-2"}], ids=str)
def test_the_order_of_threads_does_not_matter_in_pools(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    forth = run_pool(case, "float16", "cpu", "nhwc", "normal", "cuda")
    monkeypatch.setenv("CONVATLAS_REVERSE", "1")
    assert torch.equal(forth, run_pool(case, "float16", "cpu", "nhwc", "normal", "cuda"))


# ---- what a GPU would do silently wrong

FAULTS = """
#include "common/cuda/mma.cuh"
struct FaultParams { const void *x; void *y; };
template <int KIND> __global__ void __launch_bounds__(64) fault(const FaultParams p) {
    float *y = static_cast<float *>(p.y), *shared = reinterpret_cast<float *>(shared_memory());
    const int t = threadIdx.x;
    if (KIND == 0) { shared[t] = t; __syncthreads(); y[t] = shared[63 - t]; }
    if (KIND == 1 && t != 7) __syncthreads();
    if (KIND == 2) { if (t < 32) { __syncthreads(); } else {
        __syncthreads(); } }
    if (KIND == 3) { float v[4]; load(v, static_cast<const float *>(p.x) + 1); y[t] = v[0]; }
    if (KIND == 4) { copy_async(shared + 4 * t, p.x, true); commit_copies(); y[t] = shared[4 * t]; }
    if (KIND == 5 && t % 32 != 3) y[t] = __shfl_xor_sync(0xFFFFFFFFu, 1.0f, 1);
    if (KIND == 6) { copy_async(shared + 4 * t, p.x, true); commit_copies(); wait_copies<0>(); y[t] = shared[4 * t]; }
    if (KIND == 7) y[t] = shared[t * 17];
    if (KIND == 8) y[t + 1] = 1.0f;
}
"""


def fault(kind: int, folder: Path, monkeypatch: pytest.MonkeyPatch, barriers: bool = True) -> torch.Tensor:
    """Runs fault<kind> from a folder that takes the place of kernels/."""
    x, y = torch.arange(8.0), torch.zeros(64)
    with copied_kernels(folder, monkeypatch) as root:
        (root / "fault.cu").write_text(FAULTS)
        CudaLaunch("fault.cu", "fault", (str(kind),), (1,), 64, dict(x=x, y=y), 1024, barriers).run()
    return y


def test_a_barrier_exchanges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(fault(0, tmp_path, monkeypatch), torch.arange(63.0, -1, -1))


@pytest.mark.parametrize(
    "kind, message",
    [
        (1, r"63 threads wait at a barrier that the others never reach \(1 of 64 have returned\)"),
        (2, "some threads wait on line 9, others on line 10"),
        (3, "a misaligned 16-byte load"),
        (5, "threads wait at a warp-wide instruction"),
    ],
)
def test_faults_are_errors(kind: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=message):
        fault(kind, tmp_path, monkeypatch)


def test_a_barrier_in_a_launch_without_barriers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="launched as one without barriers"):
        fault(0, tmp_path, monkeypatch, barriers=False)


def test_a_copy_that_is_not_waited_for_gives_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault(4, tmp_path, monkeypatch).isnan().all()
    assert torch.equal(fault(6, tmp_path, monkeypatch), torch.zeros(64))


def test_arguments_must_be_the_struct_s() -> None:
    launch = CudaLaunch("softmax/softmax.cu", "softmax", ("float",), (1,), 128, dict(x=None, y=None, length=1))
    with pytest.raises(TypeError, match="inner"):
        assert launch.packed


# ---- address sanitizer


SANITIZED = """
import torch
from kernel_cases import CONVOLUTIONS, POOLS, run_convolution, run_pool
import convatlas
from convatlas.codegen.block_calls import basic_block, bottleneck, depthwise_separable, inverted_residual, persistent
from convatlas.ops.block import block
from convatlas.study.layer import Layer
from convatlas.verify.single import operands
names = {names}
ran = 0
for form, dtype in (("nhwc", "float16"), ("sliced", "float16")):
    for case in CONVOLUTIONS:
        if case.id in names:
            run_convolution(case, dtype, "cpu", form, "normal", "cuda"); ran += 1
    for case in POOLS:
        if case.id in names:
            run_pool(case, dtype, "cpu", form, "normal", "cuda"); ran += 1
for height in (9, 1):
    blocks = {{
        "bottleneck-64": bottleneck((1, 256, height, 17), 64, 256),
        "bottleneck-downsample": bottleneck((1, 64, height, 17), 64, 256, True),
        "bottleneck-128": bottleneck((1, 512, height, 15), 128, 512),
        "basic-block": basic_block((1, 64, height, 17)),
        "persistent": persistent((2, 64, height, 17), [(64, 128, 2)]),
        "inverted-residual": inverted_residual((2, 24, height, 17), 144, 24, residual=True),
        "inverted-residual-5x5": inverted_residual((1, 24, height, 30), 48, 40, 5, 2),
        "depthwise-separable": depthwise_separable((1, 64, height, 34), 64, 3, 2, "relu6", None),
    }}
    for call in (blocks[name] for name in names if name in blocks):
        block(call.spec, operands(Layer("", call), torch.float16, torch.device("cpu"), 0), backend="cuda"); ran += 1
B = dict(backend="cuda")
half = lambda shape: torch.randn(shape).half()
x = half((2, 17, 5, 3))
zeros, ones = torch.zeros(17).half(), torch.ones(17).half()
others = {{
    "residual-add": lambda y: convatlas.residual_add(y, y, activation="relu", **B),
    "concat": lambda y: convatlas.concat([y, y[:, :1]], **B),
    "softmax": lambda y: convatlas.softmax(y, 1, **B),
    "local-response-norm": lambda y: convatlas.local_response_norm(y, 5, **B),
    "batch-norm": lambda y: convatlas.batch_norm(y, zeros[:y.shape[1]], ones[:y.shape[1]], **B),
    "linear": lambda y: convatlas.linear(*map(half, ((1 if y.shape[1] == 16 else 3, 40), (33, 40), (33,))), **B),
}}
for name in names & others.keys():
    for y in (x, x.contiguous(memory_format=torch.channels_last), half((2, 16, 3, 3))):
        others[name](y); ran += 1
print("ran", ran)
"""
NAMES = [
    "3x3-residual-relu", "kernel-larger-than-input", "asymmetric-padding", "bottleneck-64", "stem-3x3-same", "1x1-17-to-3",
    "1x1-strided", "bottleneck-downsample", "depthwise-5x5-stride-2", "depthwise-multiplier", "grouped-32x4d",
    "bottleneck-128", "grouped-uneven", "max-3x3-stride-2", "max-ceil-padded", "avg-3x3", "adaptive-global", "basic-block",
    "adaptive-larger", "persistent", "inverted-residual", "inverted-residual-5x5", "depthwise-separable", "residual-add", "concat",
    "softmax", "local-response-norm", "batch-norm", "linear",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.xdist_group("sanitizer")
def test_no_access_out_of_bounds() -> None:
    """Global and shared memory are allocated to the byte and guarded; misaligned and undefined arithmetic ends the process."""
    names = {"depthwise-3x3", *share(NAMES, 3)}  # each is a library to build, by turns
    done = sanitized(SANITIZED.format(names=names))
    assert done.returncode == 0, done.stderr[-3000:]
    others = names & set(NAMES[-6:])
    assert done.stdout.split()[-1] == str(2 * len(names) + len(others))  # those are run three times


@pytest.mark.xdist_group("sanitizer")
@pytest.mark.parametrize("kind", share([7, 8]))
def test_the_sanitizer_finds_a_planted_fault(kind: int, tmp_path: Path) -> None:
    code = f"""
import pathlib, pytest, importlib.util, sys
spec = importlib.util.spec_from_file_location("faults", {__file__!r})
faults = importlib.util.module_from_spec(spec); spec.loader.exec_module(faults)
faults.fault({kind}, pathlib.Path({str(tmp_path)!r}), pytest.MonkeyPatch())
"""
    done = sanitized(code, tmp_path / "cache")
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr, done.stderr[-2000:]
    assert "fault.cu:" in done.stderr
