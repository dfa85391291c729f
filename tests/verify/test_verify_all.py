"""verify all: right nets pass, kinds of layers are checked once, faults and forgotten elements are found."""

import pytest
import torch

import convatlas
from convatlas import nets
from convatlas.errors import BackendError, DtypeError, InputError, NetError
from convatlas.ops import backends
from convatlas.ops.observe import observe
from convatlas.study import trace
from convatlas.verify.check import Checker
from convatlas.verify.verify_all import FirstOfAKind, plan_of, verify_all

SMALL = ["squeezenet1_1", "resnet18"]


def by_name(chosen, **arguments):
    return {r.name: r for r in verify_all(chosen, **arguments)}


def test_nets_on_the_triton_kernels():
    found = by_name(SMALL, size=32)
    assert list(found) == SMALL and all(r.ok and r.first_wrong is None and 0 < r.worst <= 1 for r in found.values())
    assert [(r.layers, r.input_shape) for r in found.values()] == [(30, (1, 3, 32, 32)), (23, (1, 3, 32, 32))]
    assert all(check.call.backend == "triton" for r in found.values() for check in r.checks)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_kind_of_layer_is_checked_once_in_all_nets():
    results = verify_all(["resnet18", "resnet34", "resnet18"], size=64, dtype="float32", backend="numpy")
    assert [(r.layers, len(r.checks) > 0) for r in results] == [(23, True), (39, False), (23, False)]
    paths = [check.path for check in results[0].checks]
    assert "layer1.0.conv1" in paths and "layer1.1.conv1" not in paths


def test_a_branch_that_writes_a_slice_is_a_kind_of_its_own():
    kinds: list[tuple] = []
    observer = FirstOfAKind(Checker(), lambda kind: kinds.append(kind) or True, lambda what: None)
    x, w = (torch.ones(1, 2, 3, 3).contiguous(memory_format=torch.channels_last) for _ in range(2))
    wide = torch.empty(1, 5, 1, 1).contiguous(memory_format=torch.channels_last)
    with observe(observer):
        for out in (None, torch.empty(1, 1, 1, 1), wide[:, 1:2]):
            convatlas.conv2d(x, w, out=out)
    assert kinds[0] == kinds[1] != kinds[2] and len(observer.calls) == len(observer.checker.checks) == 3


def test_a_net_gets_at_least_the_size_it_needs():
    found = by_name(["alexnet_2012", "nin", "squeezenet1_1"], size=20, dtype="float32", backend="numpy")
    assert [r.input_shape[-1] for r in found.values()] == [227, 39, 20]


@pytest.mark.parametrize("name", ["wrn_28_10", "googlenet"])
def test_the_native_size_is_the_registrys(name):
    plan = plan_of(name, None, 2)
    size = nets.info(name).size
    with torch.device("meta"):
        layers = trace(nets.create(name), (2, 3, size, size))
    assert plan.shape == (2, 3, size, size) and plan.steps == len(layers) + 2


def test_a_fault_is_named(plant):
    """Convolution 2 of SqueezeNet; on the numpy backend, whose logits are compared with themselves, only a check finds it."""
    plant(2, 1.0)
    found = by_name(["squeezenet1_1", "resnet18"], size=33, dtype="float32", backend="numpy")
    wrong = found["squeezenet1_1"]
    assert not wrong.ok and wrong.first_wrong.path == "features.3.expand1x1"
    assert "conv2d: y[0, 63," in wrong.first_wrong.report.detail
    assert found["resnet18"].ok


def test_a_fault_in_a_kind_that_was_checked_before_shows_in_the_logits(plant):
    """Convolution 3 of the second run, after 20 of the kernels' and 20 of the reference's in the first."""
    plant(40 + 3, 100.0)
    first, second = verify_all(["resnet18", "resnet18"], size=32, dtype="float32")
    assert first.ok and not second.checks
    assert not second.logits.ok and not second.ok


def test_an_element_that_is_never_written_is_found(monkeypatch):
    """Memory is full of NaN: no old value passes for a result."""
    original = backends.runner

    def forgetful(name):
        def run(call, tensors, out):
            if call.op != "max_pool2d" or call.dtype == "float64":
                return original(name)(call, tensors, out)
            y = torch.empty(call.spec.output_shape, dtype=tensors["input"].dtype)
            y[:, 1:] = original(name)(call, tensors, None)[:, 1:]
            return y

        return run

    monkeypatch.setattr(backends, "runner", forgetful)
    result = by_name(["resnet18"], size=32, dtype="float32", backend="numpy")["resnet18"]
    assert result.first_wrong.path == "maxpool" and "y[0, 0, 0, 0]" in result.first_wrong.report.detail


def test_progress_comes_to_its_end():
    steps = []
    verify_all(["resnet18", "squeezenet1_1"], 32, 1, "float32", "numpy", lambda *step: steps.append(step))
    assert [done for _, done, _ in steps] == list(range(23 + 2 + 30 + 2)) and {total for *_, total in steps} == {57}
    assert steps[0][0] == "resnet18 conv1" and steps[-1][0] == "squeezenet1_1 reference in float64"


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"chosen": ["resnet19"]}, NetError, "nearest: resnet18"),
        ({"size": 0}, InputError, "size=0, expected at least 1"),
        ({"batch": 0}, InputError, "batch=0, expected at least 1"),
        ({"dtype": "int8"}, DtypeError, "'int8'"),
        ({"backend": "tpu"}, BackendError, "expected one of triton, cuda, cudnn, numpy"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        verify_all(**arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "cudnn"])
def test_on_a_gpu(backend):
    assert all(r.ok for r in verify_all(SMALL, 64, 2, "float16", backend))
