"""ResNeXt: parallel paths, written as one grouped convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convatlas.nets.resnet import CONFIGS, Bottleneck
from convatlas.nets.resnext_paths import ParallelBottleneck
from convatlas.ops.backends import use_backend
from convatlas.study.lecture import tables
from convatlas.study.lecture.atlas import Atlas
from convatlas.study.lecture.claim import Claim, Finding, Number, Table, Topic, Unanswered, parameter_counts

NET = "resnext50_32x4d"
CHANNELS, WIDTH, SIZE = 256, 64, 56  # of a block of the first stage
AGREE = 1e-12  # of the largest output, in float64: a few hundred roundings

ABOUT = """
A bottleneck whose middle is split into parallel **paths**, like an Inception module, but all of one shape: 32 paths of 4
channels in `resnext50_32x4d`. Summing what 32 little bottlenecks give is the same function as *one* bottleneck whose 3x3
convolution has 32 groups. The second form is what everybody runs: three kernels in place of a hundred. More paths at the same
cost, says the paper, help more than more depth or width.

On a GPU, 4 channels a group are too few to fill a tensor core's matrix: this project's kernel packs the weights of several
groups into one block-diagonal matrix.
"""

DIAGRAM = """
flowchart TB
  subgraph paths["parallel paths"]
    x1["x, 256"] --> a1["1x1, 4"] --> a2["3x3, 4"] --> a3["1x1, 256"] --> p1(("+"))
    x1 --> b1["1x1, 4"] --> b2["3x3, 4"] --> b3["1x1, 256"] --> p1
    x1 --> c1["... 32 in all"] --> p1
    x1 -- "identity" --> p1
  end
  subgraph grouped["the same, grouped"]
    x2["x, 256"] --> d1["1x1, 128"] --> d2["3x3, 128<br>32 groups"] --> d3["1x1, 256"] --> p2(("+"))
    x2 -- "identity" --> p2
  end
"""


def block() -> Bottleneck:
    """A block of the first stage, in float64, weights and batch norms random but the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        made = Bottleneck(CHANNELS, WIDTH, 1, CONFIGS[NET], fuse_residual=True).double().eval()
        for bn in (made.bn1, made.bn2, made.bn3):
            for tensor in (bn.weight.data, bn.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (bn.bias.data, bn.running_mean):
                tensor.normal_(std=0.1)
    return made


def outputs(module: nn.Module) -> Tensor:
    """The block's output for a small map of random numbers, by the float64 reference."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, CHANNELS, 7, 7, generator=generator, dtype=torch.float64)
    with torch.no_grad(), use_backend("numpy"):
        return module(x.contiguous(memory_format=torch.channels_last))


def parallel(atlas: Atlas) -> Finding:
    grouped = block()
    split = ParallelBottleneck(grouped).eval()
    y, expected = outputs(split), outputs(grouped)
    agreeing = int(((y - expected).abs() <= AGREE * expected.abs().max()).sum())
    shape = (1, CHANNELS, SIZE, SIZE)
    whole = atlas.block(f"a block of {NET}, grouped", grouped, shape)
    parts = atlas.block(f"a block of {NET}, parallel paths", split, shape)
    return Finding(
        (
            Number(f"outputs that agree to {AGREE:g} of the largest", agreeing, expected.numel()),
            Number("parallel paths", len(split.paths), CONFIGS[NET].groups),
            Number("parameters, grouped", whole.parameters, parts.parameters),
            Number("MACs, grouped", whole.macs, parts.macs),
            Number("kernels, grouped", len(whole.rows)),
            Number("kernels, parallel paths", len(parts.rows)),
            Number("bytes, grouped", whole.bytes, unit="B"),
            Number("bytes, parallel paths", parts.bytes, unit="B"),
        ),
        "one block of the first stage, the same weights in both forms, by the float64 reference; claimed for the grouped form: "
        f"what the parallel one has; bytes on {SIZE}x{SIZE} pixels, float16",
    )


def same_cost(atlas: Atlas) -> Finding:
    new, old = atlas.summary(NET), atlas.summary("resnet50")
    return Finding(
        (
            Number("resnext50's parameters to resnet50's", new.parameters / old.parameters, 1),
            Number("MACs", new.macs / old.macs, 1),
            Number("activations", new.activations / old.activations),
            Number("MACs in 3x3, resnext50", new.share("3x3"), unit="%"),
            Number("MACs in 3x3, resnet50", old.share("3x3"), unit="%"),
        ),
        "whole networks, 1000 classes, one image",
    )


def shown(atlas: Atlas) -> tuple[Table, ...]:
    return tables.family(atlas, (*TOPIC.nets, "resnet50", "resnet101")), tables.stages(atlas, NET)


TOPIC = Topic(
    "resnext",
    "ResNeXt (2016)",
    (NET, "resnext101_32x8d", "resnext101_64x4d"),
    ABOUT,
    DIAGRAM,
    (
        Claim("parallel paths, like inception: the grouped form equals them", parallel),
        Claim("the complexity of ResNet-50 is kept", same_cost, "Xie et al. 2016, section 4"),
        parameter_counts("number of parameters", {NET: 25_028_904, "resnext101_32x8d": 88_791_336}),
    ),
    (Unanswered("more paths help more than more depth or width", "training and ImageNet"),),
    shown,
)
