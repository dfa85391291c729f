"""The nets that torchvision lacks, written out once more with torch.nn.functional, on the same parameters, in float64."""

import pytest
import torch
import torch.nn.functional as F
from net_cases import image, perturb, randomise, relative_error
from rotation import share
from torch import Tensor, nn

import convatlas
from convatlas import nets


def net_and_weights(name: str, **options) -> tuple[nn.Module, dict[str, Tensor]]:
    net = randomise(nets.create(name, num_classes=7, seed=0, **options)).double()
    return net, net.state_dict()


def conv(x: Tensor, w: dict[str, Tensor], name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride, padding, 1, groups)


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return F.batch_norm(x, *(w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def linear(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


def response_norm_of_the_paper(x: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """Krizhevsky et al. 2012, section 3.3: b_i = a_i / (k + alpha * sum of a_j^2 over n channels around i)^beta."""
    y = torch.empty_like(x)
    for i in range(x.shape[1]):
        around = x[:, max(0, i - n // 2) : i + n // 2 + 1]
        y[:, i] = x[:, i] / (k + alpha * around.square().sum(1)) ** beta
    return y


def alexnet_2012(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    def normalised(y: Tensor) -> Tensor:
        return F.max_pool2d(response_norm_of_the_paper(y, 5, 2.0, 1e-4, 0.75), 3, 2)

    x = normalised(conv(x, w, "features.0", 4).relu())
    x = normalised(conv(x, w, "features.4", 1, 2, 2).relu())
    x = conv(x, w, "features.8", 1, 1).relu()
    x = conv(x, w, "features.10", 1, 1, 2).relu()
    x = F.max_pool2d(conv(x, w, "features.12", 1, 1, 2).relu(), 3, 2)
    x = linear(x.flatten(1), w, "classifier.1").relu()
    return linear(linear(x, w, "classifier.4").relu(), w, "classifier.6")


def googlenet_2014(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    def inception(y: Tensor, name: str) -> Tensor:
        def branch(z: Tensor, *convolutions: str) -> Tensor:
            for convolution in convolutions:
                size = w[f"{name}.{convolution}.conv.weight"].shape[-1]
                z = conv(z, w, f"{name}.{convolution}.conv", padding=size // 2).relu()
            return z

        return torch.cat(
            [
                branch(y, "branch1"),
                branch(y, "branch2.0", "branch2.1"),
                branch(y, "branch3.0", "branch3.1"),
                branch(F.max_pool2d(y, 3, 1, 1), "branch4.1"),
            ],
            1,
        )

    assert w["inception3a.branch3.1.conv.weight"].shape[-2:] == (5, 5)
    x = F.local_response_norm(pool(conv(x, w, "conv1.conv", 2, 3).relu()), 5)
    x = conv(conv(x, w, "conv2.conv").relu(), w, "conv3.conv", 1, 1).relu()
    x = pool(F.local_response_norm(x, 5))
    for stage, letters in (("3", "ab"), ("4", "abcde"), ("5", "ab")):
        for letter in letters:
            x = inception(x, f"inception{stage}{letter}")
        x = pool(x) if stage != "5" else x
    return linear(x.mean((2, 3)), w, "fc")


def nin(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    for block, (first, stride, padding) in enumerate(((0, 4, 0), (7, 1, 2), (14, 1, 1), (22, 1, 1))):
        x = pool(x) if block else x
        x = conv(x, w, f"features.{first}", stride, padding).relu()
        x = conv(conv(x, w, f"features.{first + 2}").relu(), w, f"features.{first + 4}").relu()
    return x.mean((2, 3))


def plain18(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    x = F.max_pool2d(norm(conv(x, w, "conv1", 2, 3), w, "bn1").relu(), 3, 2, 1)
    for stage in range(1, 5):
        for block in range(2):
            for layer in (1, 2):
                stride = 2 if stage > 1 and block == 0 and layer == 1 else 1
                name = f"layer{stage}.{block}"
                x = norm(conv(x, w, f"{name}.conv{layer}", stride, 1), w, f"{name}.bn{layer}").relu()
    return linear(x.mean((2, 3)), w, "fc")


def wrn_28_10(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    x = conv(x, w, "conv1", padding=1)
    for group in range(1, 4):
        for block in range(4):
            name, stride = f"group{group}.{block}", 2 if group > 1 and block == 0 else 1
            y = norm(x, w, f"{name}.bn1").relu()
            x = conv(y, w, f"{name}.shortcut", stride) if block == 0 else x
            y = norm(conv(y, w, f"{name}.conv1", stride, 1), w, f"{name}.bn2").relu()
            x = x + conv(y, w, f"{name}.conv2", padding=1)
    return linear(norm(x, w, "bn").relu().mean((2, 3)), w, "fc")


def mobilenet_v1(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    x = norm(conv(x, w, "features.0.0", 2, 1), w, "features.0.1").relu()
    for layer, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)):
        depthwise, pointwise = f"features.{2 * layer + 1}", f"features.{2 * layer + 2}"
        x = norm(conv(x, w, f"{depthwise}.0", stride, 1, x.shape[1]), w, f"{depthwise}.1").relu()
        x = norm(conv(x, w, f"{pointwise}.0"), w, f"{pointwise}.1").relu()
    return linear(x.mean((2, 3)), w, "classifier.1")


DEFINITIONS = {
    alexnet_2012: (227, 231),
    googlenet_2014: (33, 47),
    nin: (67, 50),
    plain18: (33, 20),
    wrn_28_10: (9, 6),
    mobilenet_v1: (33, 47),
}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.__name__)
def test_a_net_is_its_definition(definition):
    net, weights = net_and_weights(definition.__name__)
    x = image(*DEFINITIONS[definition])
    with torch.no_grad():
        assert relative_error(net(x), definition(x, weights)) < 1e-12


@pytest.mark.parametrize("definition", share([*DEFINITIONS], 2), ids=lambda definition: definition.__name__)
def test_a_net_by_the_kernels_is_its_definition(definition, device):
    """float32 by the Triton kernels."""
    net, weights = net_and_weights(definition.__name__)
    x = image(*DEFINITIONS[definition])
    with torch.no_grad():
        expected = definition(x, weights)
        with convatlas.use_backend("triton"):
            y = net.float().to(device)(x.float().to(device))
    assert relative_error(y.cpu(), expected) < 1e-4


def test_googlenet_2014_in_training_has_the_papers_heads():
    """Section 5: average pooling 5x5/3 to 4x4, 1x1 convolution of 128, 1024 units, logits. Only 14x14 maps fit them."""
    net, w = net_and_weights("googlenet_2014", aux=True)
    for module in net.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    seen = {}
    net.inception4a.register_forward_hook(lambda module, args, y: seen.update(aux1=y))
    net.inception4d.register_forward_hook(lambda module, args, y: seen.update(aux2=y))
    with torch.no_grad():
        y = net(image(224, 223))
        for name, logits in (("aux1", y.aux_logits1), ("aux2", y.aux_logits2)):
            z = conv(F.avg_pool2d(seen[name], 5, 3), w, f"{name}.conv.conv").relu().flatten(1)
            assert z.shape == (1, 2048)
            expected = linear(linear(z, w, f"{name}.fc1").relu(), w, f"{name}.fc2")
            assert relative_error(logits, expected) < 1e-12
    assert y.logits.shape == (1, 7)


def test_efficientnet_lite0():
    """TensorFlow's SAME padding, relu6, batch norms of eps 1e-3, no squeeze-excite."""
    net = perturb(nets.create("efficientnet_lite0", num_classes=7, seed=0)).double()
    x = image(65, 50)

    def same(y: Tensor, conv: nn.Module, bn: nn.Module, relu6: bool = True) -> Tensor:
        pads = []
        for axis in (-1, -2):
            size, k, s = y.shape[axis], conv.kernel_size[axis], conv.stride[axis]
            total = max((-(-size // s) - 1) * s + k - size, 0)
            pads += [total // 2, total - total // 2]
        y = bn(F.conv2d(F.pad(y, pads), conv.weight, None, conv.stride, groups=conv.groups))
        return F.relu6(y) if relu6 else y

    with torch.no_grad():
        y = same(x, net._conv_stem, net._bn0)
        for block in net._blocks:
            z = same(y, block._expand_conv, block._bn0) if block._expand_conv is not None else y
            z = same(z, block._depthwise_conv, block._bn1)
            z = same(z, block._project_conv, block._bn2, relu6=False)
            y = y + z if y.shape == z.shape else z
        y = same(y, net._conv_head, net._bn1).mean((2, 3))
        assert relative_error(net(x), net._fc(y)) < 1e-12
    assert net._bn0.eps == 1e-3
