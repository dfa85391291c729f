"""Nets with weights that hide no mistake, and torchvision's nets beside ours with the very same ones."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from convatlas import nets

# Every net that torchvision has under the same name: (height, width) of a small input that it takes, not square, which would
# hide that rows and columns were swapped.
TORCHVISION = {
    "alexnet": (64, 79),
    **dict.fromkeys([name for name in nets.names() if name.startswith("vgg")], (32, 65)),
    "googlenet": (33, 47),
    **dict.fromkeys([name for name in nets.names() if name.startswith(("resnet", "resnext", "wide_"))], (33, 20)),
    "squeezenet1_0": (37, 24),
    "squeezenet1_1": (33, 18),
    "mobilenet_v2": (33, 47),
}


def shapes(net: nn.Module) -> dict[str, tuple]:
    """Shape by name in the state_dict."""
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


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Uniform weights of variance 2 / fan_in (He et al. 2015) and biases, and perturb(net)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                limit = sqrt(6 / module.weight[0].numel())
                module.weight.uniform_(-limit, limit, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-0.1, 0.1, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked.zero_()
    return perturb(net, seed)


def torchvision_net(name: str, num_classes: int = 10, **options) -> nn.Module:
    """torchvision's net of that name in eval mode, with no memory or time spent on weights yet: it is on the meta device."""
    from torchvision import models

    if name == "googlenet":
        options = {"aux_logits": False, "init_weights": False, **options}
    with torch.device("meta"):
        return getattr(models, name)(num_classes=num_classes, **options).eval()


def cut(net: nn.Module) -> None:
    """Takes repetitions away, for the interpreter's sake; every different layer stays, but for a VGG's hidden units.

    A stage of a ResNet keeps two blocks, for its others repeat the second; a VGG's hidden layers keep 64 of 4096 units.
    """
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        if hasattr(net, stage):
            setattr(net, stage, getattr(net, stage)[:2])
    if type(net).__name__ == "VGG":
        for i, (inputs, outputs) in {0: (512 * 7 * 7, 64), 3: (64, 64), 6: (64, 10)}.items():
            net.classifier[i] = type(net.classifier[i])(inputs, outputs)


def twins(name: str, whole: bool = True, **options) -> tuple[nn.Module, nn.Module]:
    """(ours, torchvision's) in float64 and eval mode, with 10 classes and the same tensors as weights.

    Args:
        whole: or cut, both alike.
        options: of ours.
    """
    theirs = torchvision_net(name)
    with torch.device("meta"):
        ours = nets.create(name, num_classes=10, **options)
        if not whole:
            cut(ours)
            cut(theirs)
    theirs = randomise(theirs.double().to_empty(device="cpu"))
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return ours.eval(), theirs


def image(height: int, width: int, seed: int = 1, batch: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative_error(y: Tensor, expected: Tensor) -> float:
    """max|y - expected| / max|expected|; NaN for one in either."""
    return float((y.double() - expected).abs().max() / expected.abs().max())
