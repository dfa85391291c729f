"""The lecture's claims: verdicts that follow from the numbers, and change with the networks."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import convatlas
from convatlas import nets
from convatlas.nets import googlenet, mobilenet, nin, resnet, squeezenet, vgg
from convatlas.study import lecture, stored
from convatlas.study.lecture import mobilenet as mobilenet_topic
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import ASKED, FAILS, HOLDS, ROUGHLY, Finding, Number, as_dict
from convatlas.study.roofline import H100


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas(stored.load())


def find(atlas: Atlas, topic: str, says: str) -> Finding:
    """The finding of the topic's one claim whose words contain `says`."""
    (claim,) = (claim for claim in lecture.topic(topic).claims if says in claim.says)
    return claim.compute(atlas)


def number(finding: Finding, what: str) -> float:
    """The one number whose description contains `what`."""
    (found,) = (n.found for n in finding.numbers if what in n.what)
    return found


@pytest.mark.parametrize(
    "found, claimed, relation, verdict",
    [
        (100, 100, "=", HOLDS),
        (101, 100, "=", HOLDS),
        (99, 100, "=", HOLDS),
        (102, 100, "=", ROUGHLY),
        (75, 100, "=", ROUGHLY),
        (126, 100, "=", FAILS),
        (74, 100, "=", FAILS),
        (0, 0, "=", HOLDS),
        (1, 0, "=", FAILS),
        (300, 100, ">=", HOLDS),
        (99, 100, ">=", HOLDS),
        (80, 100, ">=", ROUGHLY),
        (10, 100, ">=", FAILS),
        (10, 100, "<=", HOLDS),
        (120, 100, "<=", ROUGHLY),
        (130, 100, "<=", FAILS),
        (7, None, "=", ASKED),
    ],
)
def test_the_verdict_on_a_number(found, claimed, relation, verdict):
    assert Number("x", found, claimed, relation).verdict == verdict


def test_the_worst_number_decides_and_gives_the_reason():
    finding = Finding((Number("a", 100, 100), Number("b", 50, 100), Number("c", 90, 100), Number("d", 1)), "")
    assert finding.verdict == FAILS and finding.reason == "b: 100 claimed, 50 found, 50 % less"
    assert Finding((Number("a", 3),), "").verdict == ASKED
    both = Finding((Number("a", 1, 1), Number("b", 2, 3, "<=")), "")
    assert both.verdict == HOLDS and both.reason == "both numbers are what is claimed"


def test_numbers_as_text():
    assert Number("x", 1_234_567).found_text == "1,234,567" and Number("x", 8.7111).found_text == "8.711"
    assert Number("x", 0.5, 0.25, ">=", "%").claimed_text == "at least 25.0 %"
    assert Number("x", 2_000_000, unit="B").found_text == "2.000 MB" and Number("x", 1).claimed_text == ""
    assert Number("layers", 1, 0).reason == "layers: 0 claimed, 1 found, more than none"


def test_the_topics_cover_every_network():
    topics = [lecture.topic(name) for name in lecture.names()]
    assert [t.name for t in topics] == lecture.names()
    assert {net for t in topics for net in t.nets} == set(nets.names())
    for t in topics:
        assert t.about.strip() and t.diagram.strip().startswith("flowchart") and t.claims
        says = [c.says for c in t.claims]
        assert len(set(says)) == len(says)


def test_topics_are_found_by_the_names_of_networks():
    assert lecture.topic("resnext101_64x4d").name == "resnext" and lecture.topic("vgg16_bn").name == "vgg"
    assert lecture.topic("wide-ResNet").name == "wide_resnet"
    with pytest.raises(convatlas.NetError, match="unknown topic 'resnt', nearest: resnet"):
        lecture.topic("resnt")


def test_no_verdict_is_written_down():
    """The topics hold claims and functions; the words of a verdict occur in claim.py only."""
    folder = Path(lecture.__file__).parent
    topics = {path for path in folder.glob("*.py") if "TOPIC" in path.read_text()} - {folder / "__init__.py"}
    assert len(topics) >= 10
    for path in topics:
        assert not re.search(rf"\b(HOLDS|ROUGHLY|FAILS|{FAILS}|verdict)\b", path.read_text()), path.name


def test_numbers_that_are_known(atlas):
    assert number(find(atlas, "googlenet", "too expensive"), "naive module, MACs") == 854_196_224
    assert number(find(atlas, "googlenet", "too expensive"), "output channels") == 672
    # by hand: 28*28 * (3 * 64*256 + 128*256 + 9*64*192 + 25*64*96)
    assert number(find(atlas, "googlenet", "bottlenecks are added"), "bottlenecks, MACs") == 784 * 346_112
    assert number(find(atlas, "googlenet", "22 layers"), "longest path") == 22
    assert number(find(atlas, "resnet", "152 layers"), "longest path") == 152
    assert number(find(atlas, "vgg", "27C^2"), "three 3x3, weights over C^2, C = 64") == 27
    assert number(find(atlas, "vgg", "24M"), "the image and every op") == 15_237_608
    assert (
        number(find(atlas, "squeezenet", "1/50"), "AlexNet's parameters to squeezenet1_0's") == 60_965_224 / 1_248_424
    )


@pytest.mark.parametrize(
    "topic, says, verdict",
    [
        ("alexnet", "count its parameters", HOLDS),
        ("googlenet", "12x", FAILS),
        ("googlenet", "no FC layers", FAILS),
        ("wide_resnet", "the same", ROUGHLY),
        ("squeezenet", "1/50", ROUGHLY),
        ("resnext", "parallel paths", HOLDS),
        ("mobilenet_v1", "1/K", HOLDS),
    ],
)
def test_the_verdicts_of_today(atlas, topic, says, verdict):
    """What the networks as they are give; the tests below show that other networks give others."""
    assert find(atlas, topic, says).verdict == verdict


def test_other_fire_modules_change_the_verdict(monkeypatch):
    monkeypatch.setattr(squeezenet, "FIRES", tuple((2 * s, k) for s, k in squeezenet.FIRES))
    assert find(Atlas(), "squeezenet", "1/50").verdict == FAILS
    assert find(Atlas(), "squeezenet", "parameters of 1.0").verdict == FAILS


def test_a_smaller_third_branch_changes_the_verdict(monkeypatch):
    small = replace(googlenet.CONFIGS["googlenet_2014"], third=3)
    monkeypatch.setitem(googlenet.CONFIGS, "googlenet_2014", small)
    assert find(Atlas(), "googlenet", "12x").verdict == ROUGHLY
    assert find(Atlas(), "googlenet", "5x5 branch").verdict == ROUGHLY


def test_a_shallower_net_changes_the_verdict(monkeypatch):
    monkeypatch.setitem(resnet.CONFIGS, "resnet152", replace(resnet.CONFIGS["resnet152"], depths=(3, 8, 30, 3)))
    finding = find(Atlas(), "resnet", "152 layers")
    assert finding.verdict == ROUGHLY and number(finding, "longest path") == 134 and "12 % less" in finding.reason
    monkeypatch.setitem(vgg.DEPTHS, "vgg16", (1, 1, 1, 1, 1))
    assert find(Atlas(), "vgg", "much deeper").verdict == FAILS


def test_a_narrower_wide_net_changes_the_verdict(monkeypatch):
    monkeypatch.setitem(resnet.CONFIGS, "wide_resnet50_2", resnet.CONFIGS["resnet50"])
    assert find(Atlas(), "wide_resnet", "the same").verdict == FAILS


def test_a_net_without_perceptrons_changes_the_verdict(monkeypatch):
    without = lambda C, K, *perceptron, **how: mlpconv(C, perceptron[-1], **how)  # noqa: E731
    mlpconv = nin.mlpconv
    monkeypatch.setattr(nin, "mlpconv", without)
    assert find(Atlas(), "nin", "filled with").verdict == FAILS


def test_other_channels_change_the_numbers_but_not_the_formula(monkeypatch, atlas):
    monkeypatch.setattr(mobilenet, "SEPARABLE", ((16, 1), (64, 2)))
    finding = find(Atlas(), "mobilenet_v1", "1/K")
    assert finding.verdict == HOLDS and [n.found for n in finding.numbers] == [1 / 16 + 1 / 9, 1 / 64 + 1 / 9]
    assert find(Atlas(), "mobilenet_v1", "8 to 9").verdict == ROUGHLY


def test_a_machine_with_more_bandwidth_changes_the_verdict(monkeypatch, atlas):
    assert find(atlas, "mobilenet_v1", "memory-bound").verdict == HOLDS
    monkeypatch.setattr(mobilenet_topic, "H100", replace(H100, bandwidth=100 * H100.bandwidth))
    assert find(atlas, "mobilenet_v1", "memory-bound").verdict == FAILS


def test_a_broken_path_changes_the_verdict(monkeypatch, atlas):
    from convatlas.study.lecture import resnext

    monkeypatch.setattr(
        resnext, "outputs", lambda module, original=resnext.outputs: original(module) + len(list(module.modules()))
    )
    assert find(atlas, "resnext", "parallel paths").verdict == FAILS


def test_as_json(atlas):
    claim = next(c for c in lecture.topic("googlenet").claims if "12x" in c.says)
    data = as_dict(claim, claim.compute(atlas))
    assert data["verdict"] == FAILS and data["source"] == "the notes" and data["numbers"][0]["claimed"] == 12
    assert data["numbers"][1]["relation"] is None and data["reason"].endswith("27 % less")


def test_the_roofline():
    assert H100.ridge() == pytest.approx(295, abs=1) and H100.ridge(tensor=False) == pytest.approx(40, abs=1)
    assert H100.seconds(int(H100.tensor), 0) == pytest.approx(1) and H100.seconds(
        0, int(H100.bandwidth)
    ) == pytest.approx(1)
