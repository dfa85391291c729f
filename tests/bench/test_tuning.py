"""The tuning stage: overrides reach the kernels, candidates compute the same, and the regret is the model's time over the best."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import pytest
import torch

from convatlas.bench.precompile import Job, in_time, run_once
from convatlas.bench.suite import tuning
from convatlas.bench.timing import FakeTimer
from convatlas.call import Call
from convatlas.kernels.common.override import forced, override
from convatlas.kernels.common.target import TARGETS
from convatlas.kernels.common.tiles import TileConfig, tile_config
from convatlas.kernels.conv2d.configs_tma import TmaConfig
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
    x = inputs(layer)
    launch = tuning.first_launch(layer, "float16", x, H100)
    assert tuning.kind_of(launch) is kind
    found = tuning.candidates(layer, launch, H100)
    assert len(found) == len(set(found)) >= 4 and all(isinstance(config, kind) for config in found)
    assert all(tuning.taken(layer, "float16", x, H100, config) for config in found)
    model = tuning.described(launch, kind)
    assert any({**asdict(config), "num_stages": 0} == {**model, "num_stages": 0} for config in found)


def test_an_override_of_the_other_kind_is_not_taken() -> None:
    assert not tuning.taken(POINTWISE, "float16", inputs(POINTWISE), H100, BOX)
    assert not tuning.taken(WINDOW, "float16", inputs(WINDOW), H100, TILE)


def test_layers_with_most_work_come_first() -> None:
    layers = tuning.representative(("squeezenet1_1",), 1)
    assert layers and all(tuning.dense(layer) for layer in layers)
    assert layers[0].spec.flops >= layers[-1].spec.flops


class Known(FakeTimer):
    """A clock that knows what each override takes; the model takes 4 microseconds."""

    def prepare(self, run, sets, form):
        seen = []
        run({**sets[0], "seen": seen})
        seconds = seen[0]
        return lambda: seconds


def tuned(monkeypatch: pytest.MonkeyPatch, seconds: dict[TileConfig, float], wrong: TileConfig | None = None) -> dict:
    """An entry of `tune`, on kernels that are replaced by one that looks at the override alone."""

    def run(tensors):
        config = forced(TileConfig)
        if "seen" in tensors:
            tensors["seen"].append(seconds.get(config, 4e-6))
        if config is not None and config.BK == 1:
            raise ValueError("no such tile")
        return tensors["input"] * (2 if config is not None and config == wrong else 1)

    monkeypatch.setattr(tuning, "contestants", lambda layer, ours: [tuning.Contestant("triton", run)])
    return tuning.tune(POINTWISE, "float16", list(seconds), Known(1.0), CPU, H100, samples=1)


def test_regret_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {replace(TILE, num_stages=n): n * 1e-6 for n in (2, 3, 5, 6, 7, 8)}
    entry = tuned(monkeypatch, seconds)
    assert entry["regret"] == pytest.approx(2.0) and entry["best"] == tuning.name(replace(TILE, num_stages=2))
    assert entry["model_seconds"] == pytest.approx(4e-6) and entry["candidates"] == 6
    assert list(entry["finalists"].values()) == pytest.approx([4e-6, 2e-6, 3e-6, 5e-6])


def test_a_model_that_is_never_beaten_regrets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = tuned(monkeypatch, {TILE: 5e-6})
    assert entry["regret"] == 1.0 and entry["best"] == "model"


def test_candidates_that_are_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """One computes something else, one raises, one is not taken: none of them is timed, and all are named."""
    wrong, broken = replace(TILE, BM=128), replace(TILE, BK=1)
    entry = tuned(monkeypatch, {wrong: 1e-6, broken: 1e-6, BOX: 1e-6, TILE: 3e-6}, wrong)
    assert entry["best"] == tuning.name(TILE) and set(entry["finalists"]) == {"model", tuning.name(TILE)}
    assert entry["wrong"] == [f"{tuning.name(wrong)}: relative error 1"]
    assert entry["failed"] == [f"{tuning.name(broken)}: ValueError", f"{tuning.name(BOX)}: the launch did not take it"]


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
