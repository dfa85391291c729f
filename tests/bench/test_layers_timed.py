"""What is raced: names that tell layers apart, the order of priority, contestants, shrunken layers, nets under plain torch."""

from __future__ import annotations

import pytest
import torch

from convatlas import nets
from convatlas.bench.cases import (
    MAIN,
    PRECISIONS,
    Case,
    Choice,
    distinct,
    layer_cases,
    layers_of,
    net_cases,
    precision,
    published_cases,
    shrink,
    within_reach,
)
from convatlas.bench.contestants import FOLDED, contestants, cudnn_fused, with_folded
from convatlas.bench.cpu import bound
from convatlas.bench.networks import net_contestants, rehearsal_size, work
from convatlas.bench.precompile import Job, jobs, precompile, run_once
from convatlas.errors import InputError, NetError
from convatlas.kernels.common.precision import float32_products
from convatlas.model.gpu import gpu
from convatlas.nets.fold_net import fold_batch_norms
from convatlas.nets.plain import for_peers, plain
from convatlas.ops import functional
from convatlas.ops.observe import observe
from convatlas.verify.on_device import Judge
from convatlas.verify.single import operands

KINDS = ("3x3 dense", "other dense", "1x1", "depthwise", "grouped", "stem", "pooling", "linear", "residual add")


def every(choice: Choice) -> list[Case]:
    return layer_cases(choice)


@pytest.mark.xdist_group("all_layers")  # which a process traces once
def test_names_tell_all_layers_of_all_nets_apart() -> None:
    cases = every(Choice(batches=[32]))
    assert len({case.name for case in cases}) == len(cases) > 1000


def test_the_suites_share_out_every_layer_of_the_lecture() -> None:
    kinds = {case.kind for case in layer_cases(Choice(nets=MAIN, batches=[1]))}
    assert kinds == set(KINDS)


def test_the_most_wanted_come_first() -> None:
    cases = every(Choice(nets=["vgg11", "resnet50", "alexnet"], batches=[128, 1, 32]))
    assert cases[0].precision == "float16" and cases[0].batch == 32 and "resnet50" in cases[0].places
    cases.sort(key=lambda case: case.priority)
    main = [bool(set(case.places) & set(MAIN)) for case in cases]
    assert main == sorted(main, reverse=True)
    waves = list(dict.fromkeys((case.precision, case.batch) for case in cases))[:4]
    assert waves == [("float16", 32), ("float16", 1), ("bfloat16", 32), ("tf32", 32)]


def test_places_count_how_often_a_net_runs_a_layer() -> None:
    found = {timed.name: timed.places for timed in distinct(("resnet50", "resnet18"), 1)}
    assert found["conv2d 1x64x56x56 -> 64x56x56, 3x3 bias+relu"] == {"resnet50": 3, "resnet18": 2}


def test_a_case_says_what_it_is() -> None:
    (case,) = net_cases(Choice(["tf32"], [1], ["vgg16"]))
    assert case.name == "net vgg16 1x3x224x224 | tf32 batch1 warm graph+eager"


def test_tf32_is_left_out_where_it_changes_nothing() -> None:
    ops = {case.op for case in every(Choice(["tf32"], [1], MAIN))}
    assert ops == {"conv2d", "linear"}


def test_choices_are_checked() -> None:
    assert [precision(name) for name in ("fp16", "bf16", "fp32", "tf32", "float16")] == [
        "float16", "bfloat16", "float32", "tf32", "float16",
    ]  # fmt: skip
    with pytest.raises(InputError, match="dtype 'int8', expected one of float16"):
        precision("int8")
    with pytest.raises(InputError, match="at least 1"):
        Choice(batches=[0])
    with pytest.raises(NetError, match="resnet50"):
        Choice(nets=["resnet5O"])


def test_kinds_choose_in_all_suites() -> None:
    """By a name or a word of it; nothing that was not asked for."""
    dense, network = (Choice(["float16"], [1], ["vgg11"], kinds=[name]) for name in ("dense", "network"))
    assert {case.kind for case in layer_cases(dense)} == {"3x3 dense"}
    assert {case.kind for case in published_cases(dense)} == {"3x3 dense", "other dense"}
    assert net_cases(dense) == [] == layer_cases(network) and len(net_cases(network)) == 1
    with pytest.raises(InputError, match="kind 'sparse', expected some of 3x3 dense, other dense, 1x1"):
        Choice(kinds=["sparse"])


def test_gradients_race_where_they_are_named() -> None:
    """Each convolution's by its weight, and by its input but for the image's, as often as a net runs it; against torch's own."""
    assert not {"dgrad", "wgrad"} & {case.kind for case in layer_cases(Choice(["float16"], [1], ["resnet18"]))}
    cases = layer_cases(Choice(["float16"], [2], ["resnet18"], kinds=["dgrad", "wgrad"]))
    counts = {kind: sum(case.places["resnet18"] for case in cases if case.kind == kind) for kind in ("dgrad", "wgrad")}
    assert counts == {"dgrad": 19, "wgrad": 20}
    for case in cases[:2]:
        small = shrink(case.layer)
        assert small.spec.layer_kind == case.kind and small.spec.flops < 2e7
        tensors = operands(small, torch.float32, torch.device("cpu"), 0)
        y = {c.name: c.run(tensors) for c in contestants(small, ("numpy",))}
        judge = Judge(small, tensors)
        assert all(judge(found).ok for found in y.values()), case.name
        assert not judge(y["numpy"] * 1.01).ok


def test_what_is_within_reach_is_what_comes_first() -> None:
    cases = layer_cases(Choice(["float16"], [32], ["resnet50"]))
    assert within_reach(cases, 2.5) == {case.name for case in cases[:10]}
    assert within_reach(cases, 0) == {cases[0].name} and len(within_reach(cases, 1e6)) == len(cases)


def test_published_layers_have_batches_of_their_own() -> None:
    cases = published_cases(Choice(["float16"], [7], ["alexnet"]))
    assert {case.batch for case in cases} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert all(case.suite == "published" and case.epilogue == "" for case in cases)


@pytest.mark.xdist_group("all_layers")
def test_shrunken_layers_keep_what_makes_their_kernels() -> None:
    for case in [*every(Choice(["float16"], [32])), *published_cases(Choice(["float16"]))]:
        small = shrink(case.layer)
        assert (small.op, small.epilogue, small.spec.layer_kind) == (
            case.layer.op,
            case.layer.epilogue,
            case.layer.spec.layer_kind,
        ), case.name
        assert small.spec.flops < 2e7, f"{case.name}: {small.spec}"
        assert all(size >= 1 for size in small.spec.output_shape)
        for name in ("R", "S", "stride", "padding"):
            assert getattr(small.spec, name, None) == getattr(case.layer.spec, name, None)


def layer(net: str, path: str):
    return next(x for x in layers_of(net, 1) if x.path == path)


def test_cudnn_fuses_where_pytorch_has_an_operator() -> None:
    assert cudnn_fused(layer("resnet50", "layer1.0.conv2")) is not None
    assert cudnn_fused(layer("resnet50", "layer1.0.conv3")) is not None  # with the residual
    assert cudnn_fused(layer("mobilenet_v2", "features.3.conv.1.0")) is None  # relu6
    assert cudnn_fused(layer("resnet50", "maxpool")) is None
    assert [c.name for c in contestants(layer("resnet50", "conv1"))] == ["triton", "cuda", "cudnn", "cudnn_fused"]


@pytest.mark.interpreter
def test_ours_read_a_depthwise_filter_as_nets_lay_it_out() -> None:
    small = shrink(layer("mobilenet_v2", "features.3.conv.1.0"))
    data = with_folded(small, operands(small, torch.float32, torch.device("cpu"), 0))
    assert data[FOLDED].stride(0) == 1 and torch.equal(data[FOLDED], data["weight"])
    seen = []
    with observe(lambda call, tensors, output: seen.append(tensors["weight"].stride(0))):
        outputs = [contestant.run(data) for contestant in contestants(small)]
    assert seen == [1, 1]  # the peer is called without our dispatch
    for y in outputs[1:]:
        torch.testing.assert_close(y, outputs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "googlenet", "alexnet_2012", "wrn_28_10", "squeezenet1_1", "efficientnet_lite0"]
)
def test_a_net_under_plain_torch_computes_the_same(name: str) -> None:
    size = rehearsal_size(name)
    net = fold_batch_norms(nets.create(name, seed=0), (1, 3, size, size))
    peers, x = for_peers(net), torch.randn(1, 3, size, size)
    before = functional.conv2d
    seen: list[str] = []
    with torch.no_grad():
        expected = net(x)
        with plain(), observe(lambda call, tensors, output: seen.append(call.op)):
            y = peers(x)
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert seen == [] and functional.conv2d is before


def test_net_judge_finds_a_net_of_other_weights() -> None:
    name, shape = "squeezenet1_1", (1, 3, 64, 64)
    with float32_products("ieee"):
        racing, judge, data = net_contestants(name, shape, torch.float32, torch.device("cpu"))
    assert [c.name for c in racing] == ["ours_graph", "ours_eager", "ours_plan", "cudnn_graph", "cudnn_eager"]
    y = racing[3].run(data)
    assert judge(y).ok and judge(racing[2].run(data)).ok
    assert judge(y).ok
    assert not judge(y * 1.01).ok


def test_work_is_the_sum_over_layers() -> None:
    layers = layers_of("resnet50", 2)
    flops, bytes = work(layers, "float16")
    assert flops == sum(layer.spec.flops for layer in layers)
    assert bytes > 2 * 2 * 25e6


def test_bounds_are_bounds() -> None:
    h100 = gpu("h100-sxm")
    flops, _ = work(layers_of("resnet50", 32), "float16")
    assert bound("resnet50", 32, h100) > flops / h100.rate("float16")


def test_what_is_compiled_ahead_is_each_layer_once_and_none_too_large() -> None:
    cases = [
        *layer_cases(Choice(["float16"], [128], ["vgg16"])),
        *net_cases(Choice(["float16"], [128], ["vgg16"])),
    ]
    found = jobs(cases)
    assert len(found) == len({job.layer.key for job in found})
    names = {str(job.layer.spec) for job in found}
    assert "128x512x14x14 -> 512x14x14, 3x3" in names and "128x64x224x224 -> 64x224x224, 3x3" not in names


@pytest.mark.interpreter
def test_compiling_ahead_ends_in_time_and_counts() -> None:
    cases = layer_cases(Choice(["float32"], [1], ["alexnet"], kinds=["linear"]))
    assert precompile([], 1) == (0, 0)
    assert precompile(cases, 0.0, "cpu", 1) == (0, len(cases))
    assert run_once(Job(cases[0].layer, "float32", "cpu")) == ""


def test_precisions_are_those_of_the_store() -> None:
    assert set(PRECISIONS) == {"float16", "bfloat16", "tf32", "float32"}
