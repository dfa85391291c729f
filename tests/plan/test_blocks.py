"""Blocks of layers as one step: found where they should be, computing what their parts compute, seen by every instrument."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas import nets
from convatlas.call import Call
from convatlas.codegen.block_calls import inverted_residual
from convatlas.errors import ArgumentError, ShapeError
from convatlas.kernels.common.proven import KERNELS
from convatlas.model.gpu import gpu
from convatlas.ops.block import block
from convatlas.plan import blocks
from convatlas.plan.plan import Plan
from convatlas.plan.siblings import seconds
from convatlas.reference import check, evaluate, round_to, truth
from convatlas.specs import INPUT, BlockSpec, Conv2dSpec, Epilogue, Part
from convatlas.study.tracing import plan_layers
from convatlas.verify.verify import verify


class Block(nn.Module):
    """1x1 up, depthwise, 1x1 down, and the input added where asked for; what is read twice ends in `also`."""

    def __init__(self, residual: bool = True, also: str = "") -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project, self.residual, self.also = nn.Conv2d(16, 8, 1), residual, also

    def forward(self, x: Tensor) -> Tensor:
        up = nn.functional.relu6(self.expand(x))
        maps = nn.functional.relu6(self.depthwise(up))
        y = self.project(maps)
        y = x + y if self.residual else y
        return y + self.project(up) if self.also == "expand" else y * maps.mean() if self.also == "depthwise" else y


def plan_of(module: nn.Module, fuse: object = "all", backend: str = "numpy") -> Plan:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 7).half()
    return convatlas.compile(module.half().eval(), x, backend=backend, fuse=fuse)


def names(plan: Plan) -> list[str]:
    return [layer.call.spec.pattern if layer.op == "block" else layer.op for layer in plan.layers]


@pytest.mark.parametrize("residual", [True, False])
def test_a_block_is_one_step_and_computes_what_its_parts_do(residual: bool) -> None:
    torch.manual_seed(1)
    module = Block(residual)
    plan = plan_of(module)
    assert names(plan) == ["inverted_residual"]
    layer = plan.layers[0]
    assert [part.name for part in layer.parts] == ["expand", "depthwise", "project"]
    assert layer.path == "expand" and {"depthwise", "project"} <= set(layer.merged)
    x = torch.randn(2, 8, 9, 7).half()
    with torch.no_grad(), convatlas.checking() as report:
        y = plan(x)
    assert report.ok and len(report) == 1
    apart = plan_of(module, "none")
    assert names(apart) == ["conv2d"] * 3
    torch.testing.assert_close(y.float(), apart(x).float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("also", "expected"), [("expand", "depthwise_separable"), ("depthwise", None)])
def test_a_map_that_others_read_stays_a_map(also: str, expected: str | None) -> None:
    found = names(plan_of(Block(also=also)))
    assert "inverted_residual" not in found
    assert (expected in found) == (expected is not None and not Block(also=also).residual)


def test_the_option_says_what_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Block(residual=False)
    assert names(plan_of(module, {"depthwise_separable"})) == ["conv2d", "depthwise_separable"]
    assert names(plan_of(module, "auto")) == ["conv2d"] * 3  # no GPU, so none that has proven a kernel
    monkeypatch.setattr(blocks, "seconds", lambda call, on, backend=None: 1.0 if call.op == "conv2d" else 2.9)
    assert names(plan_of(module, "predicted")) == ["inverted_residual"]
    monkeypatch.setattr(blocks, "seconds", lambda call, on, backend=None: 1.0 if call.op == "conv2d" else 3.1)
    assert names(plan_of(module, "predicted")) == ["conv2d"] * 3
    for wrong in ("some", {"depthwise"}, 3):
        with pytest.raises(ArgumentError, match="fuse"):
            plan_of(module, wrong)


def test_auto_asks_what_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = plan_of(Block(), "none").program().graph
    monkeypatch.setattr(blocks, "seconds", lambda call, on, backend=None: float(call.op == "conv2d"))
    on, row = gpu("h100-sxm"), blocks.PATTERNS["inverted_residual"]
    assert set(KERNELS) >= {f"cuda/{name}" for name in blocks.PATTERNS}

    def steps(held: set[str] | None, backend: str = "cuda") -> int:
        return len(blocks.blocks(replace(graph), on, held, backend).steps)

    assert steps({"cuda/inverted_residual", "cuda/depthwise_separable"}) == 3
    assert steps({"cuda/depthwise_separable"}) == 1
    assert steps(set(), "triton") == 3  # there is no kernel in Triton
    assert steps(None) == 3  # no GPU
    monkeypatch.setitem(blocks.PATTERNS, row.name, replace(row, slower=frozenset({90})))
    assert steps({"cuda/depthwise_separable"}) == 3
    assert steps(set()) == 3  # an H100 measured no gain of depthwise_separable either


@pytest.mark.parametrize(
    ("call", "wins"),
    [
        (inverted_residual((32, 16, 112, 112), 96, 24, stride=2), True),  # 40.1 us measured, apart 94.7
        (inverted_residual((32, 24, 56, 56), 144, 24, residual=True), True),  # 42.2, 82.8
        (inverted_residual((32, 24, 56, 56), 144, 32, stride=2), True),  # 20.7, 47.4
        (inverted_residual((32, 32, 28, 28), 192, 32, residual=True), True),  # 17.5, 22.1
        (inverted_residual((32, 64, 14, 14), 384, 64, residual=True), False),  # 19.8, 16.6
        (inverted_residual((32, 96, 14, 14), 576, 96, residual=True), False),  # 33.2, 21.2
        (inverted_residual((32, 160, 7, 7), 960, 160, residual=True), False),  # 77.3, 15.0
        (inverted_residual((1, 16, 112, 112), 96, 24, stride=2), True),  # 8.5, 9.4
        (inverted_residual((1, 24, 56, 56), 144, 24, residual=True), False),  # 12.5, 10.1
        (inverted_residual((1, 32, 28, 28), 192, 64, stride=2), False),  # 13.2, 7.8
    ],
    ids=str,
)
def test_the_model_takes_what_won_on_an_h100(call: Call, wins: bool) -> None:
    on = gpu("h100-sxm")
    apart = sum(seconds(Call(p.op, p.spec, p.epilogue, dtype="float16"), on) for p in call.spec.parts)
    assert (seconds(call, on) < apart) == wins


def test_mobilenets_are_blocks_and_verify_checks_each() -> None:
    net = nets.create("mobilenet_v2", seed=0).half()
    plan = convatlas.compile(net, torch.zeros(1, 3, 32, 32).half(), backend="numpy", fuse="all")
    found = names(plan)
    # Of the two whose expansion does not fit beside the sums of all filters, the second half is a block.
    assert found.count("inverted_residual") == 14 and found.count("depthwise_separable") == 3
    assert len(plan_layers(plan)) == len(found)
    result = verify("mobilenet_v1", size=32, dtype="float16", backend="numpy", plan=True, fuse="all")
    assert result.ok and {layer.layer.op for layer in result.layers} >= {"block"}


def test_a_saved_plan_keeps_its_blocks(tmp_path: Path) -> None:
    plan = plan_of(Block())
    x = torch.randn(2, 8, 9, 7).half()
    plan.save(tmp_path / "block.plan")
    loaded = convatlas.load_plan(tmp_path / "block.plan")
    assert loaded.layers[0].parts == plan.layers[0].parts
    assert torch.equal(loaded(x), plan(x))


def spec_of(window: int = 3, stride: int = 1, residual: bool = True, expand: bool = True, batch: int = 1) -> BlockSpec:
    C, E, size = (8, 16, 9) if expand else (16, 16, 9)
    maps, weight = (batch, E, size, size), (E, 1, window, window)
    depthwise = Conv2dSpec.of(maps, weight, stride, window // 2, 1, E)
    project = Conv2dSpec.of(depthwise.output_shape, (8, E, 1, 1))
    reads = (("input", "depthwise"), *([("residual", INPUT)] if residual else []))
    parts = [
        Part("depthwise", "conv2d", depthwise, Epilogue(True, "relu6"), (("input", "expand" if expand else INPUT),)),
        Part("project", "conv2d", project, Epilogue(True, None, residual), reads),
    ]
    if expand:
        spec = Conv2dSpec.of((batch, C, size, size), (E, C, 1, 1))
        parts.insert(0, Part("expand", "conv2d", spec, Epilogue(True, "relu6")))
    return BlockSpec.of("inverted_residual" if expand else "depthwise_separable", tuple(parts), "float16")


def drawn(spec: BlockSpec, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scale = {name: np.sqrt(2 / length) for name, length in spec.reductions.items()}
    return {n: round_to(rng.standard_normal(s) * scale.get(n, 1.0), spec.stored) for n, s in spec.inputs.items()}


def by_parts(spec: BlockSpec, arrays: dict[str, np.ndarray], fault: str = "") -> np.ndarray:
    """What a right kernel gives: every map rounded to the storage dtype; or one with a fault."""
    made: dict[str, np.ndarray] = {}
    for part in spec.parts:
        given = {k: made[s] if s in made else arrays[s].copy() for k, (s, _) in part.operands.items()}
        if part.name == "depthwise" and fault == "tap":  # one tap of the last column of an 8-wide tile
            given["input"] = given["input"].copy()
            given["input"][:, :, :, 8:] = 0
        if part.name == "depthwise" and fault == "row":  # the halo's last row is not there
            given["input"] = given["input"].copy()
            given["input"][:, :, -1] = 0
        if part.name == "project" and fault == "slice":
            given["weight"][:, 8:] = 0
        if part.name == "project" and fault == "residual":
            given["residual"] = np.zeros_like(given["residual"])
        made[part.name] = round_to(evaluate(part.op, part.spec, part.epilogue, given), spec.stored)
        if part.name == "expand" and fault == "outside":  # outside the image the bias's activation and not zero
            made[part.name][:, :, 0] += 0.5
    return made[spec.parts[-1].name]


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize("expand", [True, False])
def test_rounding_between_parts_is_within_the_bound_and_faults_are_not(stored: str, expand: bool) -> None:
    spec = replace(spec_of(expand=expand, residual=expand, batch=2), stored=stored)
    arrays = drawn(spec)
    expected = truth("block", spec, None, arrays)
    right = check(by_parts(spec, arrays), expected, dtype=stored)
    assert right.ok and 0.1 < right.worst and right.rms > 0.05, right
    for fault in ("tap", "row", "slice", *(("residual", "outside") if expand else ())):
        assert not check(by_parts(spec, arrays, fault), expected, dtype=stored).ok, fault


def test_a_block_refuses_what_does_not_fit() -> None:
    spec = spec_of()
    tensors = {name: torch.from_numpy(x).half() for name, x in drawn(spec).items()}
    with pytest.raises(ArgumentError, match=r"expand\.bias"):
        block(spec, {name: x for name, x in tensors.items() if name != "expand.bias"})
    with pytest.raises(ShapeError, match="input of shape"):
        block(spec, {**tensors, "input": tensors["input"][:, :, 1:]})
    with pytest.raises(ShapeError, match="earlier part"):
        BlockSpec.of("inverted_residual", spec.parts[1:], "float16")
    with pytest.raises(ShapeError, match="reads expand"):
        smaller = replace(spec.parts[1], spec=Conv2dSpec.of((1, 16, 8, 8), (16, 1, 3, 3), 1, 1, 1, 16))
        BlockSpec.of("inverted_residual", (spec.parts[0], smaller), "float16")


def test_a_block_counts_what_moves() -> None:
    spec = spec_of()
    inside = 2 * (16 * 81) * 2  # two maps, written and read
    assert spec.apart - sum(spec.elements.values()) == inside + 8 * 81  # and the residual, which is the input once more
    assert spec.flops == sum(part.spec.flops for part in spec.parts)
