"""Folding, and when its cache must be refreshed."""

import copy

import pytest
import torch
from torch import nn

import convatlas
from convatlas.errors import ShapeError
from convatlas.nets import create, fold_batch_norms
from convatlas.nets.folding import fold
from convatlas.nets.layers import AvgPool2d, Conv2d, MaxPool2d
from convatlas.ops.observe import observe


class Pair(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x, self.bn, "relu")


def pair() -> Pair:
    torch.manual_seed(0)
    net = Pair().eval()
    with torch.no_grad():
        net.bn.running_mean.normal_()
        net.bn.running_var.uniform_(0.5, 2)
        net.bn.weight.normal_()
        net.bn.bias.normal_()
    return net


def plain(net: Pair, x: torch.Tensor) -> torch.Tensor:
    """The same by torch alone, nothing folded."""
    return torch.relu(net.bn(nn.functional.conv2d(x, net.conv.weight, net.conv.bias, padding=1)))


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(1))


def scaled(net: Pair) -> None:
    with torch.no_grad():
        net.conv.weight.mul_(2)


def new_statistics(net: Pair) -> None:
    with torch.no_grad():
        net.bn.running_var.fill_(3.0)


def new_parameter(net: Pair) -> None:
    net.conv.weight = nn.Parameter(torch.ones_like(net.conv.weight))


def loaded(net: Pair) -> None:
    net.load_state_dict({name: t + 1 for name, t in net.state_dict().items()})


def assigned(net: Pair) -> None:
    net.load_state_dict({name: t + 1 for name, t in net.state_dict().items()}, assign=True)


def replaced_data(net: Pair) -> None:
    net.conv.weight.data = net.conv.weight.data + 1


def written_data(net: Pair) -> None:
    """No version is counted for this one: eval() after it is what refreshes."""
    net.bn.bias.data.add_(1)
    net.eval()


def trained(net: Pair) -> None:
    net.train()
    with torch.no_grad():
        net(torch.randn(4, 3, 5, 5))
    net.eval()


def new_eps(net: Pair) -> None:
    net.bn.eps = 0.5


def cast(net: Pair) -> None:
    net.double().float()


CHANGES = [
    scaled,
    new_statistics,
    new_parameter,
    loaded,
    assigned,
    replaced_data,
    written_data,
    trained,
    new_eps,
    cast,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_folded_weights_follow_a_change(change, x):
    net = pair()
    with torch.no_grad():
        net(x)
        change(net)
        torch.testing.assert_close(net(x), plain(net, x), rtol=1e-5, atol=1e-5)


def test_folding_happens_once(x, monkeypatch):
    net, calls = pair(), []
    monkeypatch.setattr("convatlas.nets.folding.fold", lambda *args: calls.append(1) or fold(*args))
    with torch.no_grad():
        net(x)
        net(x)
    assert len(calls) == 1


def test_the_cache_is_not_used_where_a_gradient_would_be_lost(x):
    net = pair()
    with torch.no_grad():
        net(x)
    assert net(x).requires_grad


def test_nothing_is_cached_of_inference_tensors(x):
    """They count no versions, so a change to one could not be seen."""
    with torch.inference_mode():
        net = pair()
        net(x)
        net.conv.weight.mul_(2)
        torch.testing.assert_close(net(x), plain(net, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype(dtype, x):
    net = pair()
    with torch.no_grad():
        net(x)
        net.to(dtype)
        y = net(x.to(dtype))
    assert y.dtype == dtype
    expected = plain(net.double(), x.to(dtype).double())
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 1e-1, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)


def test_another_device(x):
    net = pair()
    with torch.no_grad():
        net(x)
        assert net.to("meta")(x.to("meta")).is_meta


def test_a_copy_folds_its_own_weights(x):
    net = pair()
    with torch.no_grad():
        before = net(x)
        other = copy.deepcopy(net)
        other.conv.weight.mul_(3)
        torch.testing.assert_close(other(x), plain(other, x), rtol=1e-5, atol=1e-5)
        assert torch.equal(net(x), before)


def test_half_weights_are_folded_in_float32():
    """One rounding to half at the end; in half arithmetic the scale would be rounded first."""
    net = pair().half()
    weight, bias = fold(net.conv.weight, net.conv.bias, net.bn)
    exact_weight, exact_bias = fold(net.conv.weight.double(), net.conv.bias.double(), copy.deepcopy(net.bn).double())
    assert (weight.double() - exact_weight).abs().max() <= exact_weight.abs().max() * 2**-11
    assert (bias.double() - exact_bias).abs().max() <= exact_bias.abs().max() * 2**-11


def test_a_batch_norm_of_another_width_is_refused(x):
    with pytest.raises(ShapeError, match=r"expected \(4,\)"), torch.no_grad():
        Conv2d(3, 4, 3)(x, nn.BatchNorm2d(5).eval())


def test_a_batch_norm_without_affine_or_statistics(x):
    conv = Conv2d(3, 4, 3).eval()
    with torch.no_grad():
        for bn in (nn.BatchNorm2d(4, affine=False).eval(), nn.BatchNorm2d(4, track_running_stats=False).eval()):
            expected = bn(nn.functional.conv2d(x, conv.weight, conv.bias))
            torch.testing.assert_close(conv(x, bn), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_residual_activation_and_out(training, x):
    net = pair().train(training)
    residual = torch.randn(2, 4, 8, 7)
    with torch.no_grad():
        expected = torch.relu(
            copy.deepcopy(net.bn)(nn.functional.conv2d(x, net.conv.weight, net.conv.bias, padding=1)) + residual
        )
        wide = torch.full((2, 9, 8, 7), torch.nan).contiguous(memory_format=torch.channels_last)
        y = net.conv(x, net.bn, "relu", residual=residual, out=wide[:, 3:7])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wide[:, 3:7], expected, rtol=1e-5, atol=1e-5)
    assert wide[:, :3].isnan().all() and wide[:, 7:].isnan().all()


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (9, 6)])
@pytest.mark.parametrize("stride", [1, 2])
def test_tensorflow_same_padding(size, stride):
    conv = Conv2d(3, 4, 3, stride, bias=False, tf_same=True).double()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    pads = []
    for n in reversed(size):
        total = max((-(-n // stride) - 1) * stride + 3 - n, 0)
        pads += [total // 2, total - total // 2]
    with torch.no_grad():
        expected = nn.functional.conv2d(nn.functional.pad(x, pads), conv.weight, None, stride)
        torch.testing.assert_close(conv(x), expected)
    assert expected.shape[-2:] == tuple(-(-n // stride) for n in size)


@pytest.mark.parametrize("keywords", [{"padding_mode": "reflect"}, {"padding": 1, "tf_same": True}])
def test_paddings_that_do_not_exist_are_refused(keywords):
    with pytest.raises(ShapeError, match="expected"):
        Conv2d(3, 4, 3, **keywords)


def test_pools_take_torchs_arguments(x):
    for ours, theirs in (
        (MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        (AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    ):
        torch.testing.assert_close(ours(x), theirs(x))


def test_a_block_is_one_kernel(x):
    ops = []
    with torch.no_grad(), observe(lambda call, tensors, output: ops.append((call.op, str(call.epilogue)))):
        pair()(x)
    assert ops == [("conv2d", "bias + relu")]


def test_a_folded_net_computes_with_the_same_weights():
    """Bit for bit: in the net's own dtype the two agree exactly, and the folded net's weights survive a cast to float64."""
    net = create("resnet18", num_classes=3, seed=0).half()
    folded = fold_batch_norms(net, (1, 3, 32, 32))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).half()
    seen: list[list] = [[], []]
    with torch.no_grad():
        with observe(lambda call, tensors, output: seen[0].append(tensors)):
            y = net(x)
        assert torch.equal(folded(x), y)
        with observe(lambda call, tensors, output: seen[1].append(tensors)):
            folded.double()(x.double())
    for ours, double in zip(*seen):
        for name in {"weight", "bias"} & set(ours):
            assert torch.equal(ours[name].double(), double[name])
    assert net.bn1.eps == 1e-5  # the net itself is as it was


def test_one_convolution_with_two_batch_norms_cannot_be_folded():
    class Twice(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.conv(x, self.bn) + self.conv(x, self.other)

    with pytest.raises(convatlas.NetError, match="conv is followed by two batch norms"):
        fold_batch_norms(Twice(), (1, 3, 8, 8))
