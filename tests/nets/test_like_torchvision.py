"""Every net that torchvision has: the same state_dict, and with the same weights the same logits, on two backends."""

import copy

import pytest
import torch
from net_cases import TORCHVISION, image, randomise, relative_error, shapes, torchvision_net, twins
from rotation import share
from torch import nn

import convatlas
from convatlas import nets

pytest.importorskip("torchvision.models")

# By the reference all but the large VGGs, whose rows of table differ from vgg11_bn's in repetitions; by the kernels two small nets
# and, by turns, three of all others. (Every net's kinds of layers have tests of their own, and `verify all` runs every net whole.)
LARGE = [name for name in TORCHVISION if name.startswith("vgg") and name != "vgg11_bn"]
FAMILIES = ["resnet18", "squeezenet1_1"]
OTHERS = [name for name in TORCHVISION if name not in FAMILIES]


def test_all_of_torchvisions_nets_are_here():
    from torchvision.models import list_models

    assert set(TORCHVISION) == set(nets.names()) & set(list_models())


@pytest.mark.parametrize("name", TORCHVISION)
def test_state_dict_is_torchvisions(name):
    with torch.device("meta"):
        assert shapes(nets.create(name)) == shapes(torchvision_net(name, 1000))


def test_state_dict_with_auxiliary_heads_is_torchvisions():
    """Those of the file that torchvision publishes."""
    with torch.device("meta"):
        assert shapes(nets.create("googlenet", aux=True)) == shapes(torchvision_net("googlenet", 1000, aux_logits=True))


@pytest.mark.parametrize("name", [*(name for name in TORCHVISION if name not in LARGE), *share(LARGE)])
def test_logits_are_torchvisions(name):
    """float64 on the reference backend."""
    ours, theirs = twins(name)
    x = image(*TORCHVISION[name])
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-12


def test_logits_with_residual_kernels_are_torchvisions():
    ours, theirs = twins("resnet18", fuse_residual=False)
    x = image(40, 33)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-12


@pytest.mark.parametrize("name", [*FAMILIES, *share(OTHERS, 3)])
def test_logits_by_the_kernels_are_torchvisions(name, device):
    """float32 by the Triton kernels against torchvision in float64; without repetitions (`verify all` runs every net whole)."""
    ours, theirs = twins(name, whole=False)
    x = image(*TORCHVISION[name])
    with torch.no_grad():
        expected = theirs(x)
        with convatlas.use_backend("triton"):
            y = ours.float().to(device)(x.float().to(device))
    assert y.dtype == torch.float32 and relative_error(y.cpu(), expected) < 1e-4


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "squeezenet1_0"])
def test_another_size_is_pooled_as_torchvision_does(name):
    """Maps both smaller and larger than the classifier's."""
    ours, theirs = twins(name, whole=False)
    for size in ((70, 300), (224, 224)) if name == "alexnet" else ((47, 260),):
        x = image(*size)
        with torch.no_grad():
            assert relative_error(ours(x), theirs(x)) < 1e-12


def test_training_normalises_by_the_batch_as_torchvision_does():
    ours, theirs = (copy.deepcopy(net) for net in twins("resnet18"))  # what they share would be updated twice
    x = image(33, 33, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    for name, t in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], t, msg=name)


def test_training_googlenet_gives_auxiliary_logits_as_torchvision_does():
    """Dropout off in both, for it is random; in eval mode there are none."""
    theirs = torchvision_net("googlenet", aux_logits=True).double().to_empty(device="cpu")
    ours = nets.create("googlenet", num_classes=10, aux=True).double()
    ours.load_state_dict(randomise(theirs).state_dict())
    for net in (ours, theirs):
        net.train()
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    x = image(64, 48, batch=2)
    with torch.no_grad():
        y, expected = ours(x), theirs(x)
    assert y._fields == expected._fields
    for name in y._fields:
        assert relative_error(getattr(y, name), getattr(expected, name)) < 1e-10, name
    with torch.no_grad():
        assert ours.eval()(x).shape == (2, 10)
    assert relative_error(ours.conv1.bn.running_mean, theirs.conv1.bn.running_mean) < 1e-10
