"""A first convolution with its pooling as one kernel: held to the chain of both, in other orders of threads, and with faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from block_cases import hold_both, hold_reversed, meta, run
from kernel_cases import guarded, hold
from planting import copied_kernels, plant
from rotation import share
from torch import nn

import convatlas
from convatlas.codegen.block_calls import stem_pool
from convatlas.errors import ShapeError
from convatlas.kernels.backend import launches, room
from convatlas.kernels.common.target import TARGETS
from convatlas.ops.block import block
from convatlas.study.layer import Layer
from convatlas.verify.single import operands

# Networks' forms on sizes that tiles do not divide: ResNet's, SqueezeNet's with a last window that reaches out of the map, and one
# whose negative numbers show a wrong padding.
KINDS = {
    "7x7": lambda dtype: stem_pool((2, 3, 63, 45), 64, dtype=dtype),
    "3x3-ceil": lambda dtype: stem_pool((1, 3, 33, 61), 96, 3, 0, 0, True, "relu6", dtype),
    "no-activation": lambda dtype: stem_pool((1, 4, 40, 35), 40, 7, 3, 1, True, None, dtype),
}
CELLS = [(kind, dtype) for kind, dtype in zip(KINDS, ("float16", "bfloat16", "float16"))]


@pytest.mark.parametrize(("kind", "dtype"), CELLS)
def test_held_to_its_parts(kind: str, dtype: str, poisoned: None) -> None:
    call = KINDS[kind](dtype)
    assert room("stem_pool", "takes")(call.spec, dtype)
    hold_both(call)


def test_blocks_that_walk_over_tiles(poisoned: None) -> None:
    """There are 289 tiles, more than an H100 holds at once; the image is contiguous."""
    call = stem_pool((1, 1, 475, 470), 8, 3, 1)
    (launch,) = launches(replace(call, backend="cuda"), *meta(call), TARGETS["sm_90"])
    assert launch.arguments["tiles"] == 289 > launch.grid[0]
    given = operands(Layer("", call), torch.float16, torch.device("cpu"), 0)
    hold(lambda: block(call.spec, {**given, "input": given["input"].contiguous()}, backend="cuda"))


def test_outside_of_the_output_nothing_is_written() -> None:
    call = KINDS["7x7"]("float16")
    out, unchanged = guarded(call.spec.output_shape, torch.float16, "cpu", "nhwc")
    hold(lambda: run(call, out=out))
    unchanged()


def test_the_order_of_threads_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    hold_reversed(KINDS["3x3-ceil"]("float16"), monkeypatch)


FAULTS = {
    "the pooling's padding": ("conv2d/stem.cuh", ": lowest<T>();", ": 0u;"),
    "the window's last row": ("stem_pool/stem_pool.cu", "from + (k / 3 * TILE_W", "from + (k / 3 % 2 * TILE_W"),
    "a tile's last column": ("stem_pool/stem_pool.cu", "+ k % 3) * PITCH", "+ min(k % 3, 13 - 2 * s)) * PITCH"),
    "the halo of the image": ("stem_pool/stem_pool.cu", "in = i < pixels", "in = i < pixels - 3 * int(p.patch_w)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", share(list(FAULTS), 2))
def test_a_planted_fault_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, right, wrong = FAULTS[fault]
    with copied_kernels(tmp_path, monkeypatch, "conv2d", "stem_pool") as root:
        plant(root / name, right, wrong)
        with pytest.raises(AssertionError, match="stem_pool"):
            hold(lambda: run(KINDS["no-activation"]("float16")))


def test_what_no_kernel_takes() -> None:
    takes = room("stem_pool", "takes")
    spec = KINDS["7x7"]("float16").spec
    assert takes(spec, "float16") and not takes(spec, "bfloat16") and not takes(spec, "float32")
    assert not takes(stem_pool((1, 3, 63, 63), 64, 11, 5).spec, "float16")  # a patch of more pixels than threads hold
    assert not takes(stem_pool((1, 3, 63, 63), 60).spec, "float16")  # no whole vectors
    conv, pool = spec.parts
    other = replace(pool, spec=replace(pool.spec, stride=(1, 1)))
    assert not takes(replace(spec, parts=(conv, other)), "float16")
    with pytest.raises(ShapeError, match="stem_pool"):
        launches(replace(call := stem_pool((1, 3, 40000, 40000), 64), backend="cuda"), *meta(call), TARGETS["sm_90"])


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_two_blocks_fit_an_sm_and_few_tiles_share_filters_out(target: str) -> None:
    widths = []
    for N in (1, 32):
        call = replace(stem_pool((N, 3, 224, 224), 64), backend="cuda")
        (launch,) = launches(call, *meta(call), TARGETS[target])
        assert 2 * (launch.shared + 1024) <= TARGETS[target].shared + 1024
        widths.append(launch.template[2])
    assert widths == (["64", "64"] if target == "sm_80" else ["32", "64"])


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_a_plan_finds_it(ceil_mode: bool) -> None:
    """With the relu in front of the pooling or behind, as the networks have it."""
    layers = nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=ceil_mode)
    net = nn.Sequential(*(layers if ceil_mode else (layers[0], layers[2], layers[1]))).half().eval()
    x = torch.randn(1, 3, 24, 31).half()
    plan = convatlas.compile(net, x, backend="numpy", fuse={"stem_pool"})
    (found,) = plan.layers
    assert [part.op for part in found.parts] == ["conv2d", "max_pool2d"]
    with convatlas.checking() as report:
        plan(x)
    assert report.ok and len(report) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "dtype"), CELLS)
def test_held_to_its_parts_on_a_gpu(kind: str, dtype: str, poisoned: None) -> None:
    for call in (KINDS[kind](dtype), stem_pool((9, 3, 224, 224), 64, dtype=dtype)):
        hold_both(call, "cuda")
