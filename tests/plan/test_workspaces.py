"""Workspaces of split reductions lie in a plan's arena, and a run allocates its output and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counting_driver import Counting
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import convatlas
from convatlas.codegen.stub import stubbed
from convatlas.kernels.common.launch import leaves
from convatlas.plan.memory import workspace_of
from convatlas.plan.plan import Plan

X = torch.zeros(1, 3, 64, 64).half()


class Allocations(TorchDispatchMode):
    """Ops whose result is memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in args if isinstance(x, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage()._cdata not in given:
            self.names.append(function._schema.name)
        return result


@pytest.fixture
def module() -> nn.Module:
    """On an H100 the 3x3 convolutions of 512 channels split their reductions, by either backend."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(8), nn.Conv2d(64, 512, 1)]
    layers += [nn.Conv2d(512, 512, 3, padding=1), nn.Conv2d(512, 256, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().half()


def workspaces(plan: Plan) -> list[tuple[int, Tensor]]:
    """(step, tensor) of every tensor of a launch that is no operand and no result."""
    found = []
    for i, ready in enumerate(plan.program().steps):
        known = {x.data_ptr() for x in (*ready.tensors.values(), ready.out)}
        values = (v for launch in ready.launches for value in launch.arguments.values() for v in leaves(value))
        tensors = [getattr(v, "base", v) for v in values]
        found += [(i, x) for x in tensors if isinstance(x, Tensor) and x.data_ptr() not in known]
    return found


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_workspaces_have_their_place_in_the_arena(module: nn.Module, backend: str) -> None:
    with stubbed(), torch.no_grad():
        plan = convatlas.compile(module, X, backend=backend)
        program, found = plan.program(), workspaces(plan)
        buffers, start = program.arena.buffers, program.memory.data_ptr()
        steps = {i for i, _ in found}
        assert len(steps) >= 2 and "activations and workspaces: " in plan.report()
        for i, x in found:
            own = buffers[workspace_of(i)]
            low = x.data_ptr() - start
            assert own.offset <= low and low + x.numel() * x.element_size() <= own.offset + own.bytes
            assert x.untyped_storage()._cdata == program.memory.untyped_storage()._cdata
            for other in buffers.values():
                alive = other.first <= i <= other.last and other is not own
                assert not alive or other.offset + other.bytes <= own.offset or own.offset + own.bytes <= other.offset
        assert program.arena.workspaces == max(buffers[workspace_of(i)].bytes for i in steps)
        before = program.memory.data_ptr()
        plan.refresh()
        assert program.memory.data_ptr() == before and [i for i, _ in workspaces(plan)] == [i for i, _ in found]


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_a_run_allocates_its_output_and_nothing_else(module: nn.Module, backend: str) -> None:
    with stubbed(driver := Counting()), torch.no_grad():
        plan = convatlas.compile(module, X, backend=backend)
        plan(X), plan(X)
        count = driver.count
        with Allocations() as seen:
            plan(X)
        assert seen.names == ["aten::clone"]
        assert driver.count - count == sum(len(ready.launches) for ready in plan.program().steps) > 6
