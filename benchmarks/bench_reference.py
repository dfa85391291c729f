"""The reference's convolution in float32 against torch's on the CPU: every distinct convolution of ResNet-50, batch 1.

    pytest benchmarks/bench_reference.py

The two are timed by turns in one process (torch, NumPy, torch, NumPy, ...), each after one run untimed; the table gives
medians. Where torch has more than one thread, half a second passes before each of its turns: OpenBLAS's idle threads
spin for a while after a product, and would hold a core that torch waits for. With OPENBLAS_NUM_THREADS=1
OMP_NUM_THREADS=1 there is nothing to wait for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convatlas.reference import conv2d
from convatlas.specs import Conv2dSpec

ROUNDS = 5
PAUSE = 0.5  # seconds


def resnet50_convolutions() -> list[Conv2dSpec]:
    """The distinct convolutions of ResNet-50 at 1x3x224x224, stride in the 3x3 (He et al. 2015, table 1; torchvision's)."""
    specs = [Conv2dSpec.of((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)]
    C, H = 64, 56
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            P = H // step
            specs.append(Conv2dSpec.of((1, C, H, H), (width, C, 1, 1)))
            specs.append(Conv2dSpec.of((1, width, H, H), (width, width, 3, 3), stride=step, padding=1))
            specs.append(Conv2dSpec.of((1, width, P, P), (4 * width, width, 1, 1)))
            if block == 0:
                specs.append(Conv2dSpec.of((1, C, H, H), (4 * width, C, 1, 1), stride=step))
            C, H = 4 * width, P
    return list(dict.fromkeys(specs))


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[tuple[str, float, float]]]:
    """Rows (layer, torch's seconds, NumPy's), printed when all layers are done."""
    rows: list[tuple[str, float, float]] = []
    yield rows
    blas = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
    total = "total", sum(row[1] for row in rows), sum(row[2] for row in rows)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\nMeasured on this CPU, float32: our NumPy reference against torch, ResNet-50, batch 1\n")
        print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}; NumPy {np.__version__}, {blas}\n")
        print(f"{'layer':<48}{'torch ms':>10}{'NumPy ms':>10}{'ratio':>8}")
        for name, theirs, ours in [*rows, total]:
            print(f"{name:<48}{1e3 * theirs:>10.2f}{1e3 * ours:>10.2f}{ours / theirs:>8.2f}")


@pytest.mark.parametrize("spec", resnet50_convolutions(), ids=str)
def test_resnet50_convolution(spec: Conv2dSpec, benchmark: Any, table: list) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, np.float32) for shape in (spec.input_shape, spec.weight_shape))
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    (top, _), (left, _) = spec.padding
    theirs: list[float] = []

    def reference() -> np.ndarray:
        return conv2d(x, w, None, spec.stride, spec.padding, dtype=np.float32)

    def peer() -> torch.Tensor:
        return F.conv2d(tx, tw, None, spec.stride, (top, left))

    def turn_of_the_peer() -> None:
        time.sleep(PAUSE if torch.get_num_threads() > 1 else 0)
        peer()
        start = time.perf_counter()
        peer()
        theirs.append(time.perf_counter() - start)
        reference()

    y = benchmark.pedantic(reference, setup=turn_of_the_peer, rounds=ROUNDS)
    np.testing.assert_allclose(y, peer().numpy(), rtol=1e-3, atol=1e-3)
    ours = benchmark.stats.stats.median
    benchmark.extra_info.update(
        torch_median=median(theirs), ratio=ours / median(theirs), gflops=spec.flops / ours / 1e9
    )
    table.append((str(spec), median(theirs), ours))
