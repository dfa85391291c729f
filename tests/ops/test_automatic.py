"""The rule that picks triton or cuda, and that it is asked for CUDA tensors only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from convatlas.call import Call
from convatlas.kernels.common.proven import KERNELS
from convatlas.ops import automatic, backends
from convatlas.specs import AdaptivePool2dSpec, Conv2dSpec, LinearSpec, Pool2dSpec, ResidualAddSpec

X, BIG, IMAGES = (2, 32, 14, 14), (32, 32, 112, 112), (32, 3, 224, 224)
CALLS = {
    "depthwise": (Call("conv2d", Conv2dSpec.of(BIG, (32, 1, 3, 3), padding=1, groups=32)), "cuda"),
    "small depthwise": (Call("conv2d", Conv2dSpec.of(X, (32, 1, 3, 3), groups=32)), "cuda"),
    "means": (Call("adaptive_avg_pool2d", AdaptivePool2dSpec.of((32, 2048, 7, 7), 1)), "cuda"),
    "few means": (Call("adaptive_avg_pool2d", AdaptivePool2dSpec.of((1, 2048, 7, 7), 1)), "triton"),
    "stem": (Call("conv2d", Conv2dSpec.of(IMAGES, (64, 3, 7, 7), 2, 3), dtype="float16"), "cuda"),
    "stem of one image": (
        Call("conv2d", Conv2dSpec.of((1, *IMAGES[1:]), (64, 3, 7, 7), 2, 3), dtype="float16"),
        "triton",
    ),
    "stem in float32": (Call("conv2d", Conv2dSpec.of(IMAGES, (64, 3, 7, 7), 2, 3)), "triton"),
    "3x3 stem": (Call("conv2d", Conv2dSpec.of(IMAGES, (64, 3, 3, 3), 1, 1), dtype="float16"), "triton"),
    "max_pool2d": (Call("max_pool2d", Pool2dSpec.of("max", X, 2)), "cuda"),
    "residual_add": (Call("residual_add", ResidualAddSpec.of(X, X)), "triton"),
    "linear of 8 rows": (Call("linear", LinearSpec.of((8, 64), (10, 64))), "cuda"),
    "linear of 32 rows and 2048": (Call("linear", LinearSpec.of((32, 2048), (1000, 2048)), dtype="float16"), "cuda"),
    "linear of many filters": (Call("linear", LinearSpec.of((32, 4096), (4096, 4096)), dtype="float16"), "triton"),
    "24 channels": (Call("conv2d", Conv2dSpec.of((2, 24, 14, 14), (64, 24, 3, 3)), dtype="float16"), "cuda"),
    "24 channels, 1x1": (Call("conv2d", Conv2dSpec.of((2, 24, 14, 14), (64, 24, 1, 1)), dtype="float16"), "triton"),
    "linear of 9 rows": (Call("linear", LinearSpec.of((9, 64), (10, 64))), "triton"),
    "dense": (Call("conv2d", Conv2dSpec.of(X, (64, 32, 3, 3))), "triton"),
    "grouped": (Call("conv2d", Conv2dSpec.of(X, (64, 8, 3, 3), groups=4)), "triton"),
    "pointwise": (Call("conv2d", Conv2dSpec.of(X, (64, 32, 1, 1))), "triton"),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, expected = CALLS[name]
    monkeypatch.setattr(automatic, "cuda_is_here", lambda: True)
    monkeypatch.setattr(automatic, "held_on", lambda device: frozenset())
    assert automatic.choose(call, 0) == expected
    if expected == "cuda":
        monkeypatch.setattr(automatic, "held_on", lambda device: frozenset({automatic.family(call)}))
        assert automatic.family(call) in KERNELS and automatic.choose(call, 0) == "triton"
    monkeypatch.setattr(automatic, "held_on", lambda device: frozenset())
    monkeypatch.setattr(automatic, "cuda_is_here", lambda: False)
    assert automatic.choose(call, 0) == "triton"


def test_it_is_asked_for_cuda_tensors_without_another_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    call = CALLS["depthwise"][0]
    monkeypatch.setattr(automatic, "cuda_is_here", lambda: True)
    monkeypatch.setattr(automatic, "held_on", lambda device: frozenset())
    monkeypatch.delenv("CONVATLAS_BACKEND", raising=False)
    on_gpu, on_cpu = (SimpleNamespace(is_cuda=cuda, device=SimpleNamespace(index=0)) for cuda in (True, False))
    assert backends.resolve(None, on_gpu, call) == "cuda"
    assert backends.resolve("triton", on_gpu, call) == "triton"
    assert backends.resolve(None, on_cpu, call) == "numpy"
