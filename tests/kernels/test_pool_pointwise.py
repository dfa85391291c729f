"""3x3 max pooling with the 1x1 convolution behind it as one kernel: held to the chain of both, and with faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from block_cases import hold_both, hold_reversed, meta, run
from kernel_cases import guarded, hold
from planting import copied_kernels, plant
from rotation import share
from torch import Tensor, nn

import convatlas
from convatlas.codegen.block_calls import pool_pointwise
from convatlas.errors import ShapeError
from convatlas.kernels.backend import launches, room
from convatlas.kernels.common.target import TARGETS
from convatlas.ops.block import block
from convatlas.specs import Conv2dSpec
from convatlas.study.layer import Layer
from convatlas.verify.single import operands

# Maps whose last tiles reach over both edges; channels and filters that end within a step and within a block's 64.
KINDS = {
    "no-activation": lambda dtype: pool_pointwise((2, 200, 11, 19), 96, None, dtype),
    "one-step": lambda dtype: pool_pointwise((3, 64, 7, 7), 32, "relu", dtype),
    "many-steps": lambda dtype: pool_pointwise((1, 528, 5, 14), 128, "relu6", dtype),
}
CELLS = [(kind, dtype) for kind, dtype in zip(KINDS, ("float16", "bfloat16", "bfloat16"))]


@pytest.mark.parametrize(("kind", "dtype"), CELLS)
def test_held_to_its_parts(kind: str, dtype: str, poisoned: None) -> None:
    call = KINDS[kind](dtype)
    assert room("pool_pointwise", "takes")(call.spec, dtype)
    hold_both(call)


def test_outside_of_the_output_nothing_is_written() -> None:
    call = KINDS["no-activation"]("float16")
    out, unchanged = guarded(call.spec.output_shape, torch.float16, "cpu", "nhwc")
    hold(lambda: run(call, out=out))
    unchanged()
    whole = torch.full((2, 11, 19, 112), 777.0, dtype=torch.float16)  # a slice of a concatenation
    hold(lambda: run(call, out=whole[..., 8:-8].permute(0, 3, 1, 2)))
    whole[..., 8:-8].fill_(777.0)
    assert (whole == 777.0).all()


def test_operands_in_other_orders() -> None:
    call = KINDS["one-step"]("float16")
    given = operands(Layer("", call), torch.float16, torch.device("cpu"), 0)
    hold(lambda: block(call.spec, {name: x.contiguous() for name, x in given.items()}, backend="cuda"))
    assert run(pool_pointwise((0, 64, 7, 7), 32)).shape == (0, 32, 7, 7)


def test_the_order_of_threads_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    hold_reversed(KINDS["no-activation"]("float16"), monkeypatch)


FAULTS = {
    "the pooling's padding": ("= {low, low, low, low}", "= {0, 0, 0, 0}"),
    "a tap at a tile's right edge": ("min(s + lane % 16, PIXELS - 1)", "min(s + lane % 16, PIXELS - 2)"),
    "the window's last row": ("row >= i && row <= i + 2", "row >= i && row <= i + 1"),
    "the halo's last row": ("if (inside >> i & 1) copy", "if (inside >> i & 1 && own.row + 2 * i < 5) copy"),
    "a quarter of the channels": ("for (int k = 0; k < QUARTERS; ++k)", "for (int k = 0; k < QUARTERS - 1; ++k)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", share(list(FAULTS), 2))
def test_a_planted_fault_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = FAULTS[fault]
    with copied_kernels(tmp_path, monkeypatch, "bottleneck", "pool_pointwise") as root:
        plant(root / "pool_pointwise" / "pool_pointwise.cu", right, wrong)
        with pytest.raises(AssertionError, match="pool_pointwise"):
            hold(lambda: run(KINDS["no-activation"]("float16")))


def test_what_no_kernel_takes() -> None:
    takes = room("pool_pointwise", "takes")
    spec = KINDS["one-step"]("float16").spec
    assert takes(spec, "float16") and not takes(spec, "bfloat16") and not takes(spec, "float32")
    assert not takes(pool_pointwise((1, 64, 7, 7), 36).spec, "float16")  # no whole vectors
    assert not takes(pool_pointwise((1, 64, 7, 7), 32, "silu").spec, "float16")
    pool, conv = spec.parts
    strided = replace(conv, spec=Conv2dSpec.of(pool.spec.output_shape, (32, 64, 1, 1), 2))
    assert not takes(replace(spec, parts=(pool, strided)), "float16")
    call = replace(pool_pointwise((1, 512, 3000, 3000), 32), backend="cuda")
    with pytest.raises(ShapeError, match="pool_pointwise"):
        launches(call, *meta(call), TARGETS["sm_90"])


class Inception(nn.Module):
    """The branch that pools, beside another that reads the same map, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.pool, self.project = nn.Conv2d(16, 8, 1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.project(self.pool(x)).relu()], 1)


def test_a_plan_finds_it_and_writes_into_the_concatenation() -> None:
    x = torch.randn(2, 16, 9, 11).half()
    plan = convatlas.compile(Inception().half().eval(), x, backend="cuda", fuse={"pool_pointwise"})
    assert [layer.op for layer in plan.layers] == ["conv2d", "block"]
    assert "[8:32]" in plan.layers[1].writes and plan.layers[1].path == "pool"
    with convatlas.checking() as report:
        plan(x)
    assert report.ok and len(report) == 2


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "dtype"), CELLS)
def test_held_to_its_parts_on_a_gpu(kind: str, dtype: str, poisoned: None) -> None:
    for call in (KINDS[kind](dtype), pool_pointwise((32, 480, 14, 14), 64, dtype=dtype)):
        hold_both(call, "cuda")
