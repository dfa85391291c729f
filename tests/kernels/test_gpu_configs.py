"""The very launches that a GPU would get, run in the interpreter: tiles, split-K, packs, and offsets beyond 2^31."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import CONVOLUTIONS, POOLS, Case, conv, hold, run_convolution, run_pool
from rotation import share, with_ways

import convatlas
from convatlas.call import Call
from convatlas.errors import ShapeError
from convatlas.kernels import backend as triton_backend
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.target import TARGETS
from convatlas.specs import Conv2dSpec, Epilogue

pytestmark = pytest.mark.interpreter

# Both for offsets; the rest is Triton's alone, since on a CPU the CUDA kernels run with a GPU's launches anyway.
BACKENDS = ["triton", "cuda"]

SPLIT = [
    conv("gather-split", (1, 256, 5, 5), (64, 256, 3, 3), padding=1, residual=True, activation="relu"),
    conv("pointwise-split", (1, 1024, 4, 4), (128, 1024, 1, 1), activation="relu6"),
    conv("pointwise-split-residual", (1, 1024, 3, 3), (40, 1024, 1, 1), residual=True),
]


# Tiles differ little between architectures: one sees every case, the others what splits and what is packed.
EVERY, SOME = "sm_90", ["sm_80", "sm_100"]


@pytest.fixture(params=[EVERY, *SOME])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(triton_backend, "current", lambda x, backend: replace(TARGETS[request.param], interpreted=True))
    return request.param


@pytest.mark.parametrize("target", [EVERY], indirect=True)
# 81 taps in many small programs take the interpreter long, and show nothing that 49 do not.
@pytest.mark.parametrize("case", share([c for c in CONVOLUTIONS if c.id != "depthwise-9x9"], 15), ids=str)
def test_convolutions(case: Case, target: str, poisoned: None) -> None:
    hold(lambda: run_convolution(case, "float16", "cpu", "nhwc", "normal", "triton"))


@pytest.mark.parametrize(
    "case, target",
    with_ways([*SPLIT, *(c for c in CONVOLUTIONS if c.id in {"3x3-residual-relu", "grouped-32x4d"})], [EVERY, *SOME]),
    indirect=["target"],
    ids=str,
)
def test_split_and_packed(case: Case, target: str, poisoned: None) -> None:
    """Exact: partial sums that a split stores in half precision would be rounded."""
    hold(lambda: run_convolution(case, "float16", "cpu", "nhwc", "probes", "triton"), exact=True)


@pytest.mark.parametrize("target", [EVERY], indirect=True)
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pools(case: Case, target: str, poisoned: None) -> None:
    hold(lambda: run_pool(case, "float16", "cpu", "nhwc", "normal", "triton"))


@pytest.mark.parametrize("case", SPLIT, ids=str)
def test_the_split_cases_split(case: Case, target: str) -> None:
    """Else the tests above would prove nothing of split-K; a kernel of its own adds the partial sums, without atomics."""
    spec = Conv2dSpec.of(case.input, case.weight, padding=case.arguments.get("padding", 0))
    tensors = {"input": torch.empty(case.input, device="meta"), "weight": torch.empty(case.weight, device="meta")}
    call = Call("conv2d", spec, Epilogue(), dtype="float16")
    out = torch.empty(spec.output_shape, device="meta")
    launches = triton_backend.launcher("triton", "conv2d")(Problem.of(call, tensors, out, TARGETS[target]))
    names = [launch.kernel.__name__ for launch in launches]
    assert names[1:] == ["splitk_reduce_kernel"]


def far(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """A channels_last tensor whose images lie 2^31 elements apart; untouched pages of the storage take no memory."""
    N, C, H, W = shape
    storage = torch.empty((N - 1) * 2**31 + C * H * W, dtype=torch.float16)
    return storage.as_strided(shape, (2**31, 1, W * C, C))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "weight, groups", [((8, 16, 3, 3), 1), ((8, 16, 1, 1), 1), ((16, 1, 3, 3), 16), ((32, 4, 3, 3), 4)], ids=str
)
def test_offsets_beyond_32_bits_in_convolutions(weight: tuple, groups: int, backend: str) -> None:
    x, out = far((2, 16, 5, 5)), far((2, weight[0], 5, 5))
    x.copy_(torch.randn(x.shape))
    w = torch.randn(weight, dtype=torch.float16) * 0.1
    hold(lambda: convatlas.conv2d(x, w, padding=weight[2] // 2, groups=groups, out=out, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weight, groups", [((8, 8, 3, 3), 1), ((8, 8, 1, 1), 1), ((8, 1, 3, 3), 8)], ids=str)
def test_pixels_that_32_bits_cannot_count(backend: str, weight: tuple, groups: int) -> None:
    """Told, not wrapped around; on the meta device, where so many take no memory."""
    spec = Conv2dSpec.of((2**17, 8, 128, 128), weight, padding=weight[2] // 2, groups=groups)
    x, w, y = (
        torch.empty(s, dtype=torch.float16, device="meta") for s in (spec.input_shape, weight, spec.output_shape)
    )
    x, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, y))
    call = Call("conv2d", spec, Epilogue(), dtype="float16", backend=backend)
    with pytest.raises(ShapeError, match=r"N\*P\*Q = 131072\*128\*128 = 2147483648 output pixels, expected at most"):
        triton_backend.run(call, {"input": x, "weight": w}, y)


def test_more_packs_of_groups_than_a_grid_has_rows() -> None:
    """CUDA's grids have 65535 blocks along z."""
    spec = Conv2dSpec.of((1, 33 * 70000, 1, 1), (33 * 70000, 33, 1, 1), groups=70000)
    shapes = {"input": spec.input_shape, "weight": spec.weight_shape, "out": spec.output_shape}
    given = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in shapes.items()}
    problem = Problem.of(Call("conv2d", spec, Epilogue(), dtype="float16"), given, given.pop("out"), TARGETS["sm_90"])
    with pytest.raises(ShapeError, match=r"70000 packs of groups on backend .cuda., expected at most 65535"):
        triton_backend.launcher("cuda", "conv2d")(problem)


@pytest.mark.parametrize("backend", BACKENDS)
def test_offsets_beyond_32_bits_elsewhere(backend: str) -> None:
    x, out = far((2, 3, 6, 6)), far((2, 3, 6, 6))
    x.copy_(torch.randn(x.shape))
    B = {"backend": backend}
    hold(lambda: convatlas.conv2d(x, torch.randn(3, 3, 3, 3).half(), padding=1, out=out, **B))
    hold(lambda: convatlas.max_pool2d(x, 3, 1, 1, out=out, **B))
    hold(lambda: convatlas.avg_pool2d(x, 3, 1, 1, out=out, **B))
    hold(lambda: convatlas.adaptive_avg_pool2d(x, 6, out=out, **B))
    hold(lambda: convatlas.adaptive_avg_pool2d(x, 1, out=far((2, 3, 1, 1)), **B))
    hold(lambda: convatlas.relu(x, out=out, **B))
    hold(lambda: convatlas.local_response_norm(x, 3, out=out, **B))
    hold(lambda: convatlas.batch_norm(x, torch.zeros(3).half(), torch.ones(3).half(), out=out, **B))
