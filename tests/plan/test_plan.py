"""A plan computes what its module computes, with the launches that it should have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn

import convatlas
from convatlas import nets
from convatlas.codegen.stub import Stub
from convatlas.errors import ArgumentError, BackendError, DtypeError, NetError, ShapeError
from convatlas.plan.plan import SHAPES, Plan


def filled(module: nn.Module) -> nn.Module:
    """The module in eval mode, its batch norms with statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and not part.running_var.is_meta:
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return module.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def assert_same(plan: Plan, module: nn.Module, *inputs: Tensor) -> None:
    """plan and module agree, both in float32: the reference rounds once, PyTorch's sums differ by a few units in the last place."""
    with torch.no_grad():
        expected = module(*inputs)
    found = plan(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert found.stride() == expected.stride()


EXTRA = {"googlenet": {"init_weights": False}}


def ops(plan: Plan) -> list[str]:
    return [layer.op for layer in plan.layers]


def meta(name: str) -> Plan:
    """The plan of one of torchvision's networks: shapes only, on the meta device."""
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None, **EXTRA.get(name, {}))
        return convatlas.compile(module.eval(), torch.empty(1, 3, 224, 224), backend="numpy")


def test_resnet50_is_53_convolutions_a_pool_a_mean_and_a_linear_layer() -> None:
    plan = meta("resnet50")
    assert sorted(ops(plan)) == ["adaptive_avg_pool2d", *["conv2d"] * 53, "linear", "max_pool2d"]
    adds = [layer for layer in plan.layers if layer.call.epilogue and layer.call.epilogue.residual]
    assert len(adds) == 16 and all(layer.call.epilogue.activation == "relu" for layer in adds)
    assert plan.layers[0].merged == ("bn1", "relu") and all(layer.ours for layer in plan.layers)


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "densenet121"])
def test_concatenations_copy_nothing(name: str) -> None:
    plan = meta(name)
    assert not {"concat", "copy"} & set(ops(plan))
    assert "relu" not in ops(plan)  # each is in an epilogue
    if name == "densenet121":  # a norm before its convolution has nothing to be folded into
        norms = [layer for layer in plan.layers if layer.op == "batch_norm"]
        assert len(norms) == 62 and all(layer.call.epilogue.activation == "relu" for layer in norms)
    else:
        assert "batch_norm" not in ops(plan)


def test_our_own_networks_become_the_same_launches() -> None:
    with torch.device("meta"):
        plan = convatlas.compile(nets.create("resnet18").eval(), torch.empty(1, 3, 64, 64), backend="numpy")
    assert sorted(ops(plan)) == ["adaptive_avg_pool2d", *["conv2d"] * 20, "linear", "max_pool2d"]


class Small(nn.Module):
    """A stem, a residual block with a projection, a concatenation, a head: odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.b = nn.Sequential(nn.Conv2d(8, 12, 3, padding="same", dilation=2), nn.BatchNorm2d(12))
        self.project = nn.Conv2d(8, 12, 1)
        self.up = nn.Sequential(nn.ConvTranspose2d(20, 6, 2, stride=2, groups=2), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(6, 5)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.relu(self.project(x) + self.b(self.a(x)))
        y = self.up(torch.cat([x, y], 1))
        return self.fc(self.dropout(y.mean((2, 3)))).softmax(-1)


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return filled(Small())


@pytest.mark.parametrize("backend", ["numpy", pytest.param("triton", marks=pytest.mark.interpreter), "cuda"])
def test_a_small_network_on_every_backend(small: nn.Module, backend: str) -> None:
    if backend == "cuda":
        pytest.importorskip("convatlas.kernels.common.cuda.host")
    x = noise(2, 3, 19, 17)
    plan = convatlas.compile(small, x, backend=backend)
    assert ops(plan) == [
        "conv2d", "max_pool2d", "conv2d", "conv2d", "conv2d", "conv_transpose2d", "adaptive_avg_pool2d", "linear", "softmax",
    ]  # fmt: skip
    assert_same(plan, small, x)
    assert_same(plan, small, x.contiguous(memory_format=torch.channels_last))
    launched = [kernel for layer in plan.layers for kernel in layer.kernels]
    assert len(launched) == 0 if backend == "numpy" else len(launched) >= 9


def test_every_layer_is_within_its_bound(small: nn.Module) -> None:
    x = noise(1, 3, 19, 17)
    plan = convatlas.compile(small, x, backend="numpy")
    with convatlas.checking() as report:
        plan(x)
    assert len(report) == 9 and report.ok


def test_what_no_op_of_ours_computes_stays_pytorchs() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = torch.erf(self.conv(x))
            low, high = y.chunk(2, 1)
            return {"sum": low + high, "cumulated": torch.cumsum(y.flatten(1), 1)}

    module, x = Mixed().eval(), noise(2, 3, 6, 5)
    plan = convatlas.compile(module, x, backend="numpy")
    with torch.no_grad():
        torch.testing.assert_close(plan(x), module(x))
    text = plan.report()
    assert "erf" in text and "cumsum" in text and "% of the FLOPs" in text
    assert {layer.op for layer in plan.layers if not layer.ours} == {"erf", "cumsum", "copy"}


def test_the_run_before_a_capture_may_overwrite_the_inputs() -> None:
    """A CUDA graph's replay, with the plain run in its place: the network writes over its input's memory."""

    class Over(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) + torch.relu(-x)

    module, x = Over().eval(), noise(2, 3, 4, 5)
    plan = convatlas.compile(module, x, backend="numpy")
    program = plan.program()

    def recorded() -> SimpleNamespace:
        program.run()
        program.memory.fill_(0xFF)
        return SimpleNamespace(replay=lambda *given: program.run())

    program.driver, program.capture, program._recorded = Stub(), True, recorded
    for given in (x, noise(2, 3, 4, 5) + 1):
        assert_same(plan, module, given)
    assert program.recording is not None


def test_products_inside_of_pytorchs_ops_are_counted() -> None:
    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("nchw,ndhw->ncd", x, x)

    plan = convatlas.compile(Attends().eval(), noise(2, 3, 4, 5), backend="numpy")
    assert sum(layer.flops for layer in plan.layers if not layer.ours) == 2 * 2 * 3 * 3 * 20


def test_a_plan_that_does_not_watch_is_told_of_changes(small: nn.Module) -> None:
    x = noise(1, 3, 19, 17)
    plan = convatlas.compile(small, x, backend="numpy", watch=False)
    before = plan(x)
    small.stem[1] = nn.BatchNorm2d(small.stem[1].num_features).eval()
    with torch.no_grad():
        small.stem[1].running_var.add_(3)
    assert torch.equal(plan(x), before)
    plan.refresh()
    assert_same(plan, small, x)
    assert not torch.equal(plan(x), before)


def test_a_changed_weight_is_noticed(small: nn.Module) -> None:
    x = noise(1, 3, 19, 17)
    plan = convatlas.compile(small, x, backend="numpy")
    before = plan(x)
    with torch.no_grad():
        small.a[0].weight.mul_(2)
        small.stem[1].running_var.add_(1)
    assert_same(plan, small, x)
    assert not torch.equal(plan(x), before)
    small.fc.bias = nn.Parameter(torch.ones(5))  # another tensor
    assert_same(plan, small, x)
    small.fc = nn.Linear(6, 7).eval()  # another module, of another shape
    assert_same(plan, small, x)
    small.a[1] = nn.SiLU()  # another part without weights
    assert_same(plan, small, x)
    small.fc.weight.data.mul_(3)  # PyTorch counts no version for this
    plan.refresh()
    assert_same(plan, small, x)
    small.double()  # the same parameters, of another dtype
    with pytest.raises(NetError, match="cannot trace") as raised:
        plan(x)
    assert "\n" not in str(raised.value)
    small.float()
    assert_same(plan, small, x)
    del small.fc.bias
    small.fc.register_parameter("bias", None)
    assert_same(plan, small, x)


def test_other_batches_have_programs_up_to_a_number(small: nn.Module) -> None:
    plan = convatlas.compile(small, noise(2, 3, 9, 9), backend="numpy")
    for n in range(1, SHAPES + 3):
        assert_same(plan, small, noise(n, 3, 9, 9))
    assert len(plan._programs) == SHAPES


def test_wrong_inputs_are_refused_in_one_line(small: nn.Module) -> None:
    x = noise(1, 3, 9, 9)
    plan = convatlas.compile(small, x, backend="numpy")
    for error, given in (
        (ShapeError, noise(1, 4, 9, 9)),
        (ShapeError, noise(1, 3, 9, 10)),
        (ShapeError, noise(3, 9, 9)),
        (DtypeError, x.double()),
        (BackendError, x.to("meta")),
        (ArgumentError, "x"),
        (ArgumentError, noise(1, 3, 9, 9).requires_grad_()),
    ):
        with pytest.raises(error, match="expected") as raised:
            plan(given)
        assert "\n" not in str(raised.value)


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_a_plan_is_refused_in_one_line(small: nn.Module) -> None:
    x = noise(1, 3, 9, 9)
    for module, words in ((Decides().eval(), "values of tensors"), (small.train(), "training mode")):
        with pytest.raises(NetError, match=words) as raised:
            convatlas.compile(module, x, backend="numpy")
        assert "\n" not in str(raised.value)
    small.eval().stem[1].train()
    with pytest.raises(NetError, match=r"'stem\.1' is in training mode"):
        convatlas.compile(small, x)
    with pytest.raises(ArgumentError, match="example"):
        convatlas.compile(small.eval(), [1, 2])


def test_autocast_and_half_precision(small: nn.Module) -> None:
    x = noise(1, 3, 19, 17)
    plan = convatlas.compile(small, x, backend="numpy")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = small(x), plan(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    half = small.half()
    plan = convatlas.compile(half, x.half(), backend="numpy")
    found = plan(x.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.02)
