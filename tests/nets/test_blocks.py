"""What nets are put together with: fused lists of modules, joined branches, norms; and what their stacks of layers see."""

import pytest
import torch
from net_cases import image, perturb, relative_error
from torch import nn

import convatlas
from convatlas import nets
from convatlas.errors import NetError
from convatlas.nets.branches import join
from convatlas.nets.layers import BatchNorm2d, Conv2d, Linear, LocalResponseNorm, MaxPool2d
from convatlas.nets.sequential import FusedSequential
from convatlas.ops.observe import observe
from convatlas.study import trace


def ops_of(net: nn.Module, x: torch.Tensor) -> list[str]:
    seen: list[str] = []
    with (
        torch.no_grad(),
        observe(lambda call, tensors, output: seen.append(f"{call.op} {call.epilogue or ''}".strip())),
    ):
        net(x)
    return seen


def stack() -> FusedSequential:
    torch.manual_seed(0)
    layers = (
        Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        MaxPool2d(2),
        nn.ReLU(),
        Conv2d(4, 2, 1),
        nn.Flatten(),
        Linear(18, 5),
        nn.ReLU(),
    )
    return perturb(FusedSequential(*layers)).double().eval()


def test_a_fused_list_is_torchs_list_in_fewer_kernels():
    net, x = stack(), image(8, 8)
    plain = nn.Sequential(*net)
    with torch.no_grad():
        y = x
        for module in plain:  # torch's own forward of each
            y = next(base for base in type(module).__mro__ if base.__module__.startswith("torch.nn")).forward(module, y)
        torch.testing.assert_close(net(x), y)
    assert ops_of(net, x) == ["conv2d bias + relu6", "max_pool2d", "relu", "conv2d bias", "linear bias + relu"]
    assert list(net.state_dict()) == list(plain.state_dict())


def test_a_fused_list_trains_with_the_batchs_statistics():
    net, x = stack().train(), image(8, 8, batch=3)
    before = net[1].running_mean.clone()
    with torch.no_grad():
        net(x)
    assert not torch.equal(net[1].running_mean, before)


def test_the_last_of_a_fused_list_takes_residual_and_out():
    torch.manual_seed(0)
    net = FusedSequential(Conv2d(3, 3, 1), nn.ReLU(), Conv2d(3, 3, 3, padding=1)).double()
    x, wide = (
        image(5, 4),
        torch.full((1, 7, 5, 4), torch.nan, dtype=torch.float64).contiguous(memory_format=torch.channels_last),
    )
    with torch.no_grad():
        net(x, residual=x, out=wide[:, 2:5])
        torch.testing.assert_close(wide[:, 2:5], net(x) + x)
    assert wide.isnan().sum() == 4 * 5 * 4


@pytest.fixture
def branches():
    torch.manual_seed(0)
    convs = Conv2d(3, 5, 1), FusedSequential(MaxPool2d(3, 1, 1), Conv2d(3, 2, 3, padding=1))
    return [(convs[0].double(), 5), (convs[1].double(), 2)]


def test_branches_without_a_gradient_move_no_bytes(branches):
    x = image(6, 5).contiguous(memory_format=torch.channels_last)
    net = nn.ModuleList(module for module, _ in branches)
    net.forward = lambda x: join(x, branches)
    with torch.no_grad():
        y = join(x, branches)
        torch.testing.assert_close(y, torch.cat([module(x) for module, _ in branches], 1))
    assert y.is_contiguous(memory_format=torch.channels_last) and y.shape == (1, 7, 6, 5)
    assert ops_of(net, x) == ["conv2d bias", "max_pool2d", "conv2d bias"]


@pytest.mark.parametrize("of", ["input", "weights"])
def test_branches_with_a_gradient_are_concatenated(branches, of):
    x = image(6, 5)
    for module, _ in branches:
        module.requires_grad_(of == "weights")
    y = join(x.requires_grad_(of == "input"), branches)
    assert y.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(y, join(x, branches))


def test_branches_under_autocast_are_of_its_dtype(branches):
    x = image(6, 5, dtype=torch.float32)
    modules = [(module.float(), K) for module, K in branches]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = join(x, modules)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_a_batch_norm_by_itself_is_torchs(training, activation):
    ours, theirs = (perturb(kind(3)).double().train(training) for kind in (BatchNorm2d, nn.BatchNorm2d))
    x = image(4, 5, batch=2)
    with torch.no_grad():
        expected = theirs(x)
        expected = {None: expected, "relu": expected.relu(), "relu6": nn.functional.relu6(expected)}[activation]
        torch.testing.assert_close(ours(x, activation), expected)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_a_response_norm_is_torchs():
    x = image(4, 5)
    torch.testing.assert_close(LocalResponseNorm(3, 0.1, 0.5, 2.0)(x), nn.LocalResponseNorm(3, 0.1, 0.5, 2.0)(x))


@pytest.mark.parametrize("name", ["alexnet_2012", "vgg11", "googlenet", "squeezenet1_0", "mobilenet_v2", "wrn_28_10"])
def test_no_layer_runs_outside_our_ops(name, monkeypatch):
    """In eval mode; an activation or a norm of torch's own would be missing from every instrument."""
    with torch.device("meta"):
        net = nets.create(name)
    size = nets.info(name).size
    for function in (
        "relu",
        "relu6",
        "conv2d",
        "linear",
        "max_pool2d",
        "adaptive_avg_pool2d",
        "batch_norm",
        "local_response_norm",
    ):
        monkeypatch.setattr(nn.functional, function, None)
    assert trace(net, (1, 3, size, size))
    epilogues = {layer.epilogue.activation for layer in trace(net, (1, 3, size, size)) if layer.op == "conv2d"}
    assert epilogues & {"relu", "relu6"}


def test_vgg_pools_its_map_only_where_it_has_not_its_size():
    with torch.device("meta"):
        net = nets.create("vgg11")
    assert not [layer for layer in trace(net, (1, 3, 224, 224)) if "avg" in layer.op]
    assert len([layer for layer in trace(net, (1, 3, 288, 224)) if "avg" in layer.op]) == 1


def test_grouped_resnext_is_its_parallel_paths():
    """Figure 3(c) and 3(a) of Xie et al. 2016, in float64; 32 paths are 32 times the small kernels."""
    net = perturb(nets.create("resnext50_32x4d", num_classes=5, seed=0)).double()
    paths = nets.parallel_paths(net)
    x = image(33, 20)
    with torch.no_grad():
        assert relative_error(paths(x), net(x)) < 1e-12
    assert sum(p.numel() for p in paths.parameters()) == sum(p.numel() for p in net.parameters())
    grouped, split = trace(net, (1, 3, 33, 20)), trace(paths, (1, 3, 33, 20))
    assert max(layer.spec.groups for layer in grouped if layer.op == "conv2d") == 32
    assert max(layer.spec.groups for layer in split if layer.op == "conv2d") == 1
    assert sum(layer.op == "conv2d" for layer in split) == 5 + 16 * 32 * 3


def test_grouped_resnext_is_its_parallel_paths_by_the_kernels(device):
    """One block, by the Triton kernels in float32."""
    net = perturb(nets.create("resnext50_32x4d", num_classes=5, seed=0))
    block, split = net.layer1[1].to(device), nets.parallel_paths(net).layer1[1].to(device)
    x = torch.randn(1, 256, 4, 3, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad(), convatlas.use_backend("triton"):
        assert relative_error(split(x), block(x).double()) < 1e-5


def test_parallel_paths_need_groups():
    with pytest.raises(NetError, match="expected a ResNeXt"):
        nets.parallel_paths(nets.create("resnet18", num_classes=2, seed=0))


def sees(convolutions: list[Conv2d], device: str) -> torch.Tensor:
    """Which pixels of a 15x15 image the middle pixel of the last map depends on, found by changing each of them.

    Pixels and weights are small integers and every sum stays below 2^24, so float32 is exact and no order of summation shows.
    """
    size, middle = 15, 7
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 8, (1, 1, size, size), generator=generator).float()
    changed = x.repeat(size * size, 1, 1, 1)
    changed.view(size * size, -1).diagonal().add_(1)
    y = torch.cat([x, changed]).to(device)
    with torch.no_grad(), convatlas.use_backend("triton"):
        for conv in convolutions:
            y = conv.to(device)(y, activation="relu")
    return (y[1:, 0, middle, middle] != y[0, 0, middle, middle]).view(size, size).cpu()


def positive(kernel: int) -> Conv2d:
    """Weights of 1 to 3: without a zero, and none negative, so that no relu hides a change."""
    conv = Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)
    weight = torch.randint(1, 4, conv.weight.shape, generator=torch.Generator().manual_seed(kernel))
    conv.weight.data.copy_(weight)
    return conv


@pytest.mark.parametrize("kernels, area", [((3,), 3), ((3, 3), 5), ((3, 3, 3), 7), ((7,), 7)], ids=str)
def test_three_3x3_see_what_one_7x7_sees(kernels, area, device):
    """Simonyan, Zisserman 2014, section 2.3: the area is 7x7, and no pixel of it is missed."""
    seen = sees([positive(kernel) for kernel in kernels], device)
    expected = torch.zeros(15, 15, dtype=torch.bool)
    reach = area // 2
    expected[7 - reach : 8 + reach, 7 - reach : 8 + reach] = True
    assert torch.equal(seen, expected)
