"""verify: right nets pass, a planted fault is found and named, and the logits' criterion is neither blind nor strict."""

import math

import numpy as np
import pytest
import torch
from rotation import share

import convatlas
from convatlas.errors import BackendError, DtypeError, InputError, NetError
from convatlas.kernels.common.interpreter import interpreting
from convatlas.verify.verify import compare_logits, verify


@pytest.mark.parametrize("dtype", share(["float16", "bfloat16"]))
def test_a_small_resnet_on_the_triton_kernels(dtype):
    result = verify("resnet18", 32, 2, dtype)
    assert result.ok and result.first_wrong is None
    assert (len(result.layers), result.distinct, result.input_shape) == (23, 18, (2, 3, 32, 32))
    assert result.interpreted is interpreting()
    assert all(0 <= layer.worst <= 1 and 0 <= layer.rms <= 1 and layer.detail == "" for layer in result.layers)
    assert 0 < result.logits.error <= result.logits.limit and result.logits.images == 2


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_the_reference_agrees_with_itself(dtype):
    result = verify("efficientnet_lite0", 33, 1, dtype, "numpy")
    assert result.ok and result.device == "cpu" and not result.interpreted
    # The same sums twice, but a BLAS may add them up in another order; float64's own rounding is of no account here.
    assert result.logits.error == pytest.approx(result.logits.yardstick, rel=0.25, abs=1e-12)
    assert (result.logits.yardstick < 1e-12) is (dtype == "float64")


def test_a_fault_in_one_layer_is_named(plant):
    """Convolution 2 of the distinct layers, alone; the net, whose convolutions come after them, is right."""
    plant(2, 0.5)
    result = verify("resnet18", 32, 1, "float32", "numpy")
    assert not result.ok and result.first_wrong.layer.path == "layer1.0.conv2"
    assert not result.first_wrong.alone.ok and result.first_wrong.inside.ok
    assert "conv2d: y[0, 63, 7, 7]" in result.first_wrong.detail
    assert result.logits.ok


def test_a_fault_in_the_network_only_is_named(plant):
    """15 of ResNet-18's 20 convolutions are distinct; call 15 + 19 is the net's last, and the logits show it, too."""
    plant(15 + 19, 100.0)
    result = verify("resnet18", 32, 1, "float32")
    wrong = [layer.layer.path for layer in result.layers if not layer.ok]
    assert wrong == ["layer4.1.conv2"] and result.layers[-3].alone.ok
    assert not result.logits.ok and not result.ok


def test_progress_comes_to_its_end():
    steps = []
    verify("resnet18", 32, 1, "float32", "numpy", lambda what, done, total: steps.append((what, done, total)))
    assert [done for _, done, _ in steps] == list(range(18 + 23 + 2)) and {total for *_, total in steps} == {43}
    assert steps[0][0] == "conv1" and steps[-1][0] == "reference network in float64"


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"name": "resnet19"}, NetError, "nearest: resnet18"),
        ({"size": 0}, InputError, "size=0, expected at least 1"),
        ({"batch": -1}, InputError, "batch=-1, expected at least 1"),
        ({"dtype": "float64"}, DtypeError, "float32, float16, bfloat16"),
        ({"dtype": "int8", "backend": "numpy"}, DtypeError, "'int8'"),
        ({"backend": "tpu"}, BackendError, "expected one of triton, cuda, cudnn, numpy"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match) as caught:
        verify(**{"name": "resnet18", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cudnn_without_a_gpu():
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        verify("resnet18", backend="cudnn")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "cudnn"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_on_a_gpu(backend, dtype):
    result = verify("resnet18", 64, 2, dtype, backend)
    assert result.ok and result.device == "cuda", result.first_wrong and result.first_wrong.detail


def test_verification_leaves_no_observer_behind():
    verify("resnet18", 32, 1, "float32", "numpy")
    from convatlas.ops import observe

    assert observe._observers.get() == () and convatlas.ops.backends._current.get() is None


def draws(scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, rounded, exact): y's errors `scale` times as large as rounding's."""
    rng = np.random.default_rng(0)
    exact, noise, other = rng.normal(size=(3, 2, 100))
    return exact + scale * 1e-3 * other, exact + 1e-3 * noise, exact


@pytest.mark.parametrize("scale, ok", [(0.0, True), (1.0, True), (3.0, True), (6.0, False), (math.nan, False)])
def test_the_logits_criterion(scale, ok):
    logits = compare_logits(*draws(scale), accumulation=0.0)
    assert logits.ok is ok
    assert logits.yardstick == pytest.approx(1e-3, rel=0.2) and logits.limit == 4 * logits.yardstick


def test_accumulation_widens_the_limit():
    assert compare_logits(*draws(6.0), accumulation=1.0).ok


def test_overflowed_logits_are_not_ok():
    y, rounded, exact = draws(1.0)
    rounded[0, 0] = y[0, 0] = math.inf
    assert not compare_logits(y, np.where(np.isinf(rounded), math.nan, rounded), exact, 0.0).ok


def test_agreement_is_counted_by_image():
    exact = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert compare_logits(exact[::-1], exact, exact, 0.0).agree == 0
    assert compare_logits(exact, exact, exact, 0.0).agree == 2
