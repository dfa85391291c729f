"""Whether the tile models choose well: candidate configs of a layer timed against the one that its model chose.

    regret = seconds of the model's choice / seconds of the best candidate

1 is a perfect choice. The candidates race in one process, by turns, cold, in CUDA graphs, after their outputs were compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from convatlas.bench.cases import distinct
from convatlas.bench.contestants import contestants, data_sets
from convatlas.bench.timing import Contestant, Protocol, Run, Tensors, Timer, medians, race
from convatlas.kernels.backend import launcher
from convatlas.kernels.common.launch import Launch, cdiv, power_of_two
from convatlas.kernels.common.override import override
from convatlas.kernels.common.problem import Problem
from convatlas.kernels.common.target import Target
from convatlas.kernels.common.tiles import TileConfig
from convatlas.kernels.conv2d.configs_tma import PERSISTENT, ROW_TILES, TILES, TmaConfig, box
from convatlas.layout import allocate
from convatlas.study.tracing import Layer

Config = TileConfig | TmaConfig
MODEL = "model"
# Against the model's own output: a config that multiplies something else is far outside, one that sums in another order far inside.
TOLERANCE = 0.01
FINALISTS = 4
NETS, BATCH = ("resnet50", "vgg16", "googlenet"), 32


def dense(layer: Layer) -> bool:
    """Whether the layer runs on a kernel whose candidates are listed here: pointwise, gather, TMA."""
    return layer.op == "conv2d" and layer.spec.groups == 1 and layer.spec.C >= 16


def representative(nets: Sequence[str] = NETS, batch: int = BATCH) -> list[Layer]:
    """The dense layers of the nets, those with most FLOPs in all their places first."""
    found = [timed for timed in distinct(nets, batch) if dense(timed.layer)]
    return [t.layer for t in sorted(found, key=lambda t: -t.layer.spec.flops * sum(t.places.values()))]


def first_launch(layer: Layer, dtype: str, tensors: Tensors, target: Target) -> Launch:
    """The layer's own kernel as a value; nothing is launched."""
    call = replace(layer.call, backend="triton", dtype=dtype)
    out = allocate(layer.spec.output_shape, tensors["input"])
    return launcher("triton", layer.op)(Problem.of(call, dict(tensors), out, target))[0]


def described(launch: Launch, kind: type[Config]) -> dict[str, int]:
    """The launch's sizes by the names of a config of `kind`."""
    known = {**launch.flat, "num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return {name: known[name] for name in kind.__dataclass_fields__ if name in known}


def kind_of(launch: Launch) -> type[Config]:
    """Which sort of config the launch was made from: boxes of pixels are TMA's."""
    return TmaConfig if "TN" in launch.flat else TileConfig


def candidates(layer: Layer, launch: Launch, target: Target, size: int = 2) -> list[Config]:
    """Tiles x depths x splits for the kernel that the model's launch runs on, which fit shared memory and the registers."""
    found = _boxes(launch, target, size) if kind_of(launch) is TmaConfig else _tiles(layer, target, size)
    return list(dict.fromkeys(found))


def _tiles(layer: Layer, target: Target, size: int) -> Iterator[TileConfig]:
    """4 warps for filters larger than 1x1 (docs/kernels.md, "Triton: gather and GEMM"); a split divides the steps."""
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
                    for split in _splits(steps, blocks, target):
                        yield TileConfig(BM, BN, BK, split, warps, depth)


def _boxes(launch: Launch, target: Target, size: int) -> Iterator[TmaConfig]:
    """Every tile of the TMA kernel, on the image as its launch sees it (one row where a 1x1 has been flattened), and the programs
    that take tile after tile.
    """
    N, P, Q, K = (launch.arguments[name] for name in "NPQK")
    flat = launch.flat
    BK, taps = flat["BK"], flat["R"] * flat["S"]
    steps = taps * (flat["C"] // BK)
    row = N == P == 1
    for BM, BN, warps in ROW_TILES if row else TILES:
        if BN > max(power_of_two(K), 64):
            continue
        TN, TH, TW = (1, 1, BM) if row else box(N, P, Q, BM)
        blocks = cdiv(N, TN) * cdiv(P, TH) * cdiv(Q, TW) * cdiv(K, BN)
        for depth in (2, 3, 4):
            if (BM + BN) * BK * size * depth + 1024 > target.shared:
                continue
            for split in _splits(steps, blocks, target):
                yield TmaConfig(TN, TH, TW, BN, BK, split, warps, depth)
    for BM, BN, warps, depth, resident in PERSISTENT:
        if BN <= max(power_of_two(K), 64):
            shape = (1, 1, BM) if row else box(N, P, Q, BM)
            yield TmaConfig(*shape, BN, BK, 1, warps, depth, resident)


def _splits(steps: int, blocks: int, target: Target) -> list[int]:
    return [s for s in (1, 2, 4) if s == 1 or (steps % s == 0 and blocks * s <= 2 * target.sms)]


def _with(config: Config, run: Run) -> Run:
    def forced(tensors: Tensors) -> object:
        with override(config):
            return run(tensors)

    return forced


def taken(layer: Layer, dtype: str, tensors: Tensors, target: Target, config: Config) -> bool:
    """Whether the layer's launch follows an override at all: where it does not, a sweep would time one config many times."""
    with override(config):
        launch = first_launch(layer, dtype, tensors, target)
    return described(launch, type(config)) == asdict(config)


def tune(
    layer: Layer,
    dtype: str,
    configs: Sequence[Config],
    timer: Timer,
    device: torch.device,
    target: Target,
    samples: int = 5,
) -> dict[str, Any]:
    """One layer's entry: the model's config and the best one, their seconds, the regret, and what became of the candidates."""
    sets = data_sets(layer, getattr(torch, dtype), device, timer, "cold")
    run = contestants(layer, ours=("triton",))[0].run
    expected = run(sets[0]).float()
    launch = first_launch(layer, dtype, sets[0], target)
    right, wrong, failed = [Contestant(MODEL, run)], [], []
    for config in configs:
        forced = _with(config, run)
        try:
            if not taken(layer, dtype, sets[0], target, config):
                failed.append(f"{name(config)}: the launch did not take it")
                continue
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
    heats = medians(race(right, sets, timer, Protocol("cold", "graph", samples)))
    # The least of many noisy medians is too small: the fastest few run again, and only that race is reported.
    finalists = {MODEL, *sorted(heats, key=lambda key: heats[key])[:FINALISTS]}
    final = [contestant for contestant in right if contestant.name in finalists]
    seconds = medians(race(final, sets, timer, Protocol("cold", "graph", 3 * samples)))
    best = min(seconds, key=lambda key: seconds[key])
    return {
        "op": layer.op,
        "spec": str(layer.spec),
        "epilogue": str(layer.epilogue),
        "dtype": dtype,
        "model": {"kernel": launch.kernel.__name__, **described(launch, kind_of(launch))},
        "model_seconds": seconds[MODEL],
        "best": best,
        "best_seconds": seconds[best],
        "regret": seconds[MODEL] / seconds[best],
        "candidates": len(configs),
        "finalists": seconds,
        "wrong": wrong,
        "failed": failed,
    }


def name(config: Config) -> str:
    """Such as "BM128 BN128 BK64 SPLIT1 num_warps4 num_stages3"."""
    return " ".join(f"{key}{value}" for key, value in asdict(config).items())
