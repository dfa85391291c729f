"""What is said of the time model beside its errors: the order of kernels, what times show to limit a layer, choices of configs."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from convatlas.call import Call
from convatlas.model.ceilings import Ceilings
from convatlas.model.gpu import gpu
from convatlas.model.time import predict
from convatlas.model.work import Tiling, Work
from convatlas.results.store import newest
from convatlas.specs import Conv2dSpec
from convatlas.study.evaluation import fitted, judged
from convatlas.study.evaluation.fitted import Timed
from convatlas.study.evaluation.judged import Right

H100 = gpu("h100-sxm")
RATES = Ceilings(3e12, {"float16": 8e14}, 2e-6)
WORK = Work("k", "", 300, 128, 3, Tiling(128, 128, 64, 9, 1, 300), 1, 1, 10**6, "triton", 2)


def one(seconds: float, batch: int = 1, backend: str = "triton", moved: int = 10**6) -> Timed:
    spec = Conv2dSpec.of((batch, 64, 56, 56), (64, 64, 3, 3), 1, 1)
    work = replace(WORK, moved=moved)
    return Timed(Call("conv2d", spec), backend, batch, "3x3 dense", {"googlenet": 1}, seconds, (work,), (2,), True)


def test_order_counts_pairs_that_differ_enough():
    slow, quick = one(2e-5, moved=10**9), one(1e-5, backend="cuda")
    assert slow.predicted(H100) > quick.predicted(H100)
    assert judged.order([slow, quick], H100) == Right(1, 1)
    assert judged.order([replace(slow, seconds=1e-5), replace(quick, seconds=2e-5)], H100) == Right(0, 1)
    assert judged.order([replace(slow, seconds=1.05e-5), quick], H100) == Right(0, 0)
    assert judged.order([slow, replace(quick, batch=32)], H100) == Right(0, 0)


def test_what_times_of_two_batches_show():
    """231 MFLOP an image: 7.4 GFLOP and 25.8 MB at batch 32, which take 9.2 us at 800 TFLOP/s and 8.6 at 3 TB/s."""
    small, large = one(3e-6), one(1.2e-5, 32)
    assert judged.shown(small, large, RATES) == "launch, latency"
    assert judged.shown(small, replace(large, seconds=9e-5), RATES) == "throughput"
    assert judged.shown(small, replace(large, seconds=3.6e-5), RATES) is None
    assert judged.shown(large, small, RATES) == "tensor"  # 77 % of the rate
    assert judged.shown(replace(large, seconds=3.6e-5), small, RATES) is None
    named = predict(small.works, small.per_sm, H100, "float16").limiter
    found = judged.limiters([small, large], H100, RATES)
    assert found["launch, latency"] == Right(int(named in ("launch", "latency")), 1) and found["tensor"].of == 1


def test_choices_are_among_what_is_considered():
    results = newest(Path(__file__).parents[2] / "benchmarks/results", "layers")["h100-80gb-hbm3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convatlas.codegen.resources.resources", lambda tasks, progress: ["not compiled"] * len(tasks))
        _, layers = fitted.timed(results, lambda entry: entry.extra["batch"] == 32 and entry.kind == "3x3 dense")
    found = judged.choices(layers[:20], H100)
    assert set(found) == {"cuda", "triton"}
    for made in found.values():
        assert all(choice.gain >= 1 and choice.same == (choice.gain < 1.01) for choice in made)
    page = (Path(__file__).parents[2] / "docs/model.md").read_text()
    lines = judged.tables(layers[:20], layers, H100, RATES).splitlines()
    heads = [above for above, rule in itertools.pairwise(lines) if rule.startswith("|---")]
    assert len(heads) == 4 and all(head in page for head in heads)


def test_blocks_without_a_compiler_by_hand():
    """Three stages of 48 KB leave room for one block; 64 sums a thread and 48 registers beside them allow 4 of 128 threads."""
    assert judged.estimated(replace(WORK, tile=Tiling(128, 256, 64, 9, 1, 300), threads=256), H100) == 1
    assert judged.estimated(replace(WORK, tile=Tiling(128, 64, 16, 9, 1, 300)), H100) == 4
