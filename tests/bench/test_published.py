"""The published layers, against counts and single lines of the files that they are from."""

from __future__ import annotations

from collections import Counter

from convatlas.bench.published import CONVNET_BATCH, published
from convatlas.study.roofline import MACHINES


def test_counts_are_those_of_the_files() -> None:
    """conv_problems.h lists 94 tuples for training, 4 of them twice; 107 and 17 for inference, 4 twice and 15 in both."""
    found = Counter(item.source for item in published())
    assert found == {
        "convnet-benchmarks": 5,
        "DCGAN": 5,
        "EfficientNet-B0": 12,
        "MobileNetV3": 3,
        "DeepBench training": 90,
        "DeepBench inference": 104,
    }


def test_no_layer_stands_twice_in_a_list() -> None:
    keys = [(item.source, item.layer.key) for item in published()]
    assert len(keys) == len(set(keys))


def test_single_lines() -> None:
    """(700, 161, 1, 4, 32, 20, 5, 0, 0, 2, 2): w h c n k s r pads strides; (151, 40, 1, 1, 32, 20, 5, 8, 8, 8, 2)."""
    specs = {str(item.layer.spec) for item in published()}
    assert "4x1x161x700 -> 32x79x341, 5x20 stride2" in specs
    assert "1x1x40x151 -> 32x26x19, 5x20 stride2x8" in specs
    assert "64x128x16x16 -> 64x32x32, 4x4 transposed stride2" in specs
    assert "16x2048x7x7 -> 512x7x7, 1x1 stride2" in specs
    assert "128x3x128x128 -> 96x118x118, 11x11" in specs


def test_flops_are_those_that_were_published() -> None:
    """convnet-benchmarks: L1 took 0.1054655 s at 1177.788 GFLOP/s; the Gs are 2 MACs. L5 0.0558670 s at 735.825."""
    layers = [item.layer.spec for item in published() if item.source == "convnet-benchmarks"]
    assert all(spec.N == CONVNET_BATCH for spec in layers)
    assert abs(layers[0].flops / (0.10546654462814 * 1177.7879871761e9) - 1) < 1e-3
    assert abs(layers[4].flops / (0.05586701631546 * 735.82546939461e9) - 1) < 1e-3


def test_named_gpus_get_faster_and_have_sources() -> None:
    assert [m.name.split()[0] for m in MACHINES] == ["A100", "H100", "H200", "B200"]
    assert all(m.source and m.vector < m.tensor for m in MACHINES)
    times = [m.seconds(10**12, 10**9) for m in MACHINES]
    assert times == sorted(times, reverse=True)
