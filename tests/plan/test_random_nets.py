"""Random small networks: a plan computes what its module computes, and reads no memory of its arena that nobody has written."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.plan.program import Program


class Random(nn.Module):
    """Steps drawn at random: each reads values computed before, so that some have many readers and some branches end unread."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.parts = nn.ModuleList()
        self.steps: list[tuple[str, list[int], int]] = []
        self.size = draw.choice((5, 7, 9))
        shapes = [(3, self.size)]
        for _ in range(draw.randint(6, 14)):
            self._step(draw, shapes)
        self.head = nn.Linear(sum(c for c, _ in shapes[-3:]), 4)

    def _step(self, draw: random.Random, shapes: list[tuple[int, int]]) -> None:
        at = draw.choice([len(shapes) - 1] * 2 + list(range(len(shapes))))
        c, size = shapes[at]
        same = [i for i, shape in enumerate(shapes) if shape == (c, size)]
        wide = [i for i, shape in enumerate(shapes) if shape[1] == size]
        kind = draw.choice(
            ("conv", "conv", "conv", "norm", "relu", "relu6", "pool", "add", "block", "cat", "cat", "erf")
        )
        reads, part = [at], -1
        if kind == "conv":
            k = draw.choice((4, 6, 8))
            groups = 2 if c % 2 == 0 and draw.random() < 0.3 else 1
            window = draw.choice((1, 3))
            part, c = (
                self._add(nn.Conv2d(c, k, window, padding=window // 2, groups=groups, bias=draw.random() < 0.5)),
                k,
            )
        elif kind == "block":
            part = self._add(nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)))
        elif kind == "norm":
            norm = nn.BatchNorm2d(c)
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
            part = self._add(norm)
        elif kind == "pool":
            stride = 2 if size > 4 and draw.random() < 0.3 else 1
            part, size = self._add(nn.MaxPool2d(3, stride, 1)), (size - 1) // stride + 1
        elif kind == "add":
            reads = [at, draw.choice(same)]
        elif kind == "cat":
            reads = [draw.choice(wide) for _ in range(draw.randint(1, 3))]
            c = sum(shapes[i][0] for i in reads)
            if c > 40:
                return
        self.steps.append((kind, reads, part))
        shapes.append((c, size))

    def _add(self, part: nn.Module) -> int:
        self.parts.append(part)
        return len(self.parts) - 1

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for kind, reads, part in self.steps:
            given = [values[i] for i in reads]
            if kind == "block":
                y = torch.relu(given[0] + self.parts[part](given[0]))
            elif part >= 0:
                y = self.parts[part](given[0])
            elif kind == "cat":
                y = torch.cat(given, 1)
            elif kind == "add":
                y = given[0] + given[1]
            else:
                y = {"relu": torch.relu, "relu6": nn.functional.relu6, "erf": torch.erf}[kind](given[0])
            values.append(y)
        return self.head(torch.cat([v.mean((2, 3)) for v in values[-3:]], 1))


def poisoned(program: Program, inputs: list[Tensor]) -> Tensor:
    """The program's result, where NaN fills the arena before every step but for the buffers that live then."""
    program.memory.fill_(0xFF)
    for own, x in zip(program.inputs, inputs):
        own.copy_(x)
    for i, ready in enumerate(program.steps):
        live = torch.zeros(program.arena.bytes, dtype=torch.bool)
        for buffer in program.arena.buffers.values():
            if buffer.first <= i <= buffer.last:
                piece = live[buffer.offset : buffer.offset + buffer.bytes]
                assert not piece.any(), "two buffers that live at once overlap"
                piece.fill_(True)
                if buffer.first == i:
                    program.memory[buffer.offset : buffer.offset + buffer.bytes] = 0xFF
        program.memory[~live] = 0xFF  # NaN in every floating-point format
        ready.run()
    return program.given_out[0]()


def left_over(program: Program) -> list[str]:
    """Norms, activations and additions with launches of their own that the step before them could have taken."""
    graph = program.graph
    users, by_output = graph.users, {step.output: step for step in graph.steps}
    found = []
    for step in graph.steps:
        if step.op not in ("batch_norm", "relu", "relu6", "residual_add"):
            continue
        for name in step.inputs:
            before = by_output.get(name)
            epilogue = before.call.epilogue if before is not None and before.call else None
            if epilogue is None or epilogue.activation or users[name] > 1:
                continue
            convolves = before.op == "conv2d" and not epilogue.residual
            if convolves or step.op in ("relu", "relu6"):
                found.append(f"{before.op} before {step.op}")
    return found


@pytest.mark.parametrize("seed", range(16))
def test_a_plan_of_a_random_network_computes_what_the_network_does(seed: int) -> None:
    module = Random(seed).eval()
    x = torch.randn(2, 3, module.size, module.size, generator=torch.Generator().manual_seed(seed))
    backend = "triton" if seed % 4 == 0 and not torch.cuda.is_available() else "numpy"
    plan = convatlas.compile(module, x, backend=backend)
    with torch.no_grad():
        expected = module(x)
    found = plan(x)
    assert not left_over(plan.program())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(poisoned(plan.program(), [x]), found, rtol=0, atol=0)


def test_random_networks_meet_what_they_are_drawn_for() -> None:
    """Epilogues with residuals, slices, and nothing that an epilogue could have taken."""
    layers = []
    for seed in range(8):
        module = Random(seed).eval()
        layers += convatlas.compile(module, torch.empty(1, 3, module.size, module.size), backend="numpy").layers
    assert any(layer.call.epilogue.residual for layer in layers if layer.op == "conv2d")
    assert any("[" in layer.writes for layer in layers) and any(layer.op == "erf" for layer in layers)
