"""ResNeXt with its parallel paths written out: figure 3(a) of Xie et al. 2016, which the grouped form, figure 3(c), equals.

    y = relu(bn(sum over paths p of W3_p * relu(bn(W2_p * relu(bn(W1_p * x))))) + shortcut(x))

The sum over the paths' last convolutions is one convolution over the channels of all paths. The second convolutions, each of which
reads its own path only, are one grouped convolution. The batch norm stands behind the sum, as the paper has it (section 4).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from convatlas.errors import NetError
from convatlas.nets.layers import BatchNorm2d, Conv2d
from convatlas.nets.resnet import Block, Bottleneck, ResNet


class Path(nn.Module):
    """1x1 down, 3x3, 1x1 up: all that one path does, on its few channels."""

    def __init__(self, block: Bottleneck, part: slice) -> None:
        super().__init__()
        self.conv1 = _conv(block.conv1, block.conv1.weight[part])
        self.bn1 = _batch_norm(nn.BatchNorm2d, block.bn1, part)
        self.conv2 = _conv(block.conv2, block.conv2.weight[part])
        self.bn2 = _batch_norm(nn.BatchNorm2d, block.bn2, part)
        self.conv3 = _conv(block.conv3, block.conv3.weight[:, part])

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        """This path's output, added to the sum of those before it."""
        y = self.conv1(x, self.bn1, "relu")
        y = self.conv2(y, self.bn2, "relu")
        return self.conv3(y, residual=before)


class ParallelBottleneck(Block):
    """A grouped Bottleneck taken apart, with its weights."""

    def __init__(self, block: Bottleneck) -> None:
        C, K, paths = block.conv1.in_channels, block.conv3.out_channels, block.conv2.groups
        super().__init__(C, K, block.conv2.stride[0], shortcuts=True, fuse_residual=False)
        self.downsample = block.downsample
        width = block.conv2.in_channels // paths
        self.paths = nn.ModuleList(Path(block, slice(p * width, (p + 1) * width)) for p in range(paths))
        self.bn3 = _batch_norm(BatchNorm2d, block.bn3, slice(None))

    def forward(self, x: Tensor) -> Tensor:
        total = None
        for path in self.paths:
            total = path(x, total)
        return self.add(self.bn3(total), self.shortcut(x), "relu")


def parallel_paths(net: ResNet) -> ResNet:
    """A copy of a ResNeXt, its weights in parallel paths: the same function, in many small kernels.

    Raises NetError for a net without grouped bottlenecks.
    """
    net = copy.deepcopy(net)
    grouped = [(name, m) for name, m in net.named_modules() if isinstance(m, Bottleneck) and m.conv2.groups > 1]
    if not grouped:
        raise NetError(f"parallel_paths: {type(net).__name__} without grouped bottlenecks, expected a ResNeXt")
    for name, block in grouped:
        parent, _, child = name.rpartition(".")
        net.get_submodule(parent)[int(child)] = ParallelBottleneck(block).train(block.training)
    return net


def _conv(like: Conv2d, weight: Tensor) -> Conv2d:
    """A convolution of `weight` alone, in one group, with the stride and the padding of `like`."""
    conv = Conv2d(weight.shape[1], weight.shape[0], like.kernel_size, like.stride, like.padding, bias=False)
    conv.weight = nn.Parameter(weight.detach().clone(memory_format=torch.channels_last), like.weight.requires_grad)
    return conv


def _batch_norm(kind: type[nn.BatchNorm2d], like: nn.BatchNorm2d, part: slice) -> nn.BatchNorm2d:
    """The channels `part` of a batch norm."""
    state = {name: t if t.dim() == 0 else t[part] for name, t in like.state_dict().items()}
    bn = kind(len(state["running_mean"]), like.eps, like.momentum).to(like.weight)
    bn.load_state_dict(state)
    return bn
