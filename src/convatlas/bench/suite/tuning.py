"""Whether the tile model chooses well: every candidate config of a layer timed against the one that it chose.

    regret = seconds of the model's choice / seconds of the best candidate

1 is a perfect choice. The candidates race in one process, by turns, cold, in CUDA graphs, after their outputs were compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from convatlas.bench.contestants import contestants
from convatlas.bench.layers import distinct
from convatlas.bench.timing import Contestant, Measurement, Protocol, Run, Tensors, Timer, race, sets_for
from convatlas.engine.single import operands
from convatlas.kernels.backend import LAUNCHERS
from convatlas.kernels.gemm.configs import TileConfig
from convatlas.kernels.gemm.override import override
from convatlas.kernels.launch import cdiv, power_of_two
from convatlas.kernels.target import Target
from convatlas.ops.layout import allocate
from convatlas.ops.observe import Call
from convatlas.study.tracing import Layer

MODEL = "model"
# Against the model's own output: a config that multiplies something else is far outside, one that sums in another order far inside.
TOLERANCE = 0.01
FINALISTS = 4
SIZES = ("BM", "BN", "BK", "SPLIT")
NETS, BATCH = ("resnet50", "vgg16", "googlenet"), 32


def dense(layer: Layer) -> bool:
    """Whether the layer runs on a kernel that takes a TileConfig and whose candidates are listed here: pointwise and gather."""
    return layer.op == "conv2d" and layer.spec.groups == 1 and layer.spec.C >= 16


def representative(nets: Sequence[str] = NETS, batch: int = BATCH) -> list[Layer]:
    """The dense layers of the nets, those with most FLOPs in all their places first."""
    found = [timed for timed in distinct(nets, batch) if dense(timed.layer)]
    return [t.layer for t in sorted(found, key=lambda t: -t.layer.spec.flops * sum(t.places.values()))]


def chosen(layer: Layer, dtype: str, tensors: Tensors, target: Target) -> dict[str, int]:
    """The model's choice, read off the launch that it leads to; nothing is launched."""
    call = Call(layer.op, layer.spec, layer.epilogue, layer.params, "triton", dtype)
    out = allocate(layer.spec.output_shape, tensors["input"])
    launch = LAUNCHERS[layer.op](call, dict(tensors), out, target)[0]
    sizes = {name: launch.constants[name] for name in SIZES if name in launch.constants}
    return {"kernel": launch.kernel.__name__, **sizes, "num_warps": launch.num_warps, "num_stages": launch.num_stages}


def candidates(layer: Layer, target: Target, size: int = 2) -> Iterator[TileConfig]:
    """Tiles x steps x depths x splits that fit shared memory and the registers, within what the kernels may be given.

    4 warps for filters larger than 1x1 (docs/design.md, "Few warps where loops are flattened"); a split divides the steps.
    """
    spec = layer.spec
    taps, M = spec.R * spec.S, spec.N * spec.P * spec.Q
    for BM in (64, 128):
        for BN in (32, 64, 128, 256):
            if BN > power_of_two(max(spec.K, 16)):
                continue
            warps = 8 if BM * BN >= 128 * 128 and taps == 1 else 4
            if BM * BN > 128 * 32 * warps:
                continue
            for BK in (64,) if spec.C % 64 == 0 else (32, 64):
                steps, blocks = taps * cdiv(spec.C, BK), cdiv(M, BM) * cdiv(spec.K, BN)
                for depth in (3, 4):
                    if (BM + BN) * BK * size * depth > target.shared:
                        continue
                    for split in (1, 2, 4):
                        if split == 1 or (steps % split == 0 and blocks * split <= 2 * target.sms):
                            yield TileConfig(BM, BN, BK, split, warps, depth)


def _with(config: TileConfig, run: Run) -> Run:
    def forced(tensors: Tensors) -> object:
        with override(config):
            return run(tensors)

    return forced


def tune(
    layer: Layer, dtype: str, configs: Sequence[TileConfig], timer: Timer, device: torch.device, target: Target,
    samples: int = 5,
) -> dict[str, Any]:  # fmt: skip
    """One layer's entry: the model's config and the best one, their seconds, the regret, and how many candidates ran, failed or
    gave something else.
    """
    kind = getattr(torch, dtype)
    bytes = layer.spec.bytes(dtype, layer.epilogue)
    count = sets_for(timer, "cold", bytes)
    sets = [operands(layer, kind, device, seed, device.type) for seed in range(count)]
    run = contestants(layer, ours=("triton",))[0].run
    expected = run(sets[0]).float()
    model = chosen(layer, dtype, sets[0], target)
    right, wrong, failed = [Contestant(MODEL, run)], [], []
    for config in configs:
        forced = _with(config, run)
        try:
            error = float((forced(sets[0]).float() - expected).norm() / expected.norm())
        except (
            Exception
        ) as problem:  # a config that does not compile or does not fit is out, like a contestant of a race
            failed.append(f"{name(config)}: {type(problem).__name__}")
            continue
        if error <= TOLERANCE:
            right.append(Contestant(name(config), forced))
        else:
            wrong.append(f"{name(config)}: relative error {error:.3g}")
    heats = _medians(race(right, sets, timer, Protocol("cold", "graph", samples)))
    # The least of many noisy medians is too small: the fastest few run again, and only that race is reported.
    finalists = {MODEL, *sorted(heats, key=lambda key: heats[key])[:FINALISTS]}
    final = [contestant for contestant in right if contestant.name in finalists]
    seconds = _medians(race(final, sets, timer, Protocol("cold", "graph", 3 * samples)))
    best = min(seconds, key=lambda key: seconds[key])
    return {
        "op": layer.op,
        "spec": str(layer.spec),
        "epilogue": str(layer.epilogue),
        "dtype": dtype,
        "model": model,
        "model_seconds": seconds[MODEL],
        "best": best,
        "best_seconds": seconds[best],
        "regret": seconds[MODEL] / seconds[best],
        "candidates": len(configs),
        "finalists": seconds,
        "wrong": wrong,
        "failed": failed,
    }


def _medians(found: dict[str, Measurement]) -> dict[str, float]:
    return {key: m.interval.median for key, m in found.items() if m.seconds}


def name(config: TileConfig) -> str:
    """BMxBNxBK, split, warps, stages."""
    return f"{config.BM}x{config.BN}x{config.BK} split{config.SPLIT} warps{config.num_warps} stages{config.num_stages}"
