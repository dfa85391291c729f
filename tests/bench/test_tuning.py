"""The tuning stage: overrides reach the kernels, candidates compute the same, and the regret is the model's time over the best."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from convatlas.bench import tuning
from convatlas.bench.precompile import Job, in_time, run_once
from convatlas.bench.timing import FakeTimer
from convatlas.call import Call
from convatlas.codegen.resources import Task
from convatlas.errors import CheckError
from convatlas.kernels.common.override import forced, override
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.common.tiles import TileConfig, tile_config
from convatlas.kernels.common.work import works
from convatlas.kernels.conv2d.configs_tma import TmaConfig
from convatlas.ops import backend_cudnn
from convatlas.specs import Conv2dSpec, Epilogue
from convatlas.study.tracing import Layer
from convatlas.verify.single import operands

CPU = torch.device("cpu")
H100 = TARGETS["sm_90"]
TILE, BOX = TileConfig(64, 32, 32), TmaConfig(1, 8, 8, 64, 32)
POINTWISE = Layer("", Call("conv2d", Conv2dSpec.of((1, 32, 6, 6), (48, 32, 1, 1)), Epilogue(bias=True)))
# 72 channels are no whole steps for the TMA kernel, so the GEMM takes them.
WIDE = Layer("", Call("conv2d", Conv2dSpec.of((32, 72, 14, 14), (128, 72, 1, 1)), Epilogue(bias=True)))
WINDOW = Layer("", Call("conv2d", Conv2dSpec.of((32, 128, 28, 28), (128, 128, 3, 3), padding=1), Epilogue(bias=True)))


def inputs(layer: Layer) -> dict[str, torch.Tensor]:
    return operands(layer, torch.float16, CPU, 0)


def test_an_override_holds_inside_its_block_for_its_own_kind() -> None:
    assert forced(TileConfig) is None
    with override(TILE):
        assert forced(TileConfig) is TILE and forced(TmaConfig) is None
        assert tile_config(4096, 256, 256, "float16", False, H100) is TILE
        with override(BOX):
            assert forced(TileConfig) is None and forced(TmaConfig) is BOX
        assert forced(TileConfig) is TILE
    assert tile_config(4096, 256, 256, "float16", False, H100) != TILE


@pytest.mark.parametrize("layer, kind", [(WIDE, TileConfig), (WINDOW, TmaConfig)], ids=["tiles", "boxes"])
def test_every_candidate_is_taken_and_the_models_choice_is_one(layer: Layer, kind: type) -> None:
    """Each changes the launch in a way of its own, and the launch that the model chose is among them."""
    task = Task(replace(layer.call, dtype="float16", backend="meta"), "float16", H100, "triton")
    found = tuning.candidates(layer, H100)
    launched = [works(task.call, replace(task, config=config).launches, "float16") for config in found]
    assert len(found) == len({tuple(one) for one in launched}) >= 4 and all(
        isinstance(config, kind) for config in found
    )
    assert works(task.call, task.launches, "float16") in launched


def test_layers_with_most_work_come_first() -> None:
    layers = tuning.representative(("squeezenet1_1",), 1)
    assert layers and all(layer.op == "conv2d" and layer.spec.groups == 1 for layer in layers)
    assert layers[0].spec.flops >= layers[-1].spec.flops


class Known(FakeTimer):
    """A clock that knows what each override takes; the model takes 4 microseconds."""

    def prepare(self, run, sets, form):
        seen = []
        run({**sets[0], "seen": seen})
        seconds = seen[0]
        return lambda: seconds


def tuned(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[TileConfig, float], wrong: TileConfig | None = None, factor: int = 1
) -> dict:
    """An entry of `tune`, on kernels that are replaced by one that looks at the override alone."""
    right = backend_cudnn.run(replace(POINTWISE.call, backend="cudnn", dtype="float16"), inputs(POINTWISE), None)

    def run(tensors):
        config = forced(TileConfig)
        if "seen" in tensors:
            tensors["seen"].append(seconds.get(config, 4e-6))
        if config is not None and config.BK == 1:
            raise ValueError("no such tile")
        return factor * right * (2 if config is not None and config == wrong else 1)

    monkeypatch.setattr(tuning, "by_backend", lambda layer, backend: run)
    return tuning.tune(POINTWISE, list(seconds), Known(1.0), CPU, samples=1)


def test_regret_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {replace(TILE, num_stages=n): n * 1e-6 for n in (2, 3, 5, 6, 7, 8)}
    entry = tuned(monkeypatch, seconds)
    assert entry["regret"] == pytest.approx(2.0) and entry["best"] == tuning.name(replace(TILE, num_stages=2))
    assert entry["model_seconds"] == pytest.approx(4e-6) and entry["candidates"] == 6
    assert list(entry["finalists"].values()) == pytest.approx([4e-6, 2e-6, 3e-6, 5e-6])


def test_a_model_that_is_never_beaten_regrets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = tuned(monkeypatch, {TILE: 5e-6})
    assert entry["regret"] == 1.0 and entry["best"] == "triton"


def test_candidates_that_are_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """One computes something else, one raises: neither of them is timed, and both are named."""
    wrong, broken = replace(TILE, BM=128), replace(TILE, BK=1)
    entry = tuned(monkeypatch, {wrong: 1e-6, broken: 1e-6, TILE: 3e-6}, wrong)
    assert entry["best"] == tuning.name(TILE) and set(entry["finalists"]) == {"triton", tuning.name(TILE)}
    assert (
        list(entry["wrong"]) == [tuning.name(wrong)]
        and "relative error 1, expected" in entry["wrong"][tuning.name(wrong)]
    )
    assert entry["failed"] == {tuning.name(broken): "ValueError: no such tile"}


def test_a_model_whose_choice_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match="conv2d 1x32x6x6 -> 48x6x6, 1x1: relative error"):
        tuned(monkeypatch, {}, None, 2)


@pytest.mark.interpreter
def test_a_job_compiles_or_says_what_is_wrong() -> None:
    assert run_once(Job(POINTWISE, "float16", "cpu", TILE)) == ""
    assert "power of 2" in run_once(Job(POINTWISE, "float16", "cpu", replace(TILE, BK=24)))


def slow(job: float) -> float:
    time.sleep(job)
    return job


def test_compiling_by_many_processes() -> None:
    assert in_time(slow, [0.02, 0.01], 2, 120.0) in ([0.02, 0.01], [0.01, 0.02])


def test_compiling_ends_in_time() -> None:
    start = time.monotonic()
    assert in_time(slow, [60.0], 1, 0.2) == []
    assert time.monotonic() - start < 30
